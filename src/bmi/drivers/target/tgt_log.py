"""What tgtd says: its log, which is the only place where it gives reasons."""

import os
import re
from pathlib import Path

_LIMIT = 1 << 20  # bytes; a node that fails to log in adds a line each time
_QUOTED = 300  # characters of the log's end that an error quotes

# As in `tgtd: bs_rbd_init(649) bs_rbd_init: rados_connect: -110`.
_CEPH_ERROR = re.compile(r"bs_rbd_\w+: (\w+): -(\d+)$", re.MULTILINE)
_CEPH_CALLS = {
    "rados_conf_read_file": "Ceph's configuration cannot be read",
    "rados_connect": "no connection to Ceph",
    "rados_ioctx_create": "the pool cannot be opened",
    "rbd_open": "the image cannot be opened",
}


class Log:
    """The log of one tgtd."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """Return where it ends now, to read from there later."""
        return self.path.stat().st_size if self.path.exists() else 0

    def since(self, offset: int) -> str:
        """Return what was added after it had a size."""
        with self.path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def end_since(self, offset: int) -> str:
        """Return the last words of what was added, for an error."""
        return self.since(offset).strip()[-_QUOTED:]

    def ceph_error_since(self, offset: int) -> str | None:
        """Return in words why an image in Ceph could not be opened, or None if it says nothing of it."""
        found = _CEPH_ERROR.findall(self.since(offset))
        if not found:
            return None
        call, code = found[-1]
        return f"{_CEPH_CALLS.get(call, f'{call} failed')}: {os.strerror(int(code))}"

    def trim(self) -> None:
        """Empty it when it has grown long; tgtd, which appends, goes on with an empty one."""
        if self.size() > _LIMIT:
            os.truncate(self.path, 0)
