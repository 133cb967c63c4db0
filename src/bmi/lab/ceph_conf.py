"""What the lab's Ceph consists of, and the files that say so: configuration and keyrings, as text.

Keys are made here and not asked of the cluster: so they lie on disk before anything runs that needs them.
"""

import base64
import os
import secrets
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict

Caps = Mapping[str, str]
"""What a CephX user may do: a daemon type (`mon`, `osd`, `mgr`) and its capabilities."""

_DAEMON_CAPS: Mapping[str, Caps] = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
}
_OSD_CAPS: Caps = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}


class Shape(BaseModel):
    """A cluster, decided once when it is first brought up and written down before anything of it is made."""

    model_config = ConfigDict(frozen=True)

    fsid: UUID
    port: int
    """Where its monitor listens, on 127.0.0.1."""
    osds: tuple[UUID, ...]
    """One for each OSD."""
    mgr: bool
    size: int
    """Bytes of each OSD; the file is sparse."""

    @classmethod
    def plan(cls, *, port: int, osds: int, mgr: bool, size: int) -> "Shape":
        """Think out a new cluster."""
        return cls(fsid=uuid4(), port=port, osds=tuple(uuid4() for _ in range(osds)), mgr=mgr, size=size)

    def without_names(self) -> dict[str, int]:
        """Return what a caller asks for, without what is made up for each cluster anew."""
        return {"port": self.port, "osds": len(self.osds), "mgr": self.mgr, "size": self.size}

    @property
    def mon_host(self) -> str:
        """The monitor's address as Ceph's configuration writes it."""
        return f"v2:127.0.0.1:{self.port}"

    def keyring(self) -> str:
        """Return new keys for the administrator and every daemon."""
        osds = {f"osd.{number}": _OSD_CAPS for number in range(len(self.osds))}
        return "".join(entry(name, new_key(), caps) for name, caps in {**_DAEMON_CAPS, **osds}.items())

    def client_conf(self, keyring: Path) -> str:
        """Return the configuration of a client.

        Args:
            keyring: File with the client's key.
        """
        return _CLIENT.format(fsid=self.fsid, mon_host=self.mon_host, keyring=keyring)

    def conf(self, folder: Path) -> str:
        """Return the configuration of the daemons and of the administrator.

        Args:
            folder: Where everything of the cluster lies.
        """
        client = self.client_conf(folder / "keyring")
        return client + _DAEMONS.format(folder=folder, size=self.size)


def new_key() -> str:
    """Return a new CephX key: type AES, time of making, length and 16 random bytes (Ceph's CryptoKey)."""
    secret = secrets.token_bytes(16)
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, len(secret)) + secret).decode()


def entry(name: str, key: str, caps: Caps) -> str:
    """Return a user's part of a keyring.

    Args:
        name: With its type, as in `client.admin`.
        key: The user's key.
        caps: What the user may do.
    """
    lines = [f"[{name}]", f"\tkey = {key}", *(f'\tcaps {on} = "{what}"' for on, what in caps.items())]
    return "\n".join(lines) + "\n"


def key_in(keyring: Path) -> str | None:
    """Return the first key in a keyring file, or None if there is no such file."""
    try:
        lines = keyring.read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(line.partition("=")[2].strip() for line in lines if line.strip().startswith("key"))


def write(file: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    partial = file.with_name(f"{file.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    partial.rename(file)


_CLIENT = """\
[global]
fsid = {fsid}
mon_host = {mon_host}
keyring = {keyring}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
# No sockets and no logs in folders of the host. A socket's path would also be too long in many folders.
admin_socket =
log_file =
# Snapshots can be cloned without being protected first, and go while clones live.
rbd_default_clone_format = 2
# Without an object map, removing an empty image deletes every object that it might have.
rbd_default_features = 61
"""

_DAEMONS = """
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
# A port that is taken stays taken; by default a daemon tries for ten seconds.
ms_bind_retry_count = 1
auth_allow_insecure_global_id_reclaim = false
run_dir = {folder}
crash_dir = {folder}
pid_file =
# What daemons say goes to their standard error, which is a file in this folder.
log_to_stderr = true
err_to_stderr = true
mon_cluster_log_to_file = false
# One host, one copy of everything.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_max_pg_per_osd = 1000
mon_warn_on_pool_no_redundancy = false
mon_warn_on_msgr2_not_enabled = false
# The data are worth nothing: work on when the host's disk is nearly full.
mon_data_avail_warn = 2
mon_data_avail_crit = 1
# Levels after the slash are gathered in memory for a crash dump, which costs time with every message.
debug_ms = 0/0
debug_auth = 0/0
debug_objecter = 0/0
debug_mon = 0/0
debug_monc = 0/0
debug_paxos = 0/0
debug_mgr = 0/0
debug_mgrc = 0/0
debug_osd = 0/0
debug_bluestore = 0/0
debug_bluefs = 0/0
debug_bdev = 0/0
debug_rocksdb = 0/0

[mon]
mon_data = {folder}/mon
# By default paxos gathers changes for up to a second, and every snapshot made or removed waits as long.
paxos_propose_interval = 0.001
paxos_min_wait = 0.001
# Quotas are felt as soon as the monitor looks at what the manager has counted: seconds, by default five each.
mon_tick_interval = 1
mon_mgr_digest_period = 1

[mgr]
mgr_data = {folder}/mgr
mgr_initial_modules =
mgr_stats_period = 1

[osd]
osd_data = {folder}/osd.$id
osd_objectstore = bluestore
osd_class_load_list = *
osd_class_default_list = *
osd_op_num_shards = 2
osd_fast_shutdown_notify_mon = true
bluestore_block_size = {size}
bluestore_block_create = true
bluestore_block_preallocate_file = false
# To close a block file waits this many milliseconds, and a new OSD does so a dozen times. The default is 250.
bdev_aio_poll_ms = 10
bluestore_cache_autotune = false
bluestore_cache_size = 268435456
osd_memory_target = 1073741824
# The log of each placement group is kept for OSDs that come back behind the others. Here it is just memory.
osd_min_pg_log_entries = 100
osd_max_pg_log_entries = 200
osd_pg_log_dups_tracked = 100
"""
