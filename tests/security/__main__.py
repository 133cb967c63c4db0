"""`python -m tests.security`: who may do what, any input, where secrets are written, what linters say, units."""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from fastapi import FastAPI

from bmi.access.rules import rules
from bmi.api.access import Role
from tests.databases import sqlite
from tests.security import linters
from tests.security.fuzz import EXAMPLES, fuzz
from tests.security.table import access_table
from tests.security.units import units
from tests.security.walk import make_things, walk
from tests.service import Site, memory_site

_CANARIES = 1800  # seconds


class Told:
    """What is known up to now; each part is told as it ends."""

    def __init__(self) -> None:
        self.routes = 0
        self.checks = 0
        self.findings = 0

    def add(self, what: str, checks: int, findings: Sequence[str], began: float) -> None:
        """Tell of a part."""
        self.checks += checks
        self.findings += len(findings)
        print(f"{what}: {checks} checks, {len(findings)} findings, {time.monotonic() - began:.0f} s")
        for finding in findings:
            print(f"  - {finding}")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at everything, and return the exit status: 0 only if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.security", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="cases for each operation and token")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table of routes and roles")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # refusals are what this is about
    told = Told()
    _walk(told, options.report)
    _fuzz(told, options.examples)
    _canaries(told)
    _lint(told)
    print(f"security: {told.routes} routes, {told.checks} checks, {told.findings} findings")
    return 1 if told.findings else 0


def _walk(told: Told, report: Path | None) -> None:
    began = time.monotonic()
    with _site() as site:
        table = rules(cast("FastAPI", site.api.app).routes)
        if report:
            report.write_text(access_table(table))
        told.routes = len(table)
        wrong, checks = walk(site.api, make_things(site.api, site))
    told.add("every route as every role", checks, wrong, began)


def _fuzz(told: Told, examples: int) -> None:
    for role in (Role.MEMBER, Role.MANAGER, Role.ADMIN):
        began = time.monotonic()
        with _site() as site:
            things = make_things(site.api, site)
            found = fuzz(site.api, {role: things.tokens[role]}, things.of["red"], examples)
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(found.statuses.items()))
        findings = [f"{what}: {text}" for what, text in found.findings.items()]
        told.add(
            f"the API's description, with a token of a {role} ({statuses})", found.cases, findings, began
        )


def _canaries(told: Told) -> None:
    """Run the search for planted secrets, and tell where it looked."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "tests/integration/test_canaries.py"],
        capture_output=True,
        text=True,
        timeout=_CANARIES,
        check=False,
    )
    lines = done.stdout.splitlines()
    searched = [line for line in lines if line.startswith(("searched", "held"))]
    print("\n".join(searched))
    counts = [int(line.split()[1]) for line in searched if line.startswith("searched")]
    told.add(
        "files, answers, rows, processes searched for planted secrets",
        sum(counts),
        _why(lines) if done.returncode or not counts else [],
        began,
    )


def _why(lines: list[str]) -> list[str]:
    """Return what a run of tests says of its failures, and its last line."""
    return [line for line in lines if line.startswith(("E  ", "ERROR", "FAILED"))][:20] + lines[-1:]


def _lint(told: Told) -> None:
    for linter in (linters.bandit, linters.pip_audit, units):
        began = time.monotonic()
        linted = linter()
        words = f"{linter.__name__.replace('_', '-')} ({linted.remark})"
        told.add(words, linted.checks, linted.findings, began)


@contextmanager
def _site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="bmi-security-") as name:
        folder = Path(name)
        with memory_site(folder, sqlite(folder / "state" / "bmi.db")) as site:
            yield site


if __name__ == "__main__":
    sys.exit(main())
