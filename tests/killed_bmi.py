"""A BMI that is killed while it serves exports, takes some away, and stops."""

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from bmi.drivers.target import Export, Portal

_WORK = TypeAdapter(tuple[Portal, list[Export]])
_SERVE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from pydantic import TypeAdapter
    from bmi.drivers import Site
    from bmi.drivers.target import Export, Portal
    from bmi.drivers.target.tgt import TgtTarget

    portal, exports = TypeAdapter(tuple[Portal, list[Export]]).validate_json(sys.stdin.read())
    target = TgtTarget({}, Site(Path(sys.argv[1]), "0a1b2c3d"))
    print("ready", flush=True)
    target.serve(portal, exports)
    for export in exports[::2]:
        target.remove(portal.id, export.iqn)
    target.stop(portal.id)
    """
)


def serve_until_killed(state: Path, portal: Portal, exports: Sequence[Export], seconds: float) -> None:
    """Let a process of its own work with a portal, and kill it after some seconds unless it is done."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bmi:
        assert bmi.stdin is not None
        assert bmi.stdout is not None
        bmi.stdin.write(_WORK.dump_json((portal, list(exports))))
        bmi.stdin.close()
        assert bmi.stdout.readline() == b"ready\n"
        try:
            bmi.wait(seconds)
        except subprocess.TimeoutExpired:
            bmi.kill()
