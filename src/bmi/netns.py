"""Network namespaces by name, as ip-netns(8) keeps them, and sockets inside them."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from bmi.errors import CommandFailed, DeadlineExceeded, LegError
from bmi.run import run
from bmi.wait import wait_until

T = TypeVar("T")

_FOLDER = Path("/run/netns")
_MOUNT_DEADLINE = 1.0  # seconds; it takes one or two milliseconds
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_SIOCGIFMTU = 0x8921  # <linux/sockios.h>

_libc = ctypes.CDLL(None, use_errno=True)


def create(name: str) -> None:
    """Make a namespace with its loopback interface up; one that exists already keeps what it has.

    Raises:
        CommandFailed: The kernel refuses, mostly for want of privileges.
    """
    if not exists(name):
        try:
            run(["ip", "netns", "add", name])
        except CommandFailed:
            if not (_FOLDER / name).exists():
                raise
            # ip-netns(8) makes a file and mounts the namespace on it: another is at it, or died in between.
            if not _is_mounted_soon(name):
                delete(name)
                run(["ip", "netns", "add", name])
    run(["ip", "-n", name, "link", "set", "lo", "up"])


def delete(name: str) -> bool:
    """Remove a namespace's name and say whether there was one.

    The namespace itself ends with the last process or socket inside it.

    Raises:
        CommandFailed: The kernel refuses.
    """
    if not (_FOLDER / name).exists():
        return False
    try:
        run(["ip", "netns", "delete", name])
    except CommandFailed:
        if (_FOLDER / name).exists():  # or else another was faster
            raise
    return True


def exists(name: str) -> bool:
    """Say whether there is a namespace of that name."""
    try:
        return (_FOLDER / name).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def names() -> list[str]:
    """List all namespaces that have a name."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in _FOLDER.iterdir() if exists(path.name))
    return []


def call_inside(namespace: str | None, call: Callable[[], T]) -> T:
    """Call something on a thread that is inside a namespace, while the process stays where it is.

    Args:
        namespace: Name of the namespace; the caller's own if None.
        call: What to call. It runs on another thread, which ends with it.

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
    """
    if namespace is None:
        return call()
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            _enter(namespace)
            results.append(call())
        except BaseException as error:
            failures.append(error)

    # A thread of its own, which ends then: what entered a namespace should not go on to serve others.
    thread = threading.Thread(target=work, name=f"netns-{namespace}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def tcp_table(namespace: str) -> str:
    """Return the TCP sockets of a namespace, as /proc/net/tcp lists them (proc(5)).

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
    """
    return call_inside(namespace, lambda: Path("/proc/thread-self/net/tcp").read_text())


def inode(namespace: str | None) -> int:
    """Return what tells a namespace from an earlier one of the same name; this takes no rights.

    Raises:
        LegError: There is no such namespace.
    """
    where = Path("/proc/thread-self/ns/net") if namespace is None else _FOLDER / namespace
    try:
        return where.stat().st_ino
    except FileNotFoundError as error:
        raise _missing(namespace) from error


def socket_inside(
    namespace: str | None, family: socket.AddressFamily, type: socket.SocketKind
) -> socket.socket:
    """Make a socket that belongs to a namespace, for good, whichever thread uses it then.

    Args:
        namespace: Name of the namespace; the caller's own if None.
        family: As for `socket.socket`.
        type: As for `socket.socket`.

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
    """
    return call_inside(namespace, lambda: socket.socket(family, type))


def interfaces(namespace: str | None) -> set[str]:
    """List the names of the interfaces in a namespace.

    Args:
        namespace: Name of the namespace; the caller's own if None.

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
    """
    return {name for _, name in call_inside(namespace, socket.if_nameindex)}


def mtu(namespace: str | None, interface: str) -> int:
    """Return how many bytes a frame may carry on an interface (netdevice(7)).

    Args:
        namespace: Name of the namespace; the caller's own if None.
        interface: The interface.

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
        OSError: There is no such interface.
    """
    with socket_inside(namespace, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFMTU, struct.pack("16si12x", interface.encode(), 0))
    return int(struct.unpack("16si12x", answer)[1])


def write_sysctls(namespace: str | None, values: Mapping[str, str]) -> None:
    """Set kernel parameters of a namespace; those that this kernel does not have are left out.

    Args:
        namespace: Name of the namespace; the caller's own if None.
        values: Parameter below /proc/sys/net, with slashes, and its value.

    Raises:
        LegError: There is no such namespace, or this process may not enter it.
        OSError: The kernel refuses a value.
    """

    def write() -> None:
        for name, value in values.items():
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys/net", name).write_text(value)

    call_inside(namespace, write)


def _is_mounted_soon(name: str) -> bool:
    try:
        return wait_until(
            lambda: exists(name), deadline=_MOUNT_DEADLINE, what=f"namespace {name}", next_step="try again"
        )
    except DeadlineExceeded:
        return False


def _enter(namespace: str) -> None:
    """Move the calling thread into a namespace (setns(2))."""
    try:
        fd = os.open(_FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _missing(namespace) from error
    try:
        # os.setns comes with Python 3.12.
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            raise LegError(
                f"network namespace {namespace} cannot be entered: {os.strerror(ctypes.get_errno())}",
                next_step="let BMI run as root, or let it ask the helper (setting helper.socket)",
            )
    finally:
        os.close(fd)


def _missing(namespace: str | None) -> LegError:
    return LegError(
        f"there is no network namespace {namespace}", next_step="run bmi doctor --repair, it makes legs"
    )
