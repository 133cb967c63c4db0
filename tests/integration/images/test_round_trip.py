"""What comes in goes out again, bit for bit, in every format and compression."""

import hashlib
import json
import os
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bmi.api.intake import Format, UploadCreate
from bmi.api.operations import OperationState
from bmi.run import run
from tests.integration.images.disks import (
    COMPRESSIONS,
    FORMATS,
    SIZE,
    converted,
    packed,
    raw_disk,
)
from tests.integration.images.site import Site


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_disk(tmp_path_factory.mktemp("raw") / "disk.raw")


def must(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def same(raw: Path, format: str, other: Path) -> None:
    run(["qemu-img", "compare", "-f", "raw", "-F", format, raw, other])
    told = json.loads(run(["qemu-img", "info", "-f", format, "--output=json", other]))
    assert told["virtual-size"] == raw.stat().st_size


@pytest.mark.parametrize("how", COMPRESSIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_comes_in_and_goes_out_bit_for_bit(
    site: Site, raw: Path, tmp_path: Path, format: str, how: str
) -> None:
    image = converted(raw, format, tmp_path / f"disk.{format}")
    given = packed(image, how, tmp_path / f"disk.{format}.{how}") if how else image
    assert site.bring(given, "disk", again=True).state is OperationState.SUCCEEDED
    shown = site.bmi.images.get("disk")
    assert (shown.state, shown.size, shown.origin) == ("ready", SIZE, "import")
    for wanted in (Format.RAW, Format.QCOW2):
        same(raw, wanted, site.fetch("disk", tmp_path / f"out.{wanted}", format=wanted))
    site.forget("disk")


def test_subformats_that_other_programs_write(site: Site, raw: Path, tmp_path: Path) -> None:
    kinds = {
        "old.qcow2": ("qcow2", "-o", "compat=0.10"),
        "zstd.qcow2": ("qcow2", "-c", "-o", "compression_type=zstd,extended_l2=on,cluster_size=1M"),
        "small.qcow2": ("qcow2", "-o", "cluster_size=512"),
        "stream.vmdk": ("vmdk", "-o", "subformat=streamOptimized"),
        "fixed.vdi": ("vdi", "-o", "static=on"),
        "fixed.vhdx": ("vhdx", "-o", "subformat=fixed"),
    }
    for name, (format, *options) in kinds.items():
        image = converted(raw, format, tmp_path / name, *options)
        assert site.bring(image, name, again=True).state is OperationState.SUCCEEDED, name
        same(raw, "raw", site.fetch(name, tmp_path / f"{name}.raw"))
        site.forget(name)


def test_streams_in_and_out(site: Site, raw: Path, tmp_path: Path) -> None:
    with raw.open("rb") as file:
        must(site.command("image", "import", "-", "--name", "piped", "--format", "raw", stdin=file))
    out = must(site.command("image", "export", "piped", "-"))
    assert hashlib.sha256(out).digest() == hashlib.sha256(raw.read_bytes()).digest()
    site.forget("piped")


def test_a_file_from_the_web(site: Site, raw: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(raw.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/disk.raw?signature=secret"
        must(site.command("image", "import", url, "--name", "web", "--digest", digest))
        wrong = site.command("image", "import", url, "--name", "bad", "--digest", "0" * 64, "--again")
        web.shutdown()
    assert wrong.returncode == 1
    assert b"has the digest sha256:" in wrong.stderr
    for operation in site.bmi.operations.list():
        assert "secret" not in operation.model_dump_json()
    site.forget("web")


def test_a_content_that_is_there_is_not_stored_twice(site: Site, raw: Path, tmp_path: Path) -> None:
    must(site.command("image", "import", str(raw), "--name", "first"))
    twice = site.command("image", "import", str(raw), "--name", "second")
    assert (
        b"image first has this content already; use that one, or store a second copy with --again"
        in twice.stderr
    )
    # The same disk in another file is only found out once it is converted.
    other = site.command("image", "import", str(converted(raw, "vdi", tmp_path / "x.vdi")), "--name", "third")
    assert b"image first has this content already" in other.stderr
    must(site.command("image", "import", str(raw), "--name", "fourth", "--again"))
    assert sorted(image.name for image in site.bmi.images.list()) == ["first", "fourth"]
    for upload in site.bmi.uploads.list():
        site.bmi.uploads.delete(upload.id)
    for name in ("first", "fourth"):
        site.bmi.operations.wait(site.bmi.images.purge(name).id)
    assert site.left() == []


def test_an_upload_that_broke_off_goes_on(site: Site, tmp_path: Path) -> None:
    """The client is killed in the middle; the same command sends only what is missing."""
    image = tmp_path / "large.raw"
    with image.open("wb") as file:
        file.write(b"\0" * 510 + b"\x55\xaa")
        for _ in range(40):
            file.write(os.urandom(1 << 20))
    size = image.stat().st_size
    digest = f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    upload = site.bmi.uploads.create(UploadCreate(size=size, digest=digest))
    site.bmi.uploads.send(upload.id, 0, image.read_bytes()[: 30 << 20])
    done = site.command("image", "import", str(image), "--name", "resumed")
    must(done)
    assert b"going on with upload" in done.stderr
    must(site.command("image", "export", "resumed", str(tmp_path / "out")))
    assert (tmp_path / "out").read_bytes() == image.read_bytes()
    site.forget("resumed")


def test_an_export_is_compressed_sparse_and_replaces_nothing_unless_told_to(
    site: Site, raw: Path, tmp_path: Path
) -> None:
    must(site.command("image", "import", str(raw), "--name", "kept"))
    out, small = tmp_path / "out", tmp_path / "small"
    out.write_text("precious")
    assert b"exists already" in site.command("image", "export", "kept", str(out)).stderr
    assert out.read_text() == "precious"
    must(site.command("image", "export", "kept", str(out), "--force"))
    same(raw, "raw", out)
    assert out.stat().st_blocks * 512 < 2 << 20  # holes are holes again
    must(site.command("image", "export", "kept", str(small), "--format", "qcow2", "--compress"))
    same(raw, "qcow2", small)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small"]
    site.forget("kept")
