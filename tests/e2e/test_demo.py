"""The demo, as the README's reader runs it: four nodes of two tenants really boot."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(1200)
def test_the_demo_shows_everything_and_leaves_nothing(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "lab"
    done = subprocess.run(
        [sys.executable, "-m", "bmi.cli", "lab", "demo", "--dir", str(folder), "--api-port", str(port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1100,
        env={**os.environ, "TERM": "dumb"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("demo: ok, ")
    assert "BIOS" in done.stdout
    assert "UEFI" in done.stdout
    assert not folder.exists()
