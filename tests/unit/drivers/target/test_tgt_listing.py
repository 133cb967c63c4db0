from bmi.drivers.target.tgt_listing import (
    Connection,
    ListedLun,
    ListedTarget,
    accounts,
    connections,
    portals,
    target_ids,
    targets,
)

# As tgtd 1.0.85 prints it, cut down.
DRIVERS = """LLDs:
    iscsi: ready
        Target 7: iqn.2026-01.org.example:a
        Target 8: iqn.2026-01.org.example:b
    iser: error
"""
NEXUS = """    I_T nexus information:
        I_T nexus: 1
            Initiator: iqn.2026-01.org.example:node-a alias: {alias}
            Connection: 0
                IP Address: 192.0.2.9
"""
TARGETS = """Target 7: iqn.2026-01.org.example:a
    System information:
        Driver: iscsi
        State: ready
{nexus}    LUN information:
        LUN: 0
            Type: controller
            SCSI SN: c0ffee
            Readonly: No
            Backing store type: null
            Backing store path: None
            Backing store flags: 
        LUN: 1
            Type: disk
            SCSI ID: 11
            SCSI SN: 22
            Size: 67 MB, Block size: 512
            Readonly: Yes
            Backing store type: rdwr
            Backing store path: /data/a disk: one
            Backing store flags: 
    Account information:
        user-a
    ACL information:
        iqn.2026-01.org.example:node-a
Target 8: iqn.2026-01.org.example:b
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            SCSI SN: beef
            Readonly: No
            Backing store type: null
            Backing store path: None
    Account information:
    ACL information:
"""  # noqa: W291
IDS = {"iqn.2026-01.org.example:a": 7, "iqn.2026-01.org.example:b": 8}
EXPECTED = [
    ListedTarget(
        7,
        "iqn.2026-01.org.example:a",
        luns=[
            ListedLun(0, "c0ffee", readonly=False, path="None", type="null"),
            ListedLun(1, "22", readonly=True, path="/data/a disk: one", type="rdwr"),
        ],
        accounts=["user-a"],
        initiators=["iqn.2026-01.org.example:node-a"],
    ),
    ListedTarget(
        8,
        "iqn.2026-01.org.example:b",
        luns=[ListedLun(0, "beef", readonly=False, path="None", type="null")],
    ),
]


def test_ids_are_read_from_the_listing_of_drivers() -> None:
    assert target_ids(DRIVERS) == IDS


def test_targets_are_read_with_what_belongs_to_them() -> None:
    assert targets(TARGETS.format(nexus=NEXUS.format(alias="none")), IDS) == EXPECTED
    assert targets("", {}) == []


def test_a_target_made_since_the_ids_were_read_is_left_out() -> None:
    only_b = {"iqn.2026-01.org.example:b": 8}
    assert targets(TARGETS.format(nexus=""), only_b) == EXPECTED[1:]


def test_lines_in_an_alias_are_not_believed() -> None:
    forged = (
        "x\nTarget 1: iqn.2026-01.org.example:b\n    LUN information:\n        LUN: 9\n"
        "        LUN: nine\n    Account information:\n        root\n"
        "    ACL information:\n        iqn.evil:node\n"
    )
    own = forged.replace("Target 1", "Target 7").replace("example:b", "example:a")
    for alias in (forged, own):
        assert targets(TARGETS.format(nexus=NEXUS.format(alias=alias)), IDS) == EXPECTED


def test_an_alias_that_was_cut_off_does_not_hide_what_follows() -> None:
    nexus = NEXUS.format(alias="A" * 1000)[:1024]
    assert not nexus.endswith("\n")
    assert targets(TARGETS.format(nexus=nexus), IDS) == EXPECTED


def test_connections() -> None:
    text = (
        "Session: 4\n    Connection: 0\n        Initiator: iqn.a:b\n        IP Address: 192.0.2.9\n"
        "Session: 3\n    Connection: 1\n        Initiator: iqn.a:c\n        \n"
    )
    assert connections(text) == [Connection(4, 0, "iqn.a:b", "192.0.2.9"), Connection(3, 1, "iqn.a:c", "")]
    assert connections("") == []


def test_accounts_and_portals() -> None:
    assert accounts("Account list:\n    user-a\n    user-b\n") == {"user-a", "user-b"}
    assert accounts("") == set()
    assert portals("Portal: 192.0.2.1:3260,1\nPortal: [::]:3260,1\n") == ["192.0.2.1:3260", "[::]:3260"]
