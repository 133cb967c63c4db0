#!/usr/bin/python3
"""The first and only program of the virtual machine: makes a host of it, runs one command, says how it went.

It stands in the machine's root as /init. The second disk is the checkout, the third one is for scratch files. The
command is in `order.json` of the checkout. What is printed goes to the first serial line, the answer to the
second.
"""

import json
import os
import re
import subprocess
import sys
import termios
import time
import traceback
import tty
from pathlib import Path

MODULES = ["configfs", "target_core_mod", "target_core_file", "iscsi_target_mod", "nf_tables", "loop"]

SCRATCH = Path("/scratch")

TROUBLE = re.compile(r"BUG|Oops|WARNING: CPU|hung task|blocked for more than")
"""What the kernel logs when it is at fault itself."""


def main() -> None:
    """Run the order, and switch the machine off whatever comes."""
    answer: dict[str, object] = {"status": 255, "trouble": [], "files": {}}
    try:
        prepare()
        answer = carry_out()
    except BaseException:
        traceback.print_exc()
    finally:
        reply(answer)
        Path("/proc/sysrq-trigger").write_text("o")
        time.sleep(60)  # switching off takes less; a first program that ends is a panic


def prepare() -> None:
    """Bring up what a booted host has."""
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")):
        Path(where).mkdir(exist_ok=True)
        call("mount", "-t", kind, kind, where)
    console = os.open("/dev/ttyS0", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)
    for folder in (SCRATCH, Path("/dev/shm"), Path("/etc/target")):
        folder.mkdir(parents=True, exist_ok=True)
    call("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
    call("ldconfig")  # pyudev looks libudev up in its list
    call("modprobe", "-a", *MODULES)
    call("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    call("ip", "link", "set", "lo", "up")
    call("mount", "/dev/vdc", str(SCRATCH))
    Path("/sys/kernel/config/target/iscsi").mkdir(exist_ok=True)


def carry_out() -> dict[str, object]:
    """Run the order in the checkout, which is where it is on the real host."""
    first = SCRATCH / "checkout"
    first.mkdir()
    call("mount", "/dev/vdb", str(first))
    order = json.loads((first / "order.json").read_text())
    where = Path(order["checkout"])
    where.mkdir(parents=True)
    call("mount", "--move", str(first), str(where))
    scratch = SCRATCH / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        order["command"],
        cwd=where,
        timeout=order["deadline"],
        env={**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch)},
        check=False,
    )
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return {
        "status": done.returncode,
        "trouble": [line for line in log.splitlines() if TROUBLE.search(line)],
        "files": {name: Path(name).read_text() for name in order["files"] if Path(name).exists()},
    }


def reply(answer: dict[str, object]) -> None:
    """Write the answer, on one line."""
    line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(line, data) :]
    termios.tcdrain(line)
    os.close(line)


def call(*words: str) -> None:
    """Run a program that has to succeed."""
    subprocess.run(words, check=True)


if __name__ == "__main__":
    sys.exit(main())
