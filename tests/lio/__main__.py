"""`python -m tests.lio`: what the contract and more ask of the kernel's own target, in a virtual machine.

Everything else on the command line goes to pytest.
"""

import argparse
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lio.firmware import node
from tests.lio.machine import CHECKOUT, Answer, Machine

PYTHON = str(CHECKOUT / ".venv/bin/python")

TESTS = ("tests/contract/test_target.py", "tests/lio/lio_kernel.py")
FIRMWARE = ("tests/lio/lio_firmware.py",)
_REPORT = "/scratch/tmp/report.xml"
_FIRMWARE_DEADLINE = 600  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit status: 0 only if tests ran, and all of them passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.lio", description=__doc__)
    parser.add_argument("--bench", action="store_true", help="measure instead: python -m bench.targets")
    parser.add_argument("--firmware", action="store_true", help="only boot a node's firmware")
    parser.add_argument("--deadline", type=float, default=1800, help="seconds for all tests")
    options, words = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bmi-lio-") as name:
        machine = Machine(Path(name))
        if options.bench:
            answer = machine.carry_out(
                [PYTHON, "-m", "bench.targets", *words], files=[], deadline=options.deadline
            )
            return answer.status
        answers = []
        if not options.firmware:
            answers.append(_test(machine, [*TESTS, *words], options.deadline))
        if options.firmware or not words:
            with ThreadPoolExecutor() as threads:
                test = threads.submit(_test, machine, FIRMWARE, _FIRMWARE_DEADLINE)
                with node(machine.folder, machine.wire):
                    answers.append(test.result())
    good = [_tell(answer) for answer in answers]
    return 0 if all(good) else 1


def _test(machine: Machine, words: Sequence[str], deadline: float) -> Answer:
    # Of pytest's plug-ins only the one that is needed is loaded: under emulation the others take a minute.
    command = ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", PYTHON, "-m", "pytest", "-p", "pytest_timeout"]
    command += ["-k", "lio", "--color=no", f"--junitxml={_REPORT}", *words]
    return machine.carry_out(command, files=[_REPORT], deadline=deadline)


def _tell(answer: Answer) -> bool:
    """Say what tests came to; returns whether all of them ran and passed, and the kernel was not at fault."""
    for line in answer.trouble:
        print(f"lio: {line}")
    if _REPORT not in answer.files:
        print(f"lio: no report; exit status {answer.status}")
        return False
    (suite,) = ET.fromstring(answer.files[_REPORT]).iter("testsuite")  # noqa: S314 - pytest's own
    ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    print(f"lio: {ran - bad - skipped} passed, {bad} failed, {skipped} skipped in {answer.seconds:.0f} s")
    return ran > 0 and not bad and not skipped and not answer.status and not answer.trouble


if __name__ == "__main__":
    sys.exit(main())
