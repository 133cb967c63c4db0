"""Files that must not become images: each is refused, says why, and leaves nothing."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from bmi.api.intake import Format
from bmi.api.operations import Ending, OperationState
from bmi.run import run
from bmi.sandbox import FOLDER
from tests.integration.images.disks import (
    MIB,
    converted,
    cut,
    packed,
    patched,
    raw_disk,
    resealed,
    with_metadata,
    zeros,
)
from tests.integration.images.site import Site

Make = Callable[[Path], Path]

BE32, BE64 = struct.Struct(">I"), struct.Struct(">Q")
LE32, LE64 = struct.Struct("<I"), struct.Struct("<Q")

PARENT = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le


def _disk(folder: Path) -> Path:
    return raw_disk(folder / "disk.raw", 8 * MIB)


def _image(format: str, *options: str) -> Make:
    return lambda folder: converted(_disk(folder), format, folder / f"made.{format}", *options)


def _patched(make: Make, *patches: tuple[int, bytes]) -> Make:
    return lambda folder: patched(make(folder), folder / "patched", *patches)


def _cut(make: Make, keep: Callable[[int], int]) -> Make:
    def made(folder: Path) -> Path:
        whole = make(folder)
        return cut(whole, folder / "cut", keep(whole.stat().st_size))

    return made


def _written(data: bytes) -> Make:
    def made(folder: Path) -> Path:
        path = folder / "written"
        path.write_bytes(data)
        return path

    return made


def _backing(name: str) -> Make:
    def made(folder: Path) -> Path:
        path = folder / "overlay.qcow2"
        run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, path, "8M"])
        return path

    return made


def _data_file(folder: Path) -> Path:
    path = folder / "external.qcow2"
    data = folder / "external.data"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", path, "8M"])
    return path


def _encrypted(folder: Path) -> Path:
    path = folder / "encrypted.qcow2"
    # Not LUKS: to make it qemu-img measures the processor, which fails where its clock is coarse.
    options = "encrypt.format=aes,encrypt.key-secret=k"
    secret = ["--object", "secret,id=k,data=x"]
    run(["qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, path, "8M"])
    return path


def _snapshot(folder: Path) -> Path:
    path = _image("qcow2")(folder)
    run(["qemu-img", "snapshot", "-c", "before", path])
    return path


def _differing_vdi(folder: Path) -> Path:
    return patched(_image("vdi")(folder), folder / "differing", (76, LE32.pack(4)), (440, b"p" * 16))


def _described_vmdk(folder: Path) -> Path:
    path = folder / "described.vmdk"
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        'RW 16384 FLAT "/etc/shadow" 0\n'
    )
    return path


def _vmdk_text(old: bytes, new: bytes) -> Make:
    """Change the descriptor inside a VMDK image, at its length."""

    def made(folder: Path) -> Path:
        data = _image("vmdk")(folder).read_bytes()
        assert old in data
        path = folder / "changed.vmdk"
        path.write_bytes(data.replace(old, new.ljust(len(old))))
        return path

    return made


def _vmdk_without_size(folder: Path) -> Path:
    """QEMU takes the descriptor of such a one for a list of files to open."""
    data = bytearray(_image("vmdk")(folder).read_bytes())
    data[12:20] = LE64.pack(0)
    text = b'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    text += b'RW 16384 FLAT "/etc/shadow" 0\n'
    data[512 : 512 + len(text)] = text
    path = folder / "sizeless.vmdk"
    path.write_bytes(data)
    return path


def _vhdx_parent_flag(folder: Path) -> Path:
    def change(table: bytearray) -> None:
        entry = table.index(PARAMETERS)
        (place,) = struct.unpack_from("<I", table, entry + 16)
        struct.pack_into("<I", table, place + 4, 2)

    return with_metadata(_image("vhdx")(folder), folder / "child.vhdx", change)


def _vhdx_parent_locator(folder: Path) -> Path:
    def change(table: bytearray) -> None:
        entry = table.index(UUID("cda348c7-445d-4471-9cc9-e9885251c556").bytes_le)
        table[entry : entry + 16] = PARENT

    return with_metadata(_image("vhdx")(folder), folder / "child.vhdx", change)


def _vhdx_log(folder: Path) -> Path:
    data = bytearray(_image("vhdx")(folder).read_bytes())
    for place in (64 << 10, 128 << 10):
        header = bytearray(data[place : place + 4096])
        header[48:64] = b"L" * 16
        data[place : place + 4096] = resealed(bytes(header))
    path = folder / "open.vhdx"
    path.write_bytes(data)
    return path


def _polyglot(folder: Path) -> Path:
    """A qcow2 image with a host's file behind it, that has a boot signature where a raw disk has it."""
    return patched(_backing("/etc/passwd")(folder), folder / "polyglot", (510, b"\x55\xaa"))


def _nested(folder: Path) -> Path:
    return packed(packed(_disk(folder), "xz", folder / "once.xz"), "gz", folder / "twice.xz.gz")


def _packed(how: str, make: Make = _disk) -> Make:
    return lambda folder: packed(make(folder), how, folder / f"packed.{how}")


def _with_garbage(make: Make) -> Make:
    def made(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes() + b"and something else entirely")
        return path

    return made


def _last_byte_changed(make: Make) -> Make:
    """Change what tells how long the content is; the content itself is whole."""

    def made(folder: Path) -> Path:
        path = make(folder)
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return path

    return made


def _wide_zstd(folder: Path) -> Path:
    path = folder / "wide.zst"
    with _disk(folder).open("rb") as file:
        path.write_bytes(_zstd_long(file.read()))
    return path


def _zstd_long(data: bytes) -> bytes:
    from backports import zstd

    options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    return packer.compress(data) + packer.flush()


def _hungry_xz(folder: Path) -> Path:
    """An xz file whose header asks for 1.5 GiB of memory."""
    import lzma

    path = folder / "hungry.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 64 << 20, "preset": 0}]
    data = bytearray(lzma.compress(b"\0" * MIB, filters=filters, check=lzma.CHECK_NONE))
    # Block header: size, flags, filter id, size of its properties, dictionary size, padding, CRC-32.
    import zlib

    assert data[14:16] == b"\x21\x01"
    data[16] = 40  # 4 GiB - 1
    length = (data[12] + 1) * 4
    data[12 + length - 4 : 12 + length] = LE32.pack(zlib.crc32(bytes(data[12 : 12 + length - 4])))
    path.write_bytes(data)
    return path


def _broken_l2(folder: Path) -> Path:
    """A qcow2 image of which a cluster is said to lie far beyond its end."""
    data = bytearray(_image("qcow2")(folder).read_bytes())
    (l1,) = BE64.unpack_from(data, 40)
    (l2,) = BE64.unpack_from(data, l1)
    place = l2 & 0x00FFFFFFFFFFFE00
    entry = next(n for n in range(place, place + 65536, 8) if BE64.unpack_from(data, n)[0])
    BE64.pack_into(data, entry, (1 << 63) | (1 << 40))
    path = folder / "broken.qcow2"
    path.write_bytes(data)
    return path


QCOW2, VMDK, VDI, VHDX = _image("qcow2"), _image("vmdk"), _image("vdi"), _image("vhdx")
STREAM = _image("vmdk", "-o", "subformat=streamOptimized")

# name, how it is made, what is declared, what is said
HOSTILE: list[tuple[str, Make, Format | None, str]] = [
    ("empty", _written(b"x"), None, "no header of a known image and no partition table"),
    ("text", _written(b"hello " * 2000), None, "no header of a known image and no partition table"),
    ("odd size", _written(b"x" * 700), Format.RAW, "no multiple of 512"),
    ("qcow2 over a host's file", _backing("/etc/passwd"), None, "with a backing file"),
    ("qcow2 over a file of the spool", _backing("../../../secret.key"), None, "with a backing file"),
    ("qcow2 over json", _backing('json:{"driver":"file","filename":"/etc/shadow"}'), None, "a backing file"),
    ("qcow2 over a server", _backing("nbd://127.0.0.1:10809/x"), None, "with a backing file"),
    ("qcow2 with a data file", _data_file, None, "whose data lies in another file"),
    ("qcow2 encrypted", _encrypted, None, "an encrypted qcow2 image"),
    ("qcow2 with a snapshot", _snapshot, None, "1 internal snapshots"),
    ("qcow2 of the future", _patched(QCOW2, (4, BE32.pack(9))), None, "of version 9"),
    ("qcow2 with unknown features", _patched(QCOW2, (72, BE64.pack(1 << 40))), None,
     "features that nobody knows"),
    ("qcow2 corrupt", _patched(QCOW2, (72, BE64.pack(2))), None, "marked corrupt"),
    ("qcow2 not closed", _patched(QCOW2, (72, BE64.pack(1))), None, "was not closed"),
    ("qcow2 huge clusters", _patched(QCOW2, (20, BE32.pack(60))), None, "clusters of 2^60 bytes"),
    ("qcow2 of 8 EiB", _patched(QCOW2, (24, BE64.pack(1 << 63))), None,
     "holds a disk of 9223372036854775808"),
    ("qcow2 of nothing", _patched(QCOW2, (24, BE64.pack(0))), None, "a disk of 0 bytes"),
    ("qcow2 with a huge L1", _patched(QCOW2, (36, BE32.pack(1 << 30))), None, "L1 table of 8589934592 bytes"),
    ("qcow2 without L1", _patched(QCOW2, (36, BE32.pack(0))), None, "L1 table of 0 entries"),
    ("qcow2 L1 beyond the end", _patched(QCOW2, (40, BE64.pack(1 << 50))), None,
     "L1 table would end at byte"),
    ("qcow2 L1 overflow", _patched(QCOW2, (40, BE64.pack((1 << 64) - 65536))), None,
     "would end at byte 18446"),
    ("qcow2 refcounts off", _patched(QCOW2, (48, BE64.pack(77))), None, "does not begin at a cluster"),
    ("qcow2 header too long", _patched(QCOW2, (100, BE32.pack(1 << 31))), None, "header of 2147483648 bytes"),
    ("qcow2 extension too long", _patched(QCOW2, (116, BE32.pack(1 << 30))), None, "larger than its header"),
    ("qcow2 cluster beyond the end", _broken_l2, None, "cannot be read as the image that it seems to be"),
    ("qcow2 cut in the header", _cut(QCOW2, lambda size: 90), None, "qcow2 header would end at byte 104"),
    ("qcow2 cut in its data", _cut(QCOW2, lambda size: size - 3 * 65536), None,
     "cannot be read as the image"),
    ("vmdk description of a host's file", _described_vmdk, None, "only the description of a VMDK image"),
    ("vmdk without size", _vmdk_without_size, None, "of no size, which would name other files"),
    ("vmdk with a parent", _vmdk_text(b"parentCID=ffffffff", b"parentCID=12345678"), None,
     "VMDK image with a parent"),
    ("vmdk with a parent's name", _vmdk_text(b"# The Disk Data Base", b'parentFileNameHint=x'), None,
     "with a parent"),
    ("vmdk of another type", _vmdk_text(b'"monolithicSparse"', b'"twoGbMaxExtentFlat"'[:18]), None,
     "of the type"),
    ("vmdk of two files", _vmdk_text(b'SPARSE "made.vmdk"', b'FLAT "/etc/passwd"'), None,
     "names other files"),
    ("vmdk damaged as text", _patched(VMDK, (73, b"\n\n\n\n")), None, "damaged by a transfer as text"),
    ("vmdk directory beyond the end", _patched(VMDK, (56, LE64.pack(1 << 40))), None,
     "grain directory would end"),
    ("vmdk cut", _cut(VMDK, lambda size: size - 2 * 65536), None, "cannot be read as the image"),
    ("vmdk stream cut", _cut(STREAM, lambda size: size // 2), None, "cannot be read as the image"),
    ("vdi differing", _differing_vdi, None, "a differencing VDI image"),
    ("vdi with odd blocks", _patched(VDI, (376, LE32.pack(3))), None, "VDI sectors of 512 and blocks of 3"),
    ("vdi with too many blocks", _patched(VDI, (384, LE32.pack(1 << 31))), None, "2147483648 VDI blocks"),
    ("vdi cut", _cut(VDI, lambda size: size - MIB), None, "last VDI block would end"),
    ("vdi used twice", _patched(VDI, (512 + 4, LE32.pack(0))), None, "VDI blocks that lie at the same place"),
    ("vhdx with a parent", _vhdx_parent_flag, None, "a VHDX image with a parent"),
    ("vhdx with a parent locator", _vhdx_parent_locator, None, "a VHDX image with a parent"),
    ("vhdx not closed", _vhdx_log, None, "a VHDX image that was not closed"),
    ("vhdx without headers", _patched(VHDX, (65536, bytes(4)), (131072, bytes(4))), None,
     "no valid VHDX header"),
    ("vhdx with a bad checksum", _patched(VHDX, (196608 + 20, b"\xff")), None, "no valid VHDX region table"),
    ("vhdx cut", _cut(VHDX, lambda size: 100_000), None, "VHDX header would end"),
    ("gzip bomb", lambda folder: zeros(folder / "bomb.gz", "gz", 1100 * MIB), None, "unpacks to more than"),
    ("xz bomb", lambda folder: zeros(folder / "bomb.xz", "xz", 1100 * MIB), None, "more than 2000 for each"),
    ("zstd bomb", lambda folder: zeros(folder / "bomb.zst", "zst", 1100 * MIB), None, "more than 2000 for each"),
    ("zstd with a wide window", _wide_zstd, None, "needs more memory to be unpacked than zst"),
    ("xz that needs memory", _hungry_xz, None, "needs more memory to be unpacked than xz"),
    ("gzip cut", _cut(_packed("gz"), lambda size: size // 2), None, "middle of its gz stream"),
    ("xz cut", _cut(_packed("xz"), lambda size: size // 2), None, "middle of its xz stream"),
    ("zstd cut", _cut(_packed("zst"), lambda size: size // 2), None, "middle of its zst stream"),
    ("gzip with garbage", _with_garbage(_packed("gz")), None, "something else behind its gz stream"),
    ("xz with garbage", _with_garbage(_packed("xz")), None, "something else behind its xz stream"),
    ("zstd with garbage", _with_garbage(_packed("zst")), None, "something else behind its zst stream"),
    ("gzip damaged", _last_byte_changed(_packed("gz")), None, "its gz stream cannot be read"),
    ("compressed twice", _nested, None, "compressed with xz twice"),
    ("compressed qcow2 over a host's file", _packed("gz", _backing("/etc/passwd")), None,
     "with a backing file"),
    ("declared raw, is qcow2", QCOW2, Format.RAW, "was declared raw and begins as a qcow2 image"),
    ("raw and qcow2 at once", _polyglot, Format.RAW, "was declared raw and begins as a qcow2 image"),
    ("declared vmdk, is vdi", VDI, Format.VMDK, "was declared vmdk and is vdi"),
    ("declared qcow2, is nothing", _disk, Format.QCOW2, "does not begin as a qcow2 image"),
    ("vhd", _image("vpc"), None, "is a VHD image"),
    ("zip", _written(b"PK\x03\x04" + bytes(1020)), None, "is a ZIP archive"),
]  # fmt: skip


def _host() -> dict[str, object]:
    """What hostile images would like to read or change, and what must not stay behind."""
    files = [Path("/etc/passwd"), Path("/etc/shadow")]
    running = run(["ps", "-eo", "args"]).splitlines()
    return {
        "files": {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files},
        "programs": [line for line in running if f"{FOLDER}/source" in line],
    }


@pytest.fixture(scope="module", autouse=True)
def untouched_host(site: Site) -> Iterator[None]:
    before = _host()
    yield
    assert _host() == before
    assert before["programs"] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


def refused(site: Site, path: Path, declared: Format | None) -> str:
    """Hand a file in, insist that it is refused and that nothing of it is left, and return what was said."""
    found = site.bring(path, "hostile", format=declared)
    assert (found.state, found.ending) == (OperationState.FAILED, Ending.UNDONE), found
    assert found.error is not None
    assert found.error.code == "image-invalid", found.error
    assert found.error.next_step
    for upload in site.bmi.uploads.list():  # kept, so that it can be tried again
        site.bmi.uploads.delete(upload.id)
    assert site.left() == []
    return found.error.detail


@pytest.mark.parametrize(
    ("make", "declared", "said"), [case[1:] for case in HOSTILE], ids=[c[0] for c in HOSTILE]
)
def test_it_is_refused_with_its_own_message_and_nothing_is_left(
    site: Site, folder: Path, make: Make, declared: Format | None, said: str
) -> None:
    assert said in refused(site, make(folder), declared)
