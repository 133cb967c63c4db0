"""`python -m tests.stress targets|provisions`: much at once, while things fail; prints one JSON line."""

import argparse
import json
import sys
from collections.abc import Sequence

from tests.stress.provisions import stress_provisions
from tests.stress.targets import stress_targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two, and return the exit status: 0 only if nothing leaked and nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    targets = kinds.add_parser("targets", help="exports on real tgtd processes, which are killed meanwhile")
    targets.add_argument("--count", type=int, default=100, help="exports at a time")
    targets.add_argument("--rounds", type=int, default=3, help="how often they come and go")
    provisions = kinds.add_parser("provisions", help="provisions on memory drivers, of whose calls some fail")
    provisions.add_argument("--count", type=int, default=200, help="nodes")
    provisions.add_argument("--database", metavar="URL", help="an empty database; SQLite if absent")
    options = parser.parse_args(arguments)
    if options.what == "targets":
        told = stress_targets(options.count, options.rounds)
    else:
        told = stress_provisions(options.count, options.database)
    print(json.dumps(told))
    return 1 if told["leaks"] or told["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
