"""An image that went out and came in again, in every format, boots nodes and is the same bit for bit."""

from pathlib import Path

import pytest

from bmi.api.nodes import Provision
from bmi.run import run
from tests.e2e.conftest import IMAGE, Measured, Site

pytestmark = pytest.mark.timeout(1800)

BOOT = 600.0  # seconds that three provisions up to the running operating system may take
FORMATS = ("qcow2", "vmdk", "vhdx", "vdi", "raw")
NODES = ("n1", "n2", "n3")


def convert(raw: Path, format: str) -> Path:
    if format == "raw":
        run(["zstd", "-q", "-1", raw, "-o", raw.with_suffix(".zst")], timeout=300)
        return raw.with_suffix(".zst")
    made = raw.with_suffix(f".{format}")
    run(["qemu-img", "convert", "-f", "raw", "-O", format, raw, made], timeout=300)
    return made


def test_every_format_boots_and_comes_out_as_it_went_in(
    site: Site, tmp_path: Path, measured: Measured
) -> None:
    raw = tmp_path / "golden.raw"
    site.must("image", "export", IMAGE, str(raw), timeout=600)
    for format in FORMATS:
        given = convert(raw, format)
        site.must("image", "import", str(given), "--name", f"in-{format}", "--again", timeout=600)
        given.unlink()
    try:
        boot(site, dict(zip(NODES, FORMATS, strict=False)), measured)
        boot(site, dict(zip(NODES, FORMATS[len(NODES) :], strict=False)), measured)
        for format in FORMATS:
            out = tmp_path / "out"
            site.must("image", "export", f"in-{format}", str(out), "--format", "qcow2", timeout=600)
            run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, out], timeout=300)
            out.unlink()
    finally:
        for format in FORMATS:
            site.must("image", "delete", f"in-{format}", "--now")


def boot(site: Site, images: dict[str, str], measured: Measured) -> None:
    """Boot nodes side by side, wait until their systems are up, and give them back."""
    with site.lab.client("red") as client:
        started = {
            format: client.nodes.provision(
                node, Provision(image=f"in-{format}", network="red-net", until="up")
            )
            for node, format in images.items()
        }
        for format, operation in started.items():
            done = client.operations.wait(operation.id, timeout=BOOT)
            assert done.ended_at is not None
            measured(f"boot from {format}", (done.ended_at - done.created_at).total_seconds())
    site.deprovision_all()
