"""`python -m tests.faults`: the fault matrix of every workflow."""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.faults.faulty import Fault
from tests.faults.laboratory import OUTCOMES, Laboratory, Result
from tests.faults.real import real_results
from tests.faults.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, and return the exit status: 0 only if nothing is stuck and nothing leaks."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in good order: no process stays behind
    laboratory = Laboratory(options.jobs, options.sabotage)
    begun = time.monotonic()
    with laboratory.at_work() as at_work:
        cells = at_work.cells(options.only, options.fault, options.short)
        if options.list:
            print("\n".join(map(str, cells)))
            return 0
        kept = _kept(options.kept)
        results = [kept[str(cell)] for cell in cells if str(cell) in kept]
        for result in at_work.results([cell for cell in cells if str(cell) not in kept]):
            results.append(result)
            _tell(result, options, f"{len(results)}/{len(cells)}")
    order = {str(cell): number for number, cell in enumerate(cells)}
    results.sort(key=lambda result: order[result.cell])
    for result in real_results(kept) if options.real else ():
        results.append(result)
        if result.cell not in kept:
            _tell(result, options, str(len(results)))
    if options.report:
        write_report(options.report, results)
    counts = Counter(result.outcome for result in results)
    print(
        ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES),
        f"in {time.monotonic() - begun:.0f} s",
    )
    print(f"faults: {len(results)} cells, {counts['stuck']} stuck, {counts['leaked']} leaked")
    return 1 if counts["stuck"] or counts["leaked"] else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="VERB", help="only workflows whose names begin so")
    parser.add_argument("--fault", type=Fault, choices=list(Fault), help="only this fault")
    parser.add_argument("--short", type=int, metavar="N", help="only N cells, chosen evenly")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--list", action="store_true", help="say what the cells are, and run none")
    parser.add_argument("--verbose", action="store_true", help="tell of each cell")
    parser.add_argument("--real", action="store_true", help="after that the short matrix on real daemons")
    parser.add_argument(
        "--kept", type=Path, metavar="FILE", help="append results, and do not run what is there"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--sabotage", default="", choices=("", "leak", "stuck"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _kept(file: Path | None) -> dict[str, Result]:
    if file is None or not file.exists():
        return {}
    results = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return {result.cell: result for result in results}


def _tell(result: Result, options: argparse.Namespace, count: str) -> None:
    """Say what became of a cell, and keep it."""
    if options.verbose or result.outcome in ("stuck", "leaked"):
        words = "; ".join(result.details)
        print(f"{count} {result.outcome}: {result.cell} ({result.seconds} s) {words}", flush=True)
    if options.kept:
        with options.kept.open("a") as file:
            print(json.dumps(asdict(result)), file=file)


if __name__ == "__main__":
    sys.exit(main())
