"""Finds out within seconds whether the store can be used, and if not, why not."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from bmi.drivers.storage.rbd import conf
from bmi.drivers.storage.rbd.bindings import rados, rbd
from bmi.drivers.storage.rbd.failures import ERRORS, FULL, rights, unreachable
from bmi.drivers.storage.rbd.names import FEATURES
from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.drivers.storage.rbd.session import Session, connect
from bmi.errors import StorageError

_PROBE_SIZE = 4096  # bytes


def check(options: RbdOptions, session: Session) -> None:
    """Look at the place where the images are to be, and make and remove one there.

    The first image that is removed in a pool makes Ceph's list of removed images, which takes room; so a pool
    that is full later can still be emptied.

    Raises:
        StorageError: Something is missing or refused; the error says what.
        StorageUnreachable: The OSDs do not answer.
    """
    _require_namespace(options, session)
    name = f"probe-{uuid4()}"
    try:
        session.rbd.create(session.pool, name, _PROBE_SIZE, old_format=False, features=FEATURES)
        session.rbd.remove(session.pool, name)
    except ERRORS as error:
        number = getattr(error, "errno", None)
        if number in FULL:
            return
        if isinstance(error, (rados.TimedOut, rbd.Timeout)):
            raise _osds_silent(options, session) from error
        if isinstance(error, (rados.PermissionDeniedError, rados.PermissionError, rbd.PermissionError)):
            raise StorageError(
                f"client.{options.user} may not make images in {options.place}",
                next_step=f"give it its rights: {rights(options.user, options.place)}",
            ) from error
        raise


def open_checked(options: RbdOptions, file: Path) -> Session:
    """Connect with short time limits, and say what is wrong if that fails.

    Raises:
        StorageError: The configuration, the key or the pool cannot be used.
        StorageUnreachable: The monitors do not answer.
    """
    conf.require_key(options)
    conf.write(options, file)
    what = "the storage could not be prepared"
    monitors = conf.monitors(options.conf)
    try:
        cluster = connect(options, file, timeout=options.connect_timeout)
    except rados.TimedOut as error:
        raise unreachable(what, cluster=monitors, timeout=options.connect_timeout) from error
    except rados.Error as error:
        raise StorageError(
            f"{what}: the monitors at {monitors} do not let client.{options.user} in "
            f"with the key in {options.key_file} ({error})",
            next_step=f"write the key anew: ceph auth get client.{options.user} -o {options.key_file}",
        ) from error
    try:
        return Session(cluster, options)
    except rados.ObjectNotFound as error:
        cluster.shutdown()
        raise StorageError(
            f"{what}: the cluster at {monitors} has no pool {options.pool}",
            next_step=f"make it: ceph osd pool create {options.pool} && rbd pool init {options.pool}",
        ) from error


def _require_namespace(options: RbdOptions, session: Session) -> None:
    if not options.namespace:
        return
    with suppress(rbd.PermissionError), session.cluster.open_ioctx(options.pool) as pool:
        # Only who may read the whole pool can see this.
        if not session.rbd.namespace_exists(pool, options.namespace):
            raise StorageError(
                f"pool {options.pool} has no namespace {options.namespace}",
                next_step=f"make it: rbd namespace create {options.place}",
            )


def _osds_silent(options: RbdOptions, session: Session) -> StorageError:
    error = unreachable(
        f"the OSDs of pool {options.pool} are silent",
        cluster=conf.monitors(options.conf),
        timeout=options.connect_timeout,
    )
    with suppress(*ERRORS, KeyError):
        seen = session.mon("osd stat")
        error.message += f"; {seen['num_up_osds']} of its {seen['num_osds']} OSDs are up"
    return error
