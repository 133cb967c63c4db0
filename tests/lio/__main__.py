"""`python -m tests.lio`: what the contract and more ask of the kernel's own target, in a virtual machine.

Everything else on the command line goes to pytest.
"""

import argparse
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tests.lio.machine import CHECKOUT, Answer, carry_out

TESTS = ("tests/contract/test_target.py", "tests/lio/lio_kernel.py")
_REPORT = "/scratch/tmp/report.xml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit status: 0 only if tests ran, and all of them passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.lio", description=__doc__)
    parser.add_argument("--bench", action="store_true", help="measure instead: python -m bench.targets")
    parser.add_argument("--deadline", type=float, default=1200, help="seconds for all tests")
    options, words = parser.parse_known_args(arguments)
    python = str(CHECKOUT / ".venv/bin/python")
    command = ["env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", python, "-m", "pytest", "-p", "pytest_timeout"]
    command += [*TESTS, "-k", "lio", f"--junitxml={_REPORT}", *words]
    if options.bench:
        command = [python, "-m", "bench.targets", *words]
    with tempfile.TemporaryDirectory(prefix="bmi-lio-") as folder:
        answer = carry_out(Path(folder), command, files=[_REPORT], deadline=options.deadline)
    for line in answer.trouble:
        print(f"lio: {line}")
    good = answer.status == 0 and not answer.trouble
    if not options.bench:
        good = _tell(answer) and good
    return 0 if good else 1


def _tell(answer: Answer) -> bool:
    """Say what the tests came to; returns whether all of them ran and passed."""
    if _REPORT not in answer.files:
        print(f"lio: no report; exit status {answer.status}")
        return False
    (suite,) = ET.fromstring(answer.files[_REPORT]).iter("testsuite")  # noqa: S314 - pytest's own
    ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    print(f"lio: {ran - bad - skipped} passed, {bad} failed, {skipped} skipped in {answer.seconds:.0f} s")
    return ran > 0 and not bad and not skipped


if __name__ == "__main__":
    sys.exit(main())
