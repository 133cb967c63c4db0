"""The matrix as a table in docs/."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.faulty import Fault
from tests.faults.laboratory import OUTCOMES, Result


def write_report(file: Path, results: Sequence[Result]) -> None:
    """Write the table of a matrix."""
    file.write_text(report(results))


def report(results: Sequence[Result]) -> str:
    """Return the table: a line for each step of each workflow, a column for each fault."""
    counts = Counter(result.outcome for result in results)
    rows: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for result in results:
        row = rows.setdefault((result.workflow, result.step or "before the first"), {})
        row.setdefault(result.fault, Counter())[result.outcome] += 1
    lines = [
        "# What happens when something goes wrong",
        "",
        "Made by `make faults`. Each number counts cells that were run: the workflow, a call or a commit of that",
        "step, and what went wrong there. Afterwards every operation has ended, reality equals the database after",
        "one convergence at most, and everything could be given back. After every second cell that failed it was",
        "tried again first, and succeeded; after every fourth a node was provisioned once more.",
        "",
        f"{len(results)} cells: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES) + ".",
        "",
        *_legend(),
        "",
    ]
    faults = [str(fault) for fault in Fault]
    lines += [
        "| workflow | step | " + " | ".join(faults) + " |",
        "|" + "---|" * (len(faults) + 2),
        *(
            f"| {workflow} | {step} | " + " | ".join(_entry(row.get(fault)) for fault in faults) + " |"
            for (workflow, step), row in sorted(rows.items(), key=lambda item: _place(results, item[0]))
        ),
        "",
    ]
    return "\n".join(lines)


def _legend() -> list[str]:
    return [
        "| fault | meaning |",
        "|---|---|",
        "| fails | the call raises an error that may pass; nothing was done |",
        "| fails-for-good | it raises an error that does not pass; nothing was done |",
        "| lies-done | it says that it was done, and it was not |",
        "| lies-failed | it says that it failed, and it was done |",
        "| hangs | it runs into its time limit; what was asked for happens after the operation has ended |",
        "| dies | the process is killed before the call has an effect, or before a commit |",
        "| dies-after | the process is killed when the call has had its effect |",
        "| cancelled | somebody cancels the operation during the call |",
        "",
        "| outcome | meaning |",
        "|---|---|",
        "| done | the operation succeeded |",
        "| undone | everything is as it was before |",
        "| standing | it failed and left things for a person to look at; they say what to do, and it works |",
        "| stuck | an operation does not end, or something cannot be used again |",
        "| leaked | something exists that the database does not want |",
    ]


def _entry(counts: Counter[str] | None) -> str:
    return (
        ", ".join(f"{outcome} {counts[outcome]}" for outcome in OUTCOMES if counts[outcome]) if counts else ""
    )


def _place(results: Sequence[Result], row: tuple[str, str]) -> int:
    return next(
        index
        for index, result in enumerate(results)
        if (result.workflow, result.step or "before the first") == row
    )
