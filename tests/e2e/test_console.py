"""A node's console over its controller's SSH: a boot that fails is read afterwards, and a person types on it."""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab.lab import Lab
from bmi.wait import wait_until
from tests.e2e.conftest import Site, free_port

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def house() -> Iterator[Site]:
    """A lab of one node, and an image that nothing can be started from; no golden image has to be built."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-e2e-"))
    folder.chmod(0o711)  # the service is not root
    lab = Lab(folder / "lab")
    try:
        lab.up(1, free_port(), lambda what, seconds: None)
        house = Site(lab)
        for words in (("project", "create", "red"), ("network", "create", "net")):
            house.must(*words)
        broken = folder / "broken.raw"
        broken.write_bytes(b"no boot loader".ljust(4 << 20, b"\0"))
        house.must("image", "import", str(broken), "--name", "broken", "--format", "raw")
        yield house
    finally:
        lab.down(lambda what, seconds: None)
        shutil.rmtree(folder)


def test_a_boot_that_failed_is_read_afterwards_and_a_person_types(house: Site) -> None:
    asked = house.bmi(
        *("node", "provision", "n1", "--image", "broken", "--network", "net", "--deadline", "45s"),
        timeout=300,
    )
    assert asked.status == 1
    assert "bmi node console n1 --log" in asked.err, asked.err
    shown = house.must("node", "show", "n1")
    assert "recorded: bmi node console n1 --log" in shown
    log = house.must("node", "console", "n1", "--log")
    # A session takes a moment to open: what firmware says in the first one may be missing.
    assert "BMI: booting from" in log, log
    assert "\x1b" not in log
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", log)
    raw = house.must("node", "console", "n1", "--log", "--raw")
    assert re.search(r"[\x00-\x08\x1b]", raw)
    assert house.ask("node", "console", "n1")["open"] is True
    talked = talk(house)
    assert "BMI: booting from" in talked, talked
    # Each start has a recording of its own, and the first is still there.
    house.must("node", "power", "n1", "cycle")
    assert [each["number"] for each in house.ask("node", "console", "n1")["recordings"]] == [1, 2]
    wait_until(
        lambda: "BMI: booting from" in house.must("node", "console", "n1", "--log", "--boot", "2"),
        deadline=60,
        what="the node to say something after it was started anew",
        next_step="-",
        poll=1,
    )
    assert house.must("node", "console", "n1", "--log", "--boot", "1").startswith(log[:200])
    house.must("node", "deprovision", "n1")
    refused = house.bmi("node", "console", "n1", "--log", "--boot", "1")
    assert refused.status == 0, refused.err  # the lab's person is an admin, who reads what was before
    assert house.leftovers() == {}


def talk(house: Site) -> str:
    """Use the console on a terminal: watch, type, and leave with Enter, tilde, dot."""
    terminal, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "bmi.cli", "node", "console", "n1"],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**os.environ, "BMI_CLIENT_CONFIG": str(house.lab.profile), "BMI_PROJECT": "red"},
    )
    os.close(other)
    said = bytearray()
    try:
        end = time.monotonic() + 60
        typed = False
        while time.monotonic() < end:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # EIO: it has ended
                break
            if not typed and b"BMI: booting from" in said:
                os.write(terminal, b"\r~.")
                typed = True
        assert child.wait(timeout=30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    return said.decode(errors="replace")
