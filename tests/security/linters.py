"""What programs that look for weaknesses say: bandit on the code, pip-audit on what it depends on."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_DEADLINE = 600  # seconds for a program

ACCEPTED = {
    ("boot/service.py", "B104"): "an address to compare with; nothing listens there",
    ("drivers/target/ports.py", "B104"): "an address to compare with; nothing listens there",
    ("images/appliance/child/look.py", "B108"): "the /tmp of a sandbox that only this look has",
    ("images/appliance/sandbox.py", "B108"): "the /tmp of a sandbox that only this look has",
    ("images/appliance/disk.py", "B103"): "a socket for another user, in a folder that is the service's own",
    ("legacy/source.py", "B608"): "one of two words of ours, and no input",
}
"""What was looked at and stays, with the reason."""


@dataclass
class Linted:
    """What a program found."""

    checks: int
    """Files or packages that it looked at."""
    findings: list[str]
    remark: str = ""
    """What it could not do, or what was accepted."""


def bandit() -> Linted:
    """Look at the code; what is of low severity by bandit's own scale is ruff's business in `make check`."""
    told = _json([sys.executable, "-m", "bandit", "-q", "-r", "src/bmi", "-f", "json"])
    found = [one for one in told["results"] if one["issue_severity"] != "LOW"]
    accepted = {_place(one) for one in found} & set(ACCEPTED)
    findings = [
        f"{one['filename']}:{one['line_number']}: {one['test_id']} {one['issue_text']}"
        for one in found
        if _place(one) not in ACCEPTED
    ]
    findings += [f"{place}: accepted, and not there any more" for place in sorted(set(ACCEPTED) - accepted)]
    low = len(told["results"]) - len(found)
    return Linted(len(told["metrics"]) - 1, findings, f"{len(ACCEPTED)} accepted with a reason, {low} low")


def pip_audit() -> Linted:
    """Ask whether what BMI depends on has known weaknesses."""
    told = _json([sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "-f", "json"])
    if "dependencies" not in told:
        return Linted(0, [], f"NOT DONE: {told.get('error', 'no answer')}")
    audited = [one for one in told["dependencies"] if "vulns" in one]
    unknown = len(told["dependencies"]) - len(audited)
    findings = [
        f"{one['name']} {one['version']}: {weakness['id']}, mended in {weakness['fix_versions'] or 'no release'}"
        for one in audited
        for weakness in one["vulns"]
    ]
    remark = f"NOT DONE for {unknown} packages: the index has no record of weaknesses" if unknown else ""
    return Linted(len(audited), findings, remark)


def _place(finding: dict[str, Any]) -> tuple[str, str]:
    return finding["filename"].removeprefix("src/bmi/"), finding["test_id"]


def _json(command: list[str]) -> dict[str, Any]:
    """Run a program that writes JSON; one that cannot work says so in `error`."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env={**os.environ, "XDG_CACHE_HOME": cache},
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"error": lines[-1][:200]}
