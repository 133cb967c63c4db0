"""The laboratory itself, on a few of its cells; `make faults` runs them all."""

import subprocess
import sys

import pytest

SHORT = 18  # cells: half a minute


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the laboratory in a process of its own: it forks, and may have no threads when it does."""
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_wherever_a_workflow_is_hit_nothing_is_stuck_and_nothing_leaks() -> None:
    found = run("--short", str(SHORT), "--jobs", "2")
    assert found.stdout.splitlines()[-1] == f"faults: {SHORT} cells, 0 stuck, 0 leaked", found.stdout
    assert found.returncode == 0


@pytest.mark.parametrize(
    ("sabotage", "line"),
    [("leak", "faults: 1 cells, 0 stuck, 1 leaked"), ("stuck", "faults: 1 cells, 1 stuck, 0 leaked")],
)
def test_the_laboratory_notices_what_a_broken_product_would_do(sabotage: str, line: str) -> None:
    found = run("--only", "disk.create", "--fault", "fails", "--short", "1", "--sabotage", sabotage)
    assert found.stdout.splitlines()[-1] == line, found.stdout + found.stderr
    assert found.returncode == 1


def test_cells_are_listed_and_not_run() -> None:
    found = run("--only", "disk.create", "--fault", "lies-done", "--list")
    assert "disk.create | clone | storage.clone 1 | lies-done" in found.stdout.splitlines()
