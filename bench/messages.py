"""How many requests each verb of the driver `rbd` sends to Ceph, beside bare librbd. One JSON object a line.

make bench PART=messages

Times swing with whatever else the machine does; these counts do not. librados counts them itself.
"""

import json
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import storage
from bench.output import emit
from bmi.ids import new_id

_CONTENT = 64 << 20  # bytes; how much images hold does not matter here
_DEADLINE = 10.0  # seconds

Counts = dict[str, int]


def main() -> int:
    """Count, and print each verb's requests for both."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-bench-"))
    storage.CONTENT = _CONTENT
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        # Every client of Ceph in this process answers on a socket of its own.
        os.environ["CEPH_ARGS"] = f"--admin-socket={folder}/$pid.$cctid.asok"
        bare, driver, _ = storage.set_up(folder, stack)
        found = [_count(store, lambda: _requests(folder)) for store in (bare, driver)]
    for what, count in found[0].items():
        emit(f"{what}: bare librbd", count, "requests")
        emit(f"{what}: driver rbd", found[1][what], "requests")
        emit(f"{what}: driver rbd to bare librbd", found[1][what] / count, "ratio")
    return 0


def _count(store: storage.Store, requests: Callable[[], int]) -> Counts:
    """Do everything twice, and count the second time: what is asked for once in a while is known by then."""
    store.verbs.import_image(store.golden, store.source)
    _live(store, requests)
    counts = _live(store, requests)
    return {**counts, "all of these together": sum(counts.values())}


def _live(store: storage.Store, requests: Callable[[], int]) -> Counts:
    """Let disks and images come and go, and count each step's requests."""
    verbs = store.verbs
    disk, plain, flat, image, derived = (new_id() for _ in range(5))
    verbs.clone(store.golden, flat)
    steps: dict[str, Callable[[], None]] = {
        "clone": lambda: verbs.clone(store.golden, disk),
        "clone with ten times the size": lambda: verbs.clone(store.golden, plain, storage.LARGE),
        "snapshot": lambda: verbs.snapshot(disk, image),
        "image from an image": lambda: verbs.copy(image, derived),
        "flatten a clone": lambda: verbs.flatten(flat),
        "remove a flattened clone": lambda: verbs.remove_disk(flat),
        "remove a clone": lambda: verbs.remove_disk(plain),
        "remove an image": lambda: verbs.remove_image(derived),
        "remove an image that an image was made of": lambda: verbs.remove_image(image),
        "remove a disk that an image was made of": lambda: verbs.remove_disk(disk),
    }
    counts: Counts = {}
    for what, step in steps.items():
        before = requests()
        step()
        counts[what] = requests() - before
    return counts


def _requests(folder: Path) -> int:
    """Return how many requests this process has sent to OSDs."""
    sockets = folder.glob(f"{os.getpid()}.*.asok")
    return sum(int(_counters(path)["objecter"]["op"]) for path in sockets)


def _counters(path: Path) -> Any:
    """Ask a client of Ceph for its performance counters."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answer:
        connection.settimeout(_DEADLINE)
        connection.connect(str(path))
        connection.sendall(b'{"prefix": "perf dump"}\0')
        (length,) = struct.unpack(">I", answer.read(4))
        return json.loads(answer.read(length))


if __name__ == "__main__":
    sys.exit(main())
