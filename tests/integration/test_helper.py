"""The helper for real: a gateway without rights serves nodes with it, and nobody else gets anything out of it."""

import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from bmi import netns, processes
from bmi.boot.dhcp_log import Kind
from bmi.boot.dnsmasq import BootHost
from bmi.doctor.environment import listeners
from bmi.doctor.foreign_dhcp import offers
from bmi.drivers import Outcome, Site
from bmi.drivers.leg import Leg
from bmi.drivers.storage import Backing
from bmi.drivers.switch import PortVlans
from bmi.drivers.target import Export, Lun, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import AddressTaken, BadRequest, BmiError, HelperUnavailable, LegError, NotAllowed, PortTaken
from bmi.helper.client import HelpedDnsmasq, HelpedLegs, HelpedRights, HelpedSwitch, Helper
from bmi.helper.id_maps import IdRange, Ids
from bmi.helper.listening import listen
from bmi.helper.wire import MOST, Broken, receive, send
from bmi.ids import new_id
from bmi.run import run
from bmi.wait import wait_until
from tests.helped import USER, RunningHelper, helping, without_rights
from tests.integration.dhcp_client import DISCOVER, DhcpClient
from tests.iscsi import Initiator, gets_through
from tests.wires import Node, rack, running_switch

MARK, OTHER_MARK = "0a1b2c3d", "99999999"
LEG_ADDRESS = IPv4Interface("10.66.0.254/24")
NODE_ADDRESS = IPv4Interface("10.66.0.1/24")
VLAN = 101
MIB = 1 << 20


@dataclass
class Bench:
    """A switch, a helper, a node, and a folder of the user who has no rights."""

    helper: RunningHelper
    node: Node
    switch: Any
    folder: Path
    network: UUID

    @property
    def place(self) -> tuple[Path, UUID]:
        return self.helper.socket, self.network

    def legs(self) -> HelpedLegs:
        return HelpedLegs(self.helper.client(MARK))

    def leg(self) -> Leg:
        return self.legs().up(self.network, VLAN, LEG_ADDRESS)

    def host(self) -> BootHost:
        return BootHost(
            node=UUID(int=1),
            mac=self.node.mac.hex(":"),
            address=NODE_ADDRESS.ip,
            hostname="node-1",
            script_url=f"http://{LEG_ADDRESS.ip}:8080/boot/1/secret/script",
        )


# --- what a process without rights does, with the helper's ---------------------------------------------------


def _target(state: Path, socket: Path) -> TgtTarget:
    return TgtTarget({}, Site(state, MARK, HelpedRights(Helper(socket, MARK))))


def _serve(state: Path, place: Path, portal: Portal, export: Export) -> str:
    with closing(_target(state, place)) as target:
        return str(target.serve(portal, [export]))


def _sessions(state: Path, place: Path, portal: UUID) -> list[tuple[str, str]]:
    with closing(_target(state, place)) as target:
        return [(session.initiator, session.address) for session in target.sessions(portal)]


def _stop(state: Path, place: Path, portal: UUID) -> str:
    with closing(_target(state, place)) as target:
        return str(target.stop(portal))


def _try_without(namespace: str) -> list[str]:
    """Try by oneself what the helper does, and return how each was refused."""
    refused = []
    for attempt in (
        lambda: netns.socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM),
        lambda: netns.create("bmi-never"),
        lambda: run(["ip", "netns", "delete", namespace]),
    ):
        try:
            attempt()
        except Exception as error:
            refused.append(type(error).__name__)
    return refused


def _listen_for_scripts(place: Path, namespace: str, port: int) -> str:
    """Answer one node, as the server of boot scripts does."""
    with HelpedRights(Helper(place, MARK)).socket_inside(
        namespace, socket.AF_INET, socket.SOCK_STREAM
    ) as server:
        server.bind((str(LEG_ADDRESS.ip), port))
        server.listen()
        server.settimeout(30)
        connection, peer = server.accept()
        with connection:
            connection.sendall(b"#!ipxe\n")
        return str(peer[0])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, USER, USER)
    with running_switch(tmp_path) as switch, rack(switch) as nodes:
        options = {"database": switch.db, "namespace": switch.namespace}
        with helping(tmp_path / "h", leg=options, switches={"sw1": {"database": switch.db}}) as helper:
            node = nodes.node()
            HelpedSwitch(helper.client(MARK), "sw1").configure(node.port, PortVlans(VLAN))
            made = Bench(helper, node, switch, own, new_id())
            try:
                yield made
            finally:
                for daemon in processes.recorded_below(own):  # of a test that failed
                    daemon.stop(kill=True)
            if helper.process is None:
                helper.start()
            made.legs().down(made.network)


@pytest.fixture
def export(bench: Bench) -> Export:
    for name in ("disk.img", "seed.iso"):
        file = bench.folder / name
        file.write_bytes(bytes(MIB))
        os.chown(file, USER, USER)
    return Export(
        iqn="iqn.2026-01.org.example:disk",
        initiator="iqn.2026-01.org.example:node",
        username="user",
        password=secrets.token_hex(8),
        luns=(
            Lun(1, Backing("file", str(bench.folder / "disk.img"))),
            Lun(2, Backing("file", str(bench.folder / "seed.iso")), readonly=True),
        ),
    )


def test_a_node_gets_its_disk_from_processes_without_rights(bench: Bench, export: Export) -> None:
    leg = bench.leg()
    portal = Portal(new_id(), LEG_ADDRESS.ip, 3260, leg.namespace, NODE_ADDRESS.ip)
    state = bench.folder
    assert without_rights(_serve, state, bench.helper.socket, portal, export) == Outcome.DONE
    assert without_rights(_serve, state, bench.helper.socket, portal, export) == Outcome.ALREADY

    servers = [found for found in psutil.process_iter() if str(state) in " ".join(_words(found))]
    assert {found.name() for found in servers} == {"tgtd", "haproxy"}
    for found in servers:
        assert found.uids() == (USER, USER, USER)
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{found.pid}/status").read_text().splitlines()
        )
        assert int(status["CapEff"], 16) == 0
    far = replace(portal, namespace=bench.node.namespace)
    with Initiator(far, export).session():
        wait_until(
            lambda: (
                without_rights(_sessions, state, bench.helper.socket, portal.id)
                == [(export.initiator, str(NODE_ADDRESS.ip))]
            ),
            deadline=30,
            what="the log-in",
            next_step="look into tgtd's log",
        )
    run(["ip", "-n", bench.node.namespace, "address", "add", "10.66.0.2/24", "dev", "eth0"])
    assert not gets_through(far, IPv4Address("10.66.0.2"))
    assert without_rights(_stop, state, bench.helper.socket, portal.id) == Outcome.DONE
    assert not [found for found in psutil.process_iter() if str(state) in " ".join(_words(found))]


def offered(bench: Bench) -> IPv4Address | None:
    """Let the node ask for an address."""
    answer = DhcpClient(bench.node.namespace, "eth0").ask(bench.host().mac, DISCOVER, timeout=10)
    return answer.address if answer else None


def _words(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), process.cwd()] if process.uids().real == USER else []
    except psutil.Error:
        return []


def test_the_same_without_the_helper_is_refused(bench: Bench) -> None:
    leg = bench.leg()
    assert without_rights(_try_without, leg.namespace) == ["LegError", "CommandFailed", "CommandFailed"]
    assert netns.exists(leg.namespace)


def test_a_node_reaches_a_server_that_has_no_rights(bench: Bench) -> None:
    leg = bench.leg()
    answers: list[bytes] = []

    def ask() -> None:
        with netns.socket_inside(bench.node.namespace, socket.AF_INET, socket.SOCK_STREAM) as node:
            wait_until(
                lambda: node.connect_ex((str(LEG_ADDRESS.ip), 8080)) == 0,
                deadline=30,
                what="the server",
                next_step="",
            )
            answers.append(node.recv(100))

    thread = threading.Thread(target=ask)
    thread.start()
    assert without_rights(_listen_for_scripts, bench.helper.socket, leg.namespace, 8080) == str(
        NODE_ADDRESS.ip
    )
    thread.join()
    assert answers == [b"#!ipxe\n"]


# --- DHCP ----------------------------------------------------------------------------------------------------


def test_nodes_are_answered_by_a_dnsmasq_that_outlives_the_helper(bench: Bench) -> None:
    leg = bench.leg()
    with closing(HelpedDnsmasq(bench.helper.client(MARK))) as dnsmasq:
        assert dnsmasq.serve(leg, [bench.host()]) is Outcome.DONE
        assert offered(bench) == NODE_ADDRESS.ip
        bench.helper.stop(kill=True)
        assert offered(bench) == NODE_ADDRESS.ip

        bench.helper.start()
        assert dnsmasq.serve(leg, [bench.host()]) is Outcome.ALREADY
        assert dnsmasq.running() == [bench.network]
        assert dnsmasq.answers(leg, [bench.host()])
        # A helper that has died told nobody; its next one begins where the last answer was confirmed.
        seen = {event.kind for event in dnsmasq.events(bench.network)}
        assert Kind.DISCOVER in seen
        assert dnsmasq.events(bench.network) == []
        assert dnsmasq.stop(bench.network) is Outcome.DONE
        assert dnsmasq.running() == []


def test_events_whose_answer_was_lost_come_again(bench: Bench) -> None:
    leg = bench.leg()
    with closing(HelpedDnsmasq(bench.helper.client(MARK))) as first:
        first.serve(leg, [bench.host()])
        assert offered(bench) == NODE_ADDRESS.ip
        wait_until(lambda: first.events(bench.network), deadline=10, what="events", next_step="")
    with closing(
        HelpedDnsmasq(bench.helper.client(MARK))
    ) as second:  # the gateway died before it wrote them down
        assert Kind.DISCOVER in {event.kind for event in second.events(bench.network)}
        second.stop(bench.network)


@pytest.mark.parametrize("away", [False, True], ids=["watched", "while the helper was away"])
def test_the_end_of_a_dnsmasq_is_told(bench: Bench, away: bool) -> None:
    leg = bench.leg()
    ended: list[UUID] = []
    with closing(HelpedDnsmasq(bench.helper.client(MARK))) as dnsmasq:
        dnsmasq.on_exit(ended.append)
        dnsmasq.serve(leg, [bench.host()])
        (server,) = processes.recorded_below(bench.helper.site(MARK).state_dir)
        if away:
            bench.helper.stop(kill=True)
        server.signal(signal.SIGKILL)
        if away:
            bench.helper.start()
        wait_until(lambda: ended == [bench.network], deadline=30, what="the end", next_step="")
        assert dnsmasq.serve(leg, [bench.host()]) is Outcome.DONE
        dnsmasq.stop(bench.network)
        assert ended == [bench.network]


def test_foreign_dhcp_servers_and_listeners_are_seen(bench: Bench) -> None:
    leg = bench.leg()
    rights = HelpedRights(bench.helper.client(MARK))
    assert offers(rights, leg.namespace, leg.interface, seconds=0.2) == []
    with netns.socket_inside(leg.namespace, socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("0.0.0.0", 3260))
        other.listen()
        (found,) = listeners(rights, leg.namespace, 3260)
        assert found.pid == os.getpid()
        assert f":{3260:04X} " in rights.tcp_table(leg.namespace)
    with pytest.raises(OSError, match="No such device"):
        rights.dhcp_sockets(leg.namespace, "eth7")


# --- what is refused -----------------------------------------------------------------------------------------


def _leg_of(namespace: str, network: UUID, interface: str = "eth0") -> Leg:
    return Leg(network, VLAN, LEG_ADDRESS, namespace, interface)


def test_only_legs_of_the_own_installation_are_touched(bench: Bench) -> None:
    leg = bench.leg()
    helper, other = bench.helper.client(MARK), bench.helper.client(OTHER_MARK)
    inside = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
    with netns_of_somebody() as foreign:
        for namespace in (foreign, bench.switch.namespace, "../../proc/1/ns/net", "", None):
            with pytest.raises(NotAllowed, match="is not a leg"):
                helper.call("rights.socket_inside", namespace=namespace, **inside)
        for verb, values in {
            "rights.let_in": {"namespace": foreign, "port": 3260, "peer": None},
            "rights.tcp_table": {"namespace": foreign},
            "rights.listening": {"namespace": None, "port": 22, "udp": False},
            "rights.dhcp_sockets": {"namespace": foreign, "interface": "eth0"},
            "dnsmasq.serve": {"leg": _leg_of(foreign, bench.network), "hosts": []},
            "dnsmasq.end_if_hung": {"leg": _leg_of(foreign, bench.network)},
        }.items():
            with pytest.raises(NotAllowed, match="is not a leg"):
                helper.call(verb, **values)
    with pytest.raises(NotAllowed, match="is not a leg"):
        other.call("rights.socket_inside", namespace=leg.namespace, **inside)
    with pytest.raises(NotAllowed, match="is not a leg"):
        helper.call(
            "rights.socket_inside", namespace=leg.namespace, family=socket.AF_PACKET, type=socket.SOCK_RAW
        )
    with pytest.raises(NotAllowed, match="is not a leg"):
        helper.call("dnsmasq.serve", leg=_leg_of(leg.namespace, new_id()), hosts=[])
    for interface in ("eth0\ndhcp-script=/tmp/x", "--", "../eth0", "e" * 40):
        with pytest.raises(NotAllowed, match="is not a leg"):
            helper.call("dnsmasq.serve", leg=replace(leg, interface=interface), hosts=[])
    assert HelpedDnsmasq(other).running() == []
    assert list(HelpedLegs(other).legs()) == []
    HelpedLegs(other).down(bench.network)
    assert list(bench.legs().legs()) == [leg]


def test_what_a_host_is_called_never_becomes_a_line_of_dnsmasq(bench: Bench) -> None:
    leg = bench.leg()
    dnsmasq = HelpedDnsmasq(bench.helper.client(MARK))
    for host in (
        replace(bench.host(), hostname="a\ndhcp-script=/tmp/x"),
        replace(bench.host(), script_url="http://a/\ndhcp-script=/tmp/x"),
        replace(bench.host(), mac="52:54:00:00:00:01\nx"),
    ):
        with pytest.raises(BadRequest):
            dnsmasq.serve(leg, [host])
    assert dnsmasq.running() == []


@contextmanager
def netns_of_somebody() -> Iterator[str]:
    name = f"somebody-{secrets.token_hex(3)}"
    netns.create(name)
    try:
        yield name
    finally:
        netns.delete(name)


def _ask_as_another(place: Path) -> str:
    """Ask as a user who may not."""
    os.setresuid(*[os.getuid()] * 3)
    try:
        HelpedLegs(Helper(place, MARK)).legs()
    except HelperUnavailable as error:
        return error.message
    return "answered"


def test_nobody_but_the_user_and_root_is_answered(bench: Bench) -> None:
    assert list(bench.legs().legs()) == []  # root
    assert without_rights(_ask_as_another, bench.helper.socket) == "answered"
    os.chown(bench.helper.socket, 0, 0)
    assert "Permission denied" in without_rights(_ask_as_another, bench.helper.socket)
    # Even one who has got at the socket is asked who he is.
    bench.helper.stop()
    bench.helper.user = USER + 1
    bench.helper.start()
    bench.helper.socket.chmod(0o666)
    assert "did not answer" in without_rights(_ask_as_another, bench.helper.socket)
    assert f"of user {USER} asked" in bench.helper.log.read_text()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"verb": "legs.up", "installation": MARK, "arguments": {"vlan": 5}}, "network"),
        ({"verb": "legs.up", "installation": MARK}, "legs.up"),
        ({"verb": "legs.legs", "installation": MARK, "arguments": {"more": 1}}, "more"),
        ({"verb": "legs.__init__", "installation": MARK, "arguments": {}}, "does not know the verb"),
        ({"verb": "run", "installation": MARK, "arguments": {"argv": ["id"]}}, "does not know the verb"),
        ({"verb": ["legs.up"], "installation": MARK}, "does not know the verb"),
        ({"verb": "legs.legs", "installation": "../../x", "arguments": {}}, "installation"),
        ({"verb": "switch.ports", "switch": "nowhere", "installation": MARK, "arguments": {}}, "no switch"),
        ({}, "does not know the verb"),
    ],
)
def test_what_is_no_call_is_answered_with_an_error(
    bench: Bench, request_: dict[str, Any], words: str
) -> None:
    with talking(bench) as connection:
        send(connection, request_)
        answer, _ = receive(connection)
    assert words in json.dumps(answer["error"])
    assert list(bench.legs().legs()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0\0\0\2[]",
        b"\0\0\0\4null",
        b"\0\0\0\5{{{{{",
        b"\0\1\0\0" + b"[" * 65536,
        struct.pack("!I", MOST + 1) + b"{}",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(bench: Bench, content: bytes) -> None:
    with talking(bench) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        with pytest.raises(Broken):
            receive(connection)
    assert list(bench.legs().legs()) == []


def test_who_says_nothing_does_not_keep_others_waiting(bench: Bench) -> None:
    silent = [talk(bench) for _ in range(50)]
    assert list(bench.legs().legs()) == []
    for connection in silent:
        connection.close()


def test_many_ask_at_once_and_nothing_is_left_open(bench: Bench) -> None:
    leg = bench.leg()
    rights = HelpedRights(bench.helper.client(MARK))
    assert bench.helper.process is not None
    process = psutil.Process(bench.helper.process.pid)

    def ask() -> None:
        for _ in range(20):
            rights.socket_inside(leg.namespace, socket.AF_INET, socket.SOCK_STREAM).close()

    ask()
    before = process.num_fds()
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(
        lambda: process.num_fds() <= before, deadline=10, what="descriptors to be closed", next_step=""
    )


@contextmanager
def talking(bench: Bench) -> Iterator[socket.socket]:
    with talk(bench) as connection:
        yield connection


def talk(bench: Bench) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect(str(bench.helper.socket))
    return connection


# --- coming and going ----------------------------------------------------------------------------------------


def test_errors_are_those_of_the_drivers(bench: Bench) -> None:
    with pytest.raises(LegError, match="5000"):
        bench.legs().up(bench.network, 5000, LEG_ADDRESS)
    bench.leg()
    with pytest.raises(AddressTaken, match=str(NODE_ADDRESS.ip)):
        bench.legs().up(bench.network, VLAN, LEG_ADDRESS, also=[NODE_ADDRESS], lease=60)


def test_who_asks_while_the_helper_is_restarted_waits_for_it(bench: Bench) -> None:
    leg = bench.leg()
    bench.helper.stop()
    late = threading.Timer(1, bench.helper.start)
    late.start()
    assert list(bench.legs().legs()) == [leg]
    late.join()


def test_a_helper_that_is_away_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmi.helper.client._REACHED", 0.2)
    bench.helper.stop()
    with pytest.raises(HelperUnavailable, match=r"the helper at .* cannot be used: .*; start it"):
        bench.legs().legs()


def test_a_second_helper_does_not_take_the_place_of_one_that_answers(bench: Bench) -> None:
    with pytest.raises(PortTaken, match="another helper"):
        listen(bench.helper.socket, USER)
    assert list(bench.legs().legs()) == []


def test_a_helper_that_is_asked_to_end_finishes_what_it_does(bench: Bench) -> None:
    results: list[Leg] = []
    asking = threading.Thread(target=lambda: results.append(bench.leg()))
    asking.start()
    wait_until(
        lambda: bench.network in {leg.network for leg in bench.legs().legs()} or not asking.is_alive(),
        deadline=10,
        what="the leg to begin",
        next_step="",
    )
    assert bench.helper.process is not None
    bench.helper.process.send_signal(signal.SIGTERM)
    asking.join()
    assert bench.helper.process.wait(20) == 0
    bench.helper.process = None
    assert [leg.complete for leg in results] == [True]


# --- ids of user namespaces ----------------------------------------------------------------------------------


@contextmanager
def apart(user: int) -> Iterator[int]:
    """Give a process of a user in a user namespace of its own, whose ids are not set."""
    words = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--",
        "unshare",
        "--user",
        "cat",
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        own = Path("/proc/self/ns/user").stat().st_ino
        try:
            wait_until(
                lambda: Path(f"/proc/{process.pid}/ns/user").stat().st_ino != own,
                deadline=10,
                what="the namespace",
                next_step="",
            )
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def given() -> Iterator[range]:
    """Give ids to the user, as the host's administrator does."""
    files = {Path(f"/etc/sub{ids}"): Path(f"/etc/sub{ids}").read_text() for ids in Ids}
    try:
        for file in files:
            with file.open("a") as more:
                more.write(f"{USER}:700000:65536\n")
        yield range(700000, 765536)
    finally:
        for file, text in files.items():
            file.write_text(text)


def test_the_users_own_namespaces_get_the_ids_that_are_given_to_him(bench: Bench, given: range) -> None:
    helper = bench.helper.client("00000000")
    with apart(USER) as pid:
        ranges = [IdRange(0, given.start, 65535), IdRange(65535, USER, 1)]
        helper.call("ids.write", pid=pid, ids=Ids.USERS, ranges=ranges)
        helper.call("ids.write", pid=pid, ids=Ids.GROUPS, ranges=[IdRange(0, given.start, 65536)])
        found = [line.split() for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
        assert found == [["0", "700000", "65535"], ["65535", str(USER), "1"]]
        assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", "700000", "65536"]
        with pytest.raises(BadRequest, match="cannot be set: Operation not permitted"):
            helper.call("ids.write", pid=pid, ids=Ids.USERS, ranges=ranges)  # the kernel allows it once


def test_no_other_ids_and_no_other_namespaces_are_touched(bench: Bench, given: range) -> None:
    def refused(pid: int, inside: int, outside: int, count: int, *, of: type[BmiError] = NotAllowed) -> None:
        with pytest.raises(of):
            bench.helper.client("00000000").call(
                "ids.write", pid=pid, ids=Ids.USERS, ranges=[IdRange(inside, outside, count)]
            )

    with apart(USER) as pid:
        for outside, count in ((0, 1), (0, 1 << 32), (given.start - 1, 2), (given.start, 65537), (USER + 1, 1),
                               (given.start, 0), (given.start, -1)):  # fmt: skip
            refused(pid, 0, outside, count)
        assert Path(f"/proc/{pid}/uid_map").read_text() == ""
    with apart(USER) as pid, pytest.raises(NotAllowed, match="own group alone"):
        bench.helper.client("00000000").call(
            "ids.write", pid=pid, ids=Ids.GROUPS, ranges=[IdRange(0, USER, 1)]
        )
    with apart(USER + 1) as pid:  # somebody else's
        refused(pid, 0, given.start, 10)
        assert Path(f"/proc/{pid}/uid_map").read_text() == ""
    refused(os.getpid(), 0, given.start, 10)  # the host's
    refused(1, 0, given.start, 10, of=BmiError)
    refused(1 << 30, 0, given.start, 10, of=BadRequest)
    refused(-1, 0, given.start, 10, of=BadRequest)
