"""The connection to Ceph: one for a process, shared by its threads, replaced when it is dead."""

import errno
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from bmi.drivers.storage.rbd import conf
from bmi.drivers.storage.rbd.bindings import rados, rbd
from bmi.drivers.storage.rbd.failures import ERRORS, failures
from bmi.drivers.storage.rbd.options import RbdOptions


def connect(options: RbdOptions, file: Path, *, timeout: int) -> Any:
    """Connect to the cluster.

    Args:
        options: The driver's options.
        file: The configuration, see `conf`.
        timeout: Seconds in which each request must be answered; without, it would wait for ever.

    Raises:
        rados.Error: It does not answer, or does not let the user in.
    """
    cluster = rados.Rados(
        rados_id=options.user,
        conffile=str(file),
        conf={
            "client_mount_timeout": str(options.connect_timeout),
            "rados_mon_op_timeout": str(timeout),
            "rados_osd_op_timeout": str(timeout),
            # What BMI itself writes is flushed at the end, or made anew.
            "rbd_cache_policy": "writearound",
            # Images can then be removed although clones of them live on, see `removal`.
            "rbd_default_clone_format": "2",
            "rbd_move_to_trash_on_remove": "false",
            # Errors are raised, and say more than librbd's own lines.
            "log_to_stderr": "false",
            "err_to_stderr": "false",
        },
    )
    try:
        cluster.connect()
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


class Session:
    """One connection with its pool.

    It outlives outages of Ceph by itself. It is dead only when somebody fenced this process off.
    """

    def __init__(self, cluster: Any, options: RbdOptions) -> None:
        """Open the pool.

        Args:
            cluster: The connected `rados.Rados`.
            options: The driver's options.

        Raises:
            rados.ObjectNotFound: There is no such pool.
        """
        self.cluster = cluster
        self.pool = self.open(options.pool, options.namespace)
        self.rbd = rbd.RBD()

    @property
    def client(self) -> int:
        """The number by which the cluster knows this connection."""
        return int(self.cluster.get_instance_id())

    def open(self, pool: str, namespace: str) -> Any:
        """Open a pool."""
        opened = self.cluster.open_ioctx(pool)
        opened.set_namespace(namespace)
        # In a full pool a request would wait for room; so it fails at once, and what gives room back succeeds.
        opened.set_osdmap_full_try()
        return opened

    @contextmanager
    def image(
        self,
        name: str | None = None,
        *,
        id: str | None = None,
        snapshot: str | None = None,
        read_only: bool = True,
        pool: Any = None,
    ) -> Iterator[Any]:
        """Open an image by its name or id.

        Args:
            name: Its name.
            id: Its id; the only way to one in the trash.
            snapshot: Snapshot to read.
            read_only: Whether it is only read. Then nobody can see that it is open, and it can be removed.
            pool: The pool that it is in; the store's own if None.
        """
        opened = rbd.Image(pool or self.pool, name, snapshot=snapshot, read_only=read_only, image_id=id)
        try:
            yield opened
        finally:
            # Closing reports what could not be written any more; whoever cares has flushed.
            with suppress(*ERRORS):
                opened.close()

    def mon(self, prefix: str, **arguments: Any) -> Any:
        """Ask the monitors something that a user of the profile `rbd` may ask, and return the answer.

        Raises:
            rados.Error: They refuse, or do not answer.
        """
        asked = json.dumps({"prefix": prefix, "format": "json", **arguments})
        status, answer, message = self.cluster.mon_command(asked, b"")
        if status:
            raise rados.OSError(f"{prefix}: {message}", errno=-status)
        return json.loads(answer)

    def close(self) -> None:
        """Disconnect."""
        self.pool.close()
        self.cluster.shutdown()


class Connection:
    """Gives the session, and a new one after it was fenced off."""

    def __init__(self, options: RbdOptions, file: Path) -> None:
        """Say where to connect to; nothing is done yet.

        Args:
            options: The driver's options.
            file: Where the configuration is written to.
        """
        self.options = options
        self.file = file
        self._lock = threading.Lock()
        self._session: Session | None = None

    @contextmanager
    def session(self, what: str) -> Iterator[Session]:
        """Give the session, and turn the bindings' errors into BMI's.

        Args:
            what: What fails if it fails, as in `disk-1 could not be made`.

        Raises:
            StorageError: Ceph refuses, or is broken.
            StorageFull: There is no room.
            StorageUnreachable: It does not answer; the same call may succeed later.
        """
        session: Session | None = None
        with self.failures(what):
            try:
                session = self._current()
                yield session
            except ERRORS as error:
                if getattr(error, "errno", None) == errno.ESHUTDOWN:
                    self._drop(session)
                raise

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn the bindings' errors into BMI's."""
        options = self.options
        with failures(
            what,
            user=options.user,
            place=options.place,
            cluster=self._monitors,
            timeout=options.timeout,
        ):
            yield

    @cached_property
    def _monitors(self) -> str:
        """The monitors' addresses, for errors; reading them takes longer than many a request."""
        return conf.monitors(self.options.conf)

    def close(self) -> None:
        """Disconnect; the next use connects again."""
        with self._lock:
            session, self._session = self._session, None
        if session:
            session.close()

    def _current(self) -> Session:
        with self._lock:
            if self._session is None:
                if not self.file.exists():
                    conf.write(self.options, self.file)
                cluster = connect(self.options, self.file, timeout=self.options.timeout)
                self._session = Session(cluster, self.options)
            return self._session

    def _drop(self, dead: Session | None) -> None:
        """Forget a dead session. It is not closed: other threads still have images open on it."""
        with self._lock:
            if self._session is dead:
                self._session = None
