"""An initiator that does what the tools do not: odd names, raw SCSI commands (libiscsi.so by ctypes)."""

import ctypes
from ctypes import c_char_p, c_int, c_uint32, c_void_p

from bmi.drivers.target import Export, Portal
from bmi.netns import call_inside

_lib = ctypes.CDLL("libiscsi.so.7")
_lib.iscsi_create_context.restype = c_void_p
_lib.iscsi_get_error.restype = c_char_p
for _name in (
    "iscsi_write10_sync",
    "iscsi_synchronizecache10_sync",
    "iscsi_modesense6_sync",
    "iscsi_modeselect6_sync",
    "scsi_datain_unmarshall",
    "scsi_modesense_get_page",
    "scsi_create_task",
    "iscsi_scsi_command_sync",
):
    getattr(_lib, _name).restype = c_void_p

_SESSION_NORMAL = 2  # enum iscsi_session_type of iscsi/iscsi.h
_READ = 1  # enum scsi_xfer_dir of iscsi/scsi-lowlevel.h
_BLOCK = 512  # bytes
_CACHING = 8  # mode page (SBC-3 6.4.5)
_WCE = 12  # where struct scsi_mode_page of iscsi/scsi-lowlevel.h has that page's write cache bit, in integers


class Refused(Exception):
    """The target answered with an error."""


class Connection:
    """One session for one LUN, open until `close`."""

    def __init__(self, portal: Portal, export: Export, *, lun: int = 1, alias: str = "") -> None:
        self._lun = lun
        self._context = c_void_p(_lib.iscsi_create_context(export.initiator.encode()))
        _lib.iscsi_set_targetname(self._context, export.iqn.encode())
        _lib.iscsi_set_session_type(self._context, c_int(_SESSION_NORMAL))
        _lib.iscsi_set_initiator_username_pwd(
            self._context, export.username.encode(), export.password.encode()
        )
        if alias:
            _lib.iscsi_set_alias(self._context, alias.encode())
        # A socket belongs to the namespace that it was made in.
        if call_inside(
            portal.namespace,
            lambda: _lib.iscsi_full_connect_sync(self._context, str(portal).encode(), c_int(lun)),
        ):
            cause = _lib.iscsi_get_error(self._context).decode()
            self.close()
            raise Refused(cause)

    def write(self, block: int, data: bytes, *, fua: bool = False) -> None:
        """Send WRITE(10), whatever the LUN says of itself."""
        task = _lib.iscsi_write10_sync(
            self._context, self._lun, c_uint32(block), data, c_uint32(len(data)), _BLOCK, 0, 0, int(fua), 0, 0
        )
        self._finish(task)

    def flush(self) -> None:
        """Send SYNCHRONIZE CACHE(10) for the whole LUN."""
        self._finish(_lib.iscsi_synchronizecache10_sync(self._context, self._lun, 0, 0, 0, 0))

    def write_cache(self, *, switch_to: bool | None = None) -> bool:
        """Ask whether a LUN has a write cache (MODE SENSE), after switching it (MODE SELECT) if told to."""
        task = _lib.iscsi_modesense6_sync(self._context, self._lun, 0, 0, _CACHING, 0, 255)
        sense = _lib.scsi_datain_unmarshall(c_void_p(task))
        page = _lib.scsi_modesense_get_page(c_void_p(sense), _CACHING, 0)
        fields = ctypes.cast(page, ctypes.POINTER(c_int))
        if switch_to is not None:
            fields[_WCE] = switch_to
            self._finish(_lib.iscsi_modeselect6_sync(self._context, self._lun, 1, 0, c_void_p(page)))
        found = bool(fields[_WCE])
        self._finish(task)
        return found if switch_to is None else self.write_cache()

    def send(self, cdb: bytes, expected: int) -> None:
        """Send any command that reads.

        Args:
            cdb: The command.
            expected: Bytes that the initiator says to expect; the command may ask for more or fewer.
        """
        task = _lib.scsi_create_task(len(cdb), cdb, _READ, expected)
        self._finish(_lib.iscsi_scsi_command_sync(self._context, self._lun, c_void_p(task), None))

    def abandon(self, cdb: bytes, expected: int) -> None:
        """Send any command that reads, and let the connection break over it."""
        _lib.iscsi_set_noautoreconnect(self._context, 1)
        try:
            self.send(cdb, expected)
        except Refused:
            self.close()

    def _finish(self, task: int | None) -> None:
        if task is None:
            raise Refused(_lib.iscsi_get_error(self._context).decode())
        status = ctypes.cast(task, ctypes.POINTER(c_int))[0]  # the first field of struct scsi_task
        _lib.scsi_free_scsi_task(c_void_p(task))
        if status:
            raise Refused(_lib.iscsi_get_error(self._context).decode())

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection without a log-out."""
        if self._context:
            _lib.iscsi_destroy_context(self._context)
            self._context = c_void_p()
