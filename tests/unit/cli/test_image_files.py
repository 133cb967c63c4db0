"""What `bmi image import` and `export` ask of the service, and what they refuse before they ask."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bmi.cli.transfer import Destination
from tests.unit.client.fake_service import ID, WHEN, Answer, Service, operation, page

Bmi = Callable[..., tuple[int, str, str]]

QUEUED = Answer(operation("queued"), status=202)
UPLOAD = {
    "id": ID,
    "project": "blue",
    "asked_by": "me",
    "size": 1024,
    "digest": None,
    "received": 0,
    "created_at": WHEN,
    "touched_at": WHEN,
}


def test_a_url_is_handed_on(service: Service, bmi: Bmi) -> None:
    service.on("POST", "/images/import", QUEUED)
    url, digest = "https://host/disk.raw.xz", "A" * 64
    arguments = ["image", "import", url, "--name", "web", "--format", "raw", "--digest", digest, "--again"]
    assert bmi(*arguments, "--no-wait") == (0, f"{ID}\n", "")
    assert service.asked[0].body == {
        "name": "web",
        "url": url,
        "format": "raw",
        "digest": f"sha256:{'a' * 64}",
        "again": True,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}/missing", "--name", "x"], "missing is not a file"),
        (["{folder}", "--name", "x"], "is not a file"),
        (["{folder}/disk", "--name", "No Name"], "'No Name' cannot be a name"),
        (["{folder}/disk", "--name", "x", "--digest", "123"], "digest"),
        (["{folder}/disk", "--name", "x", "--digest", "0" * 64], "has the digest sha256:"),
        (["{folder}/disk", "--name", "x", "--format", "vhd"], "vhd"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(
    service: Service, bmi: Bmi, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "disk").write_bytes(bytes(1024))
    status, out, err = bmi("image", "import", *(word.format(folder=tmp_path) for word in arguments))
    assert status in (1, 2)
    assert out == ""
    assert said in err
    assert service.asked == []


def test_uploads_are_listed(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/uploads", page(UPLOAD))
    status, out, _ = bmi("image", "uploads")
    assert status == 0
    assert out.splitlines()[1].split()[:7] == [ID, "0", "B", "1", "KiB", "blue", "me"]


def test_an_export_is_in_a_format_that_can_be_written(service: Service, bmi: Bmi, tmp_path: Path) -> None:
    status, _, err = bmi("image", "export", "web", str(tmp_path / "out"), "--format", "vmdk")
    assert (status, err) == (2, "bmi: vmdk cannot be written; use raw or qcow2\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_half_written_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Destination(tmp_path / "out", force=False) as file:
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_zeros_become_holes_and_count(tmp_path: Path) -> None:
    with Destination(tmp_path / "out", force=False) as file:
        file.write(b"a" * 70_000)
        file.write(bytes(1 << 20))
        file.appear()
    assert (tmp_path / "out").read_bytes() == b"a" * 70_000 + bytes(1 << 20)
    assert (tmp_path / "out").stat().st_blocks * 512 < 300_000
