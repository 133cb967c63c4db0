"""Makes a clone one particular node, for systems that do not do that themselves at their first boot."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from bmi.images.appliance.child.system import Refused, find, parts, text

_STATE = "/var/lib/bmi/instance-id"
_NORMAL = range(1000, 60000)  # user ids of people (login.defs)
_HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
_LABELS = {"keys": "system_u:object_r:ssh_home_t:s0", "name": "system_u:object_r:hostname_etc_t:s0"}


def personalise(g: Any, request: Mapping[str, Any], tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Write host name, keys and the report of a node into its disk.

    Raises:
        Refused: There is no system in it.
    """
    system = find(g, parts(g), writable=True)
    if system is None:
        raise Refused("no operating system was found on the disk", "check the image: bmi image check")
    if text(g, _STATE) == request["instance_id"] + "\n":
        return {"users": [], "done": False}
    tell("writing keys and host name", 0.5)
    users = _users(g)
    for _name, uid, gid, home in users:
        _write_keys(g, home, uid, gid, request["keys"])
    _write_name(g, request["hostname"])
    _renew(g)
    _report_when_up(g, request)
    # Last: who is killed before this does it all again.
    g.mkdir_p("/var/lib/bmi")
    g.write(_STATE, request["instance_id"].encode() + b"\n")
    return {"users": [name for name, *_ in users], "done": True}


def _users(g: Any) -> list[tuple[str, int, int, str]]:
    """Return root and the first normal user, if there is one: name, user id, group id, home."""
    found = []
    for line in (text(g, "/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit() and fields[5].startswith("/"):
            found.append((fields[0], int(fields[2]), int(fields[3]), fields[5]))
    people = [user for user in found if user[1] in _NORMAL]
    return [*(user for user in found if user[1] == 0)][:1] + sorted(people, key=lambda user: user[1])[:1]


def _write_keys(g: Any, home: str, uid: int, gid: int, keys: list[str]) -> None:
    if not g.is_dir(home, followsymlinks=True):
        return
    folder, file = f"{home}/.ssh", f"{home}/.ssh/authorized_keys"
    g.mkdir_p(folder)
    # Not added to: a disk cloned from somebody else's must not let its former owner in.
    g.rm_f(file)
    g.write(file, "".join(f"{key}\n" for key in keys).encode())
    for path, mode in ((folder, 0o700), (file, 0o600)):
        g.chown(uid, gid, path)
        g.chmod(mode, path)
        _label(g, path, _LABELS["keys"])


def _write_name(g: Any, name: str) -> None:
    g.rm_f("/etc/hostname")
    g.write("/etc/hostname", f"{name}\n".encode())
    _label(g, "/etc/hostname", _LABELS["name"])
    hosts = text(g, "/etc/hosts") or "127.0.0.1 localhost\n::1 localhost\n"
    line = f"127.0.1.1 {name}\n"
    kept = re.sub(r"^127\.0\.1\.1\s.*\n?", "", hosts, flags=re.MULTILINE)
    g.write("/etc/hosts", (kept + ("" if kept.endswith("\n") else "\n") + line).encode())


def _renew(g: Any) -> None:
    """Give it a machine id and a host key of its own."""
    if g.is_file("/etc/machine-id", followsymlinks=True):
        g.truncate("/etc/machine-id")
    for key in g.glob_expand("/etc/ssh/ssh_host_*"):
        g.rm_f(key)
    if g.is_file("/usr/bin/ssh-keygen", followsymlinks=True):
        g.command(["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", _HOST_KEY])


def _report_when_up(g: Any, request: Mapping[str, Any]) -> None:
    if not g.is_dir("/etc/systemd/system"):
        return
    for path, (mode, content) in request["files"].items():
        g.mkdir_p(path.rsplit("/", 1)[0])
        g.write(path, content.encode())
        g.chmod(mode, path)
    unit = request["unit"]
    wants = "/etc/systemd/system/multi-user.target.wants"
    g.mkdir_p(wants)
    g.ln_sf(f"/etc/systemd/system/{unit}", f"{wants}/{unit}")


def _label(g: Any, path: str, label: str) -> None:
    """Label a file as SELinux wants it; a system that cannot be told so looks at all its files when it starts."""
    config = text(g, "/etc/selinux/config") or ""
    if not re.search(r"^SELINUX=(enforcing|permissive)", config, re.MULTILINE):
        return
    try:
        g.setxattr("security.selinux", label, len(label), path)
    except RuntimeError:
        g.touch("/.autorelabel")
