"""Everything that the doctor can find. docs/doctor.md is made from this table."""

from dataclasses import dataclass
from enum import StrEnum

from bmi.api.doctor import Family, Finding, Severity


class Code(StrEnum):
    """What is wrong; stable between releases."""

    UNREADABLE = "unreadable"
    # storage
    VOLUME_MISSING = "volume-missing"
    SEED_MISSING = "seed-missing"
    VOLUME_ORPHAN = "volume-orphan"
    STORAGE_FULL = "storage-full"
    STORAGE_NEARLY_FULL = "storage-nearly-full"
    STORAGE_ROOM_UNKNOWN = "storage-room-unknown"
    STORAGE_BROKEN = "storage-broken"
    STORAGE_COMPLAINS = "storage-complains"
    # target
    EXPORT_MISSING = "export-missing"
    EXPORT_DIFFERS = "export-differs"
    EXPORT_FOREIGN = "export-foreign"
    SESSION_FOREIGN = "session-foreign"
    TARGET_SERVER_ORPHAN = "target-server-orphan"
    TARGET_SERVER_HANGS = "target-server-hangs"
    # boot
    DHCP_NOT_RUNNING = "dhcp-not-running"
    DHCP_HANGS = "dhcp-hangs"
    DHCP_DIFFERS = "dhcp-differs"
    SCRIPTS_NOT_SERVED = "scripts-not-served"
    LEASE_ORPHAN = "lease-orphan"
    LOADER_MISSING = "loader-missing"
    DHCP_FOREIGN = "dhcp-foreign"
    # leg
    LEG_MISSING = "leg-missing"
    LEG_INCOMPLETE = "leg-incomplete"
    LEG_ORPHAN = "leg-orphan"
    MTU_SMALL = "mtu-small"
    MTU_DIFFERS = "mtu-differs"
    # switch
    PORT_DIFFERS = "port-differs"
    PORT_NOT_ISOLATED = "port-not-isolated"
    PORT_UNKNOWN = "port-unknown"
    CABLE_DIFFERS = "cable-differs"
    PORT_WITHOUT_LINK = "port-without-link"
    CARD_ELSEWHERE = "card-elsewhere"
    # power
    NODE_ON_WHILE_FREE = "node-on-while-free"
    NODE_OFF_WHILE_ACTIVE = "node-off-while-active"
    BMC_UNREACHABLE = "bmc-unreachable"
    BMC_REFUSED = "bmc-refused"
    BMC_NAME_MISSING = "bmc-name-missing"
    # inventory
    LEASE_ENDED = "lease-ended"
    # gateway, operation
    GATEWAY_SILENT = "gateway-silent"
    GATEWAY_REPLACED = "gateway-replaced"
    WORKER_SILENT = "worker-silent"
    NO_WORKER = "no-worker"
    OPERATION_ABANDONED = "operation-abandoned"
    NODE_STUCK = "node-stuck"
    NODE_UNCLEAN = "node-unclean"
    IMAGE_STUCK = "image-stuck"
    DISK_STUCK = "disk-stuck"
    NETWORK_STUCK = "network-stuck"
    # environment
    PORT_TAKEN = "port-taken"
    PROGRAM_MISSING = "program-missing"
    CLOCK_OFF = "clock-off"
    DATABASE_NAME_MISSING = "database-name-missing"
    STATE_FULL = "state-full"
    STATE_NEARLY_FULL = "state-nearly-full"


@dataclass(frozen=True)
class Entry:
    """What a code means, and what becomes of it."""

    severity: Severity
    family: Family
    means: str
    mends: str
    """How repair mends it; empty if it does not."""
    otherwise: str
    """What a person does where repair does not help."""


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

TABLE: dict[Code, Entry] = {
    Code.UNREADABLE: Entry(
        _ERROR,
        Family.ENVIRONMENT,
        "A part could not be looked at, or not in time; so nobody knows what is wrong there. Its family is that of "
        "the part.",
        "",
        "mend what the message says, and look again",
    ),
    Code.VOLUME_MISSING: Entry(
        _ERROR,
        Family.STORAGE,
        "The database has an image or a disk whose content is gone.",
        "",
        "look whether the storage is mounted; if the content is lost, deprovision the node and delete the disk or "
        "image",
    ),
    Code.SEED_MISSING: Entry(
        _ERROR,
        Family.STORAGE,
        "The seed volume of a node (host name, SSH keys) is gone.",
        "It is written again from the database.",
        "look at the storage and at the service's log",
    ),
    Code.VOLUME_ORPHAN: Entry(
        _ERROR,
        Family.STORAGE,
        "The storage has a volume with a name of BMI's that nothing in the database refers to.",
        "Removed, with what it holds, but only with `--remove-orphans`.",
        "look at it, then: bmi doctor --repair --remove-orphans",
    ),
    Code.STORAGE_FULL: Entry(
        _ERROR,
        Family.STORAGE,
        "The storage has no room left beside its reserve; nothing can be made, and writes of nodes may fail.",
        "",
        "remove images and disks that nobody needs, or give the storage more room",
    ),
    Code.STORAGE_NEARLY_FULL: Entry(
        _WARNING,
        Family.STORAGE,
        "Less than a tenth of the storage is free.",
        "",
        "remove images and disks that nobody needs, or give the storage more room",
    ),
    Code.STORAGE_ROOM_UNKNOWN: Entry(
        _WARNING,
        Family.STORAGE,
        "The storage does not say how much room it has, as Ceph without a manager.",
        "",
        "see the message; until then nobody notices when it fills up",
    ),
    Code.STORAGE_BROKEN: Entry(
        _ERROR,
        Family.STORAGE,
        "The storage itself says that something of it is broken (Ceph: a check with HEALTH_ERR).",
        "",
        "look at the cluster: ceph health detail",
    ),
    Code.STORAGE_COMPLAINS: Entry(
        _WARNING,
        Family.STORAGE,
        "The storage itself warns (Ceph: a check with HEALTH_WARN, or one about its managers).",
        "",
        "look at the cluster: ceph health detail",
    ),
    Code.EXPORT_MISSING: Entry(
        _ERROR,
        Family.TARGET,
        "A node's disk is not exported; the node waits, or has lost its disk.",
        "The export is made again.",
        "look at the gateway's log, and for other findings about the same node",
    ),
    Code.EXPORT_DIFFERS: Entry(
        _ERROR,
        Family.TARGET,
        "A node's export has another initiator, user or other volumes than it should.",
        "It is made anew; the node logs in again.",
        "look at the gateway's log",
    ),
    Code.EXPORT_FOREIGN: Entry(
        _ERROR,
        Family.TARGET,
        "A node's target server exports something that does not belong there.",
        "The foreign export is removed.",
        "look at the gateway's log",
    ),
    Code.SESSION_FOREIGN: Entry(
        _ERROR,
        Family.TARGET,
        "Somebody else than its node is logged in at an export.",
        "The export is made anew, which ends all its sessions; the node logs in again.",
        "find out who it is: the message has name and address",
    ),
    Code.TARGET_SERVER_ORPHAN: Entry(
        _ERROR,
        Family.TARGET,
        "A target server runs on a gateway for no node that the gateway serves.",
        "It is ended.",
        "look at the gateway's log",
    ),
    Code.TARGET_SERVER_HANGS: Entry(
        _ERROR,
        Family.TARGET,
        "A node's target server runs and does not answer; the node waits for its disk.",
        "It is ended and started anew.",
        "look at the gateway's log; with Ceph look at the cluster: ceph health detail",
    ),
    Code.DHCP_NOT_RUNNING: Entry(
        _ERROR,
        Family.BOOT,
        "No dnsmasq runs on a network; its nodes cannot boot.",
        "It is started.",
        "look at the gateway's log, and for other findings about the same network",
    ),
    Code.DHCP_HANGS: Entry(
        _ERROR,
        Family.BOOT,
        "A network's dnsmasq runs and does not answer; its nodes cannot boot.",
        "It is ended and started anew.",
        "look at the gateway's log",
    ),
    Code.DHCP_DIFFERS: Entry(
        _ERROR,
        Family.BOOT,
        "A network's dnsmasq does not answer exactly the nodes that it should, or not as it should.",
        "It is told again, or started anew.",
        "look at the gateway's log",
    ),
    Code.SCRIPTS_NOT_SERVED: Entry(
        _ERROR,
        Family.BOOT,
        "Boot scripts are not served on a network; its nodes cannot boot.",
        "They are served again.",
        "look at the gateway's log, and for other findings about the same network",
    ),
    Code.LEASE_ORPHAN: Entry(
        _WARNING,
        Family.BOOT,
        "An address is leased to a card that is not to have it.",
        "The lease is dropped.",
        "look at the gateway's log",
    ),
    Code.LOADER_MISSING: Entry(
        _ERROR,
        Family.BOOT,
        "A file that firmware is to load, iPXE or what leads to it, is absent.",
        "",
        "install the Debian package ipxe, or name another file in the settings: boot.loaders, boot.tftp_root",
    ),
    Code.DHCP_FOREIGN: Entry(
        _ERROR,
        Family.BOOT,
        "Somebody else answers DHCP on a network: nodes may boot what he says. Every network was asked.",
        "",
        "find the host by the MAC address in the message and end its DHCP server",
    ),
    Code.LEG_MISSING: Entry(
        _ERROR,
        Family.LEG,
        "A gateway has no interface on a network.",
        "The leg is made again, with what is on it.",
        "look at the gateway's log and at the switch",
    ),
    Code.LEG_INCOMPLETE: Entry(
        _ERROR,
        Family.LEG,
        "A gateway's interface on a network is half there, or has another VLAN or address than it should.",
        "The leg is completed.",
        "look at the gateway's log and at the switch",
    ),
    Code.LEG_ORPHAN: Entry(
        _ERROR,
        Family.LEG,
        "A gateway is on a network that is not in the database.",
        "What it has there is removed.",
        "look at the gateway's log",
    ),
    Code.MTU_SMALL: Entry(
        _ERROR,
        Family.LEG,
        "A leg, or what it hangs on, carries shorter frames than the 1500 bytes that nodes send: they boot, and "
        "then hang.",
        "",
        "give the interface in the message an MTU of 1500 or more: ip link set dev INTERFACE mtu 1500",
    ),
    Code.MTU_DIFFERS: Entry(
        _WARNING,
        Family.LEG,
        "The two ends of a leg carry frames of different length.",
        "",
        "give both interfaces the same MTU: ip link set dev INTERFACE mtu 1500",
    ),
    Code.PORT_DIFFERS: Entry(
        _ERROR,
        Family.SWITCH,
        "A switch port of a node that is in use carries other VLANs than it should.",
        "The port is set again.",
        "find out who else configures the switch",
    ),
    Code.PORT_NOT_ISOLATED: Entry(
        _ERROR,
        Family.SWITCH,
        "A switch port of a node on no network carries a VLAN.",
        "The port is isolated.",
        "find out who else configures the switch",
    ),
    Code.PORT_UNKNOWN: Entry(
        _ERROR,
        Family.SWITCH,
        "A switch does not have the port that a node is said to be plugged into, or is not in the settings.",
        "",
        "correct the node's network card (delete and register the node), or the settings",
    ),
    Code.CABLE_DIFFERS: Entry(
        _ERROR,
        Family.SWITCH,
        "A node's network card heard another switch port by LLDP than the one that the inventory says: BMI would "
        "attach somebody else's machine.",
        "",
        "plug the cable in where the inventory says, or correct the inventory: bmi node update NODE --nic",
    ),
    Code.PORT_WITHOUT_LINK: Entry(
        _WARNING,
        Family.SWITCH,
        "The port of a node that is in use has no link.",
        "",
        "check that the node is on, that the cable is plugged in at both ends, and that it is the right one",
    ),
    Code.CARD_ELSEWHERE: Entry(
        _ERROR,
        Family.SWITCH,
        "A switch hears a node's card at another port than the inventory has: BMI sets the wrong port's VLAN.",
        "",
        "plug the cable into the port that the inventory has, or correct the inventory",
    ),
    Code.NODE_ON_WHILE_FREE: Entry(
        _ERROR,
        Family.POWER,
        "A node that belongs to nobody is switched on.",
        "",
        "switch it off: bmi node power NODE off",
    ),
    Code.NODE_OFF_WHILE_ACTIVE: Entry(
        _WARNING,
        Family.POWER,
        "A node that is in use is switched off; its tenant may want that.",
        "",
        "switch it on: bmi node power NODE on",
    ),
    Code.BMC_UNREACHABLE: Entry(
        _ERROR,
        Family.POWER,
        "A node's management controller does not answer within ten seconds.",
        "",
        "check its address, its cable and power, and the network between",
    ),
    Code.BMC_REFUSED: Entry(
        _ERROR,
        Family.POWER,
        "A node's management controller does not let BMI in, or cannot be talked to.",
        "",
        "correct the user and password of the node's management controller",
    ),
    Code.BMC_NAME_MISSING: Entry(
        _ERROR,
        Family.POWER,
        "A node's management controller does not answer, for its host name stands for no address.",
        "",
        "put the name into the DNS or into /etc/hosts",
    ),
    Code.LEASE_ENDED: Entry(
        _ERROR,
        Family.INVENTORY,
        "The site's inventory does not give a node in use to its project any more: it may be somebody else's. BMI "
        "leaves its power and its ports alone.",
        "",
        "give it back: bmi node deprovision NODE",
    ),
    Code.GATEWAY_SILENT: Entry(
        _ERROR,
        Family.GATEWAY,
        "A gateway is not heard of, and no other one acts for it: its nodes have no disk.",
        "",
        "start its service: bmi gateway",
    ),
    Code.GATEWAY_REPLACED: Entry(
        _WARNING,
        Family.GATEWAY,
        "A gateway is not heard of; another one acts for it.",
        "",
        "start its service: bmi gateway",
    ),
    Code.WORKER_SILENT: Entry(
        _WARNING,
        Family.OPERATION,
        "A worker was heard of within the last day, and is not any more.",
        "",
        "start it again (bmi worker), or wait: it is forgotten after a day",
    ),
    Code.NO_WORKER: Entry(
        _ERROR, Family.OPERATION, "No worker is alive: operations wait.", "", "start one: bmi worker"
    ),
    Code.OPERATION_ABANDONED: Entry(
        _ERROR,
        Family.OPERATION,
        "An operation belongs to a worker that is not alive.",
        "It is let go, so that a worker that lives takes it up where it was left.",
        "start a worker: bmi worker",
    ),
    Code.NODE_STUCK: Entry(
        _ERROR,
        Family.OPERATION,
        "A node is being provisioned or given back, and no operation does it.",
        "It is reset: switched off, taken off its network, and available again. A whole disk is kept.",
        "see why in its events (bmi node events NODE), then: bmi node reset NODE",
    ),
    Code.NODE_UNCLEAN: Entry(
        _ERROR,
        Family.OPERATION,
        "A node waits for its local disks to be wiped, and that cannot be begun: nobody gets it.",
        "",
        "mend what it says: the image, project or network of the setting cleaning",
    ),
    Code.IMAGE_STUCK: Entry(
        _ERROR,
        Family.OPERATION,
        "An image is being made or removed, and no operation does it.",
        "It is removed, with what there is of it.",
        "remove it: bmi image delete IMAGE --now",
    ),
    Code.DISK_STUCK: Entry(
        _ERROR,
        Family.OPERATION,
        "A disk is being made or removed, and no operation does it.",
        "It is removed, with what there is of it.",
        "remove it: bmi disk delete DISK",
    ),
    Code.NETWORK_STUCK: Entry(
        _ERROR,
        Family.OPERATION,
        "A network is being made or removed, and no operation does it.",
        "It is removed, with what there is of it.",
        "remove it: bmi network delete NETWORK",
    ),
    Code.PORT_TAKEN: Entry(
        _ERROR,
        Family.ENVIRONMENT,
        "Another program listens where BMI has to.",
        "",
        "end that program, or choose another port in the settings",
    ),
    Code.PROGRAM_MISSING: Entry(
        _ERROR,
        Family.ENVIRONMENT,
        "A program that BMI runs is not installed.",
        "",
        "install the Debian package that the message names",
    ),
    Code.CLOCK_OFF: Entry(
        _WARNING,
        Family.ENVIRONMENT,
        "A host's clock and the database's differ by more than two seconds: events have wrong times.",
        "",
        "let both hosts set their clocks: timedatectl set-ntp true",
    ),
    Code.DATABASE_NAME_MISSING: Entry(
        _ERROR,
        Family.ENVIRONMENT,
        "The host name of the database stands for no address; what has a connection goes on, new ones fail.",
        "",
        "put the name into the DNS or into /etc/hosts, or correct database.url",
    ),
    Code.STATE_FULL: Entry(
        _ERROR,
        Family.ENVIRONMENT,
        "The file system of a state folder has less than 64 MiB left.",
        "",
        "make room there",
    ),
    Code.STATE_NEARLY_FULL: Entry(
        _WARNING,
        Family.ENVIRONMENT,
        "The file system of a state folder has less than 1 GiB left.",
        "",
        "make room there",
    ),
}


def finding(
    code: Code, thing: str, message: str, *, family: Family | None = None, next_step: str | None = None
) -> Finding:
    """Return a finding as it goes over the wire.

    Args:
        code: What is wrong.
        thing: With what.
        message: The details.
        family: What it is about, where the code does not say.
        next_step: What a person does; what the table says if None.
    """
    entry = TABLE[code]
    repairable = bool(entry.mends) and code is not Code.VOLUME_ORPHAN
    return Finding(
        code=code.value,
        severity=entry.severity,
        family=family or entry.family,
        thing=thing,
        message=message,
        next_step=next_step or ("mend it: bmi doctor --repair" if repairable else entry.otherwise),
        repairable=repairable,
    )


def otherwise(found: Finding) -> Finding:
    """Return a finding that repair did not mend, with what a person does now."""
    if not found.repairable:
        return found
    return found.model_copy(update={"next_step": TABLE[Code(found.code)].otherwise})


def page() -> str:
    """Return docs/doctor.md."""
    lines = [
        "# The doctor",
        "",
        "Made from the table in `src/bmi/doctor/codes.py` by `python -m bmi.doctor.codes`; a test compares.",
        "",
        "`bmi doctor` compares what really exists with the database, counts it, and looks for what is known to",
        "go wrong around BMI. It changes nothing. Every gateway looks at its own host. It takes about five",
        "seconds, most of them to hear whether a foreign DHCP server answers on a network; `bmi doctor --quick`",
        "does not ask. What belongs to an operation that runs is left alone.",
        "",
        "`bmi doctor --repair` does everywhere at once what the service does every minute, and more where the",
        "tables say so; then it looks again, and says what is mended and what is left. It switches no node on or",
        "off, but for one that is stuck and is reset. Volumes that nothing refers to stay, unless",
        "`--remove-orphans` is given.",
        "",
        "The exit status is 0 if nothing is found but warnings, and 1 if errors are left. With `--json` each",
        "finding has the fields `code`, `severity`, `family`, `thing`, `message`, `next_step` and `repairable`.",
    ]
    for family in Family:
        rows = [(code, entry) for code, entry in TABLE.items() if entry.family is family]
        if rows:
            lines += ["", f"## {family.capitalize()}", "", "| code | what it means | repair | else |"]
            lines.append("|---|---|---|---|")
        for code, entry in rows:
            name = f"`{code}`" + (" (warning)" if entry.severity is Severity.WARNING else "")
            lines.append(f"| {name} | {entry.means} | {entry.mends or 'no'} | {entry.otherwise} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
