"""Stands for newuidmap(1) and newgidmap(1) before programs that call them: it asks the helper."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bmi.errors import BmiError
from bmi.helper.client import Helper
from bmi.helper.id_maps import IdRange, Ids

_SOCKET = "BMI_HELPER_SOCKET"
_NO_INSTALLATION = "0" * 8  # what is asked for belongs to none


def stand_in(folder: Path, helper: Path) -> Mapping[str, str]:
    """Make programs of both names, and return the environment in which they are found.

    Args:
        folder: Where to make them; it must be possible to start programs there.
        helper: The helper's socket.
    """
    folder.mkdir(mode=0o755)
    for ids in Ids:
        program = folder / f"new{ids}map"
        program.write_text(
            f"#!{sys.executable}\nfrom bmi.helper.new_ids import main\nfrom bmi.helper.id_maps import Ids\n"
            f"main(Ids({str(ids)!r}))\n"
        )
        program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}", _SOCKET: str(helper)}


def main(ids: Ids) -> None:
    """Set the map that the command line names: a process, then threes of inside, outside, count."""
    words = sys.argv[1:]
    if len(words) < 4 or len(words) % 3 != 1 or not all(word.isdecimal() for word in words):
        sys.exit(f"usage: new{ids}map PID INSIDE OUTSIDE COUNT ...")
    pid, *rest = map(int, words)
    ranges = [IdRange(*rest[at : at + 3]) for at in range(0, len(rest), 3)]
    try:
        Helper(Path(os.environ[_SOCKET]), _NO_INSTALLATION).call("ids.write", pid=pid, ids=ids, ranges=ranges)
    except BmiError as error:
        sys.exit(f"new{ids}map: {error}")
