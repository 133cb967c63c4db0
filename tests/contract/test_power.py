"""What every power driver must do. A further driver is one more `Bench` and one more word in `DRIVERS`."""

import shutil
import socket
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import requests

from bmi.drivers import Site, load
from bmi.drivers.power import Bmc, BootDevice, Console, Power, PowerState
from bmi.errors import (
    BmcRefused,
    BmcUnreachable,
    BmiError,
    ConsoleLost,
    ConsoleUnavailable,
    DeadlineExceeded,
)
from bmi.lab.bmc import Controllers
from bmi.lab.ipmi import IpmiController
from bmi.lab.node import VirtualNode
from bmi.lab.pdu import Pdu
from bmi.lab.testing import controllers, power_only
from bmi.wait import wait_until
from tests.hil.double import Double, serving
from tests.hil.world import User, World

DRIVERS = ["redfish", "ipmi", "pdu", "hil", "memory"]
PASSWORD = "an-unusual-word"  # of at most 20 bytes: IPMI knows no longer ones


class Bench(ABC):
    """A driver, the controllers of two nodes, and a look at the nodes that does not go through the driver."""

    name: str
    options: dict[str, Any]
    bmcs: list[Bmc]
    unreachable: Bmc
    soon: float = 2
    """Seconds in which one that does not answer is given up on."""
    has_drives = True
    """Whether the protocol knows virtual drives."""
    chooses_boot = True
    """Whether it can choose what the firmware starts from."""
    has_console = True
    takes_over = False
    """Whether the protocol can end a console's session that somebody else has."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "state", "0badcafe")

    def driver(self) -> Power:
        """Return a new driver object."""
        made: Power = load("power", self.name, self.options, self.site)
        return made

    @abstractmethod
    def runs(self, bmc: Bmc) -> int | None:
        """Say which run of the node this is, the same number as long as it has power; None without power."""

    @abstractmethod
    def boots_from(self, bmc: Bmc) -> BootDevice: ...

    @abstractmethod
    def insert(self, bmc: Bmc) -> str:
        """Put an image into a virtual drive behind the driver's back, and return its name."""

    @abstractmethod
    def restart(self) -> None:
        """Restart the controllers, not the nodes."""

    def forget_session(self, bmc: Bmc) -> None:  # noqa: B027 - most need nothing
        """Do to a controller what it needs between two sessions of a console."""

    @abstractmethod
    def serial_line(self, bmc: Bmc) -> AbstractContextManager["SerialEnd"]:
        """Give the node's end of its serial line; the node is off."""


class SerialEnd(Protocol):
    """A node's end of its serial line, in the hand of a test."""

    def say(self, text: bytes) -> None: ...

    def heard(self) -> bytes:
        """Return everything that was typed."""


class MachineEnd:
    """In the place of a machine: what QEMU would read and write."""

    def __init__(self, node: VirtualNode) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        node.console_log.write_bytes(b"")
        self._log = node.console_log
        self._typed = bytearray()
        self._lines: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        node.console.unlink(missing_ok=True)
        self._listener.bind(str(node.console))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def say(self, text: bytes) -> None:
        with self._log.open("ab") as log:
            log.write(text)

    def heard(self) -> bytes:
        return bytes(self._typed)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for line in self._lines:  # as when the machine ends
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self._lines.append(line)
            threading.Thread(target=self._hear, args=(line,), daemon=True).start()

    def _hear(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            while typed := line.recv(4096):
                self._typed += typed


@contextmanager
def machine_end(node: VirtualNode) -> Iterator[MachineEnd]:
    end = MachineEnd(node)
    try:
        yield end
    finally:
        end.close()
        node.console.unlink(missing_ok=True)


class MemoryEnd:
    """The files of a controller in memory."""

    def __init__(self, power: Any, bmc: Bmc) -> None:
        self._power, self._bmc = power, bmc
        self._before = len(power.typed(bmc))

    def say(self, text: bytes) -> None:
        self._power.say(self._bmc, text)

    def heard(self) -> bytes:
        found: bytes = self._power.typed(self._bmc)
        return found[self._before :]


class RedfishBench(Bench):
    """The lab's controllers over real machines."""

    name = "redfish"
    options: dict[str, Any] = {"timeout": 20}

    def __init__(self, folder: Path, served: Controllers) -> None:
        super().__init__(folder)
        self._served = served
        self.bmcs = list(served.bmcs().values())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.unreachable = replace(self.bmcs[0], address=f"http://127.0.0.1:{free.getsockname()[1]}")

    def runs(self, bmc: Bmc) -> int | None:
        node = self._node(bmc)
        found = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if str(node.spec.id) in (process.info["cmdline"] or [])
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def boots_from(self, bmc: Bmc) -> BootDevice:
        return self._node(bmc).boot_device()

    def insert(self, bmc: Bmc) -> str:
        with served_files(self.site.state_dir.parent / "media") as (folder, address):
            (folder / "rescue.iso").write_bytes(b"an image")
            drive = f"{bmc.address}/redfish/v1/Systems/{self._node(bmc).spec.id}/VirtualMedia/Cd"
            answer = requests.post(
                f"{drive}/Actions/VirtualMedia.InsertMedia",
                json={"Image": f"{address}/rescue.iso"},
                auth=(bmc.username, bmc.password),
                timeout=10,
            )
            assert answer.ok, answer.text
        return f"{address}/rescue.iso"

    def restart(self) -> None:
        self._served.stop()
        ports = [int(bmc.address.rpartition(":")[2]) for bmc in self.bmcs]
        endpoints = zip(self._served.config.endpoints, ports, strict=True)
        same = tuple(replace(endpoint, port=port) for endpoint, port in endpoints)
        self._served.config = replace(self._served.config, endpoints=same)
        self._served.start()

    def serial_line(self, bmc: Bmc) -> AbstractContextManager[SerialEnd]:
        return machine_end(self._node(bmc))

    def _node(self, bmc: Bmc) -> VirtualNode:
        return self._served.config.nodes()[self.bmcs.index(bmc)]


class IpmiBench(Bench):
    """OpenIPMI's simulator over real machines."""

    name = "ipmi"
    options: dict[str, Any] = {
        "timeout": 20,
        "answer": 1,
        "tries": 2,
        "cipher_suite": 3,
        "believe_flags": False,  # the simulator never sets it
    }
    soon = 15
    has_drives = False
    takes_over = True

    def __init__(self, folder: Path, served: list[IpmiController]) -> None:
        super().__init__(folder)
        self._served = served
        self.bmcs = [Bmc(each.address, each.username, each.password) for each in served]
        self.unreachable = replace(self.bmcs[0], address=f"127.0.0.1:{free_udp_port()}")

    def runs(self, bmc: Bmc) -> int | None:
        process = self._node(bmc).process
        return process.pid if process else None

    def boots_from(self, bmc: Bmc) -> BootDevice:
        return self._node(bmc).boot_device()

    def insert(self, bmc: Bmc) -> str:
        raise AssertionError("there is none")

    def restart(self) -> None:
        for each in self._served:
            each.stop()
            each.start()

    def serial_line(self, bmc: Bmc) -> AbstractContextManager[SerialEnd]:
        self.forget_session(bmc)
        return machine_end(self._node(bmc))

    def forget_session(self, bmc: Bmc) -> None:
        """Restart the simulator.

        It takes the first packet of a session for a repetition of the last one of the session before where both
        have the same number, and leaves as many of its bytes out.
        """
        self._served[self.bmcs.index(bmc)].stop()
        self._served[self.bmcs.index(bmc)].start()

    def _node(self, bmc: Bmc) -> VirtualNode:
        return self._served[self.bmcs.index(bmc)].node


class PduBench(Bench):
    """Net-SNMP's agent over real machines."""

    name = "pdu"
    options: dict[str, Any] = {"timeout": 60, "answer": 2, "tries": 2, "discharge": 0}
    soon = 5
    has_drives = chooses_boot = has_console = False

    def __init__(self, folder: Path, served: Pdu) -> None:
        super().__init__(folder)
        self._served = served
        self.bmcs = [
            Bmc(served.address, served.username, served.password, {"outlets": str(number)})
            for number in (1, 2)
        ]
        self.unreachable = replace(self.bmcs[0], address=f"127.0.0.1:{free_udp_port()}")

    def runs(self, bmc: Bmc) -> int | None:
        process = self._node(bmc).process
        return process.pid if process else None

    def boots_from(self, bmc: Bmc) -> BootDevice:
        return self._node(bmc).boot_device()

    def insert(self, bmc: Bmc) -> str:
        raise AssertionError("there is none")

    def restart(self) -> None:
        self._served.stop()
        self._served.start()

    def serial_line(self, bmc: Bmc) -> AbstractContextManager[SerialEnd]:
        return machine_end(self._node(bmc))

    def _node(self, bmc: Bmc) -> VirtualNode:
        return VirtualNode(*self._served.nodes[self.bmcs.index(bmc)])


class MemoryBench(Bench):
    name = "memory"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bmcs = [Bmc(f"https://bmc-{number}.example/a b", "operator", PASSWORD) for number in (1, 2)]
        self.unreachable = Bmc("https://down.example", "operator", PASSWORD)
        self.options = {"password": PASSWORD, "unreachable": [self.unreachable.address]}

    def runs(self, bmc: Bmc) -> int | None:
        return 1 if self.driver().state(bmc) is PowerState.ON else None

    def boots_from(self, bmc: Bmc) -> BootDevice:
        from bmi.drivers.power.memory import MemoryPower

        return MemoryPower(self.options, self.site).boots_from(bmc) or BootDevice.DISK

    def insert(self, bmc: Bmc) -> str:
        from bmi.drivers.power.memory import MemoryPower

        MemoryPower(self.options, self.site).insert(bmc, "rescue.iso")
        return "rescue.iso"

    def restart(self) -> None:
        """Nothing runs."""

    def serial_line(self, bmc: Bmc) -> AbstractContextManager[SerialEnd]:
        from bmi.drivers.power.memory import MemoryPower

        return nullcontext(MemoryEnd(MemoryPower(self.options, self.site), bmc))


class HilBench(Bench):
    """A HIL and its OBMd that are played."""

    name = "hil"
    has_drives = has_console = False

    def __init__(self, folder: Path, double: Double) -> None:
        super().__init__(folder)
        self._double = double
        self.options = {"url": double.url, "projects": ["red"], "timeout": 20, "poll": 0.01}
        self.bmcs = [Bmc(name, "operator", PASSWORD) for name in ("n1", "n2")]
        self.unreachable = Bmc("dark", "operator", PASSWORD)

    def runs(self, bmc: Bmc) -> int | None:
        node = self._double.world.nodes[bmc.address]
        return node.run if node.on else None

    def boots_from(self, bmc: Bmc) -> BootDevice:
        chosen = self._double.world.nodes[bmc.address].bootdev
        return BootDevice.NETWORK if chosen == "pxe" else BootDevice.DISK

    def insert(self, bmc: Bmc) -> str:
        raise AssertionError("there is none")

    def serial_line(self, bmc: Bmc) -> AbstractContextManager[SerialEnd]:
        raise AssertionError("there is none")

    def restart(self) -> None:
        self._double.restart_obmd()


@contextmanager
def hil_bench(folder: Path) -> Iterator[Bench]:
    world = World()
    world.projects.add("red")
    world.users["operator"] = User(PASSWORD, {"red"})
    for name in ("n1", "n2", "dark"):
        world.add_node(name, "red", nic1="52:54:00:00:00:01")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world.nodes["dark"].obmd = f"http://127.0.0.1:{free.getsockname()[1]}"
    with serving(world) as double:
        yield HilBench(folder, double)


@contextmanager
def served_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder over HTTP; gives it and the server's address."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield folder, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def bench_of(name: str, folder: Path) -> Iterator[Bench]:
    if name == "memory":
        yield MemoryBench(folder)
        return
    if name == "hil":
        with hil_bench(folder) as played:
            yield played
        return
    if name == "pdu":
        nodes = [(spec, folder / spec.name) for spec in power_only(2)]
        unit = Pdu(nodes, folder / "pdu", free_udp_port(), "operator", PASSWORD)
        try:
            unit.start()
            yield PduBench(folder, unit)
        finally:
            unit.stop()
            for each in nodes:
                VirtualNode(*each).power_off()
        return
    if name == "ipmi":
        with ipmi_controllers(folder) as simulated:
            yield IpmiBench(folder, simulated)
        return
    with controllers(folder, power_only(2)) as served:
        yield RedfishBench(folder, served)


@contextmanager
def ipmi_controllers(folder: Path) -> Iterator[list[IpmiController]]:
    made = [
        IpmiController(
            spec, folder / spec.name, folder / f"ipmi-{spec.name}", free_udp_port(), "operator", PASSWORD
        )
        for spec in power_only(2)
    ]
    try:
        for each in made:
            each.start()
        yield made
    finally:
        for each in made:
            each.stop()
            each.node.power_off()


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module", params=DRIVERS)
def shared(request: pytest.FixtureRequest) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="bmi-power-"))  # short, for Unix sockets
    try:
        with bench_of(request.param, folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """The controllers with both nodes off."""
    yield shared
    with driving(shared) as power:
        for bmc in shared.bmcs:
            power.off(bmc)


@contextmanager
def driving(bench: Bench) -> Iterator[Power]:
    made = bench.driver()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def power(bench: Bench) -> Iterator[Power]:
    with driving(bench) as made:
        yield made


@pytest.fixture
def bmc(bench: Bench) -> Bmc:
    return bench.bmcs[0]


VERBS: dict[str, Callable[[Power, Bmc], Any]] = {
    "state": lambda power, bmc: power.state(bmc),
    "on": lambda power, bmc: power.on(bmc),
    "off": lambda power, bmc: power.off(bmc),
    "boot_from": lambda power, bmc: power.boot_from(bmc, BootDevice.NETWORK),
    "reset_boot": lambda power, bmc: power.reset_boot(bmc),
    "media": lambda power, bmc: power.media(bmc),
    "console": lambda power, bmc: power.console(bmc),
}
verbs = pytest.mark.parametrize("verb", list(VERBS))


def test_a_node_is_off_until_it_is_switched_on(bench: Bench, power: Power, bmc: Bmc) -> None:
    assert power.state(bmc) is PowerState.OFF
    assert bench.runs(bmc) is None


def test_on_returns_when_the_node_has_power(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.on(bmc)
    assert bench.runs(bmc)
    assert power.state(bmc) is PowerState.ON


def test_on_leaves_a_node_that_is_on_alone(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.on(bmc)
    run = bench.runs(bmc)
    power.on(bmc)
    assert bench.runs(bmc) == run


def test_off_returns_when_the_node_has_no_power(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.on(bmc)
    power.off(bmc)
    assert bench.runs(bmc) is None
    assert power.state(bmc) is PowerState.OFF


def test_off_can_be_repeated(power: Power, bmc: Bmc) -> None:
    power.off(bmc)
    power.off(bmc)
    assert power.state(bmc) is PowerState.OFF


def test_a_node_can_be_cycled_again_and_again(bench: Bench, power: Power, bmc: Bmc) -> None:
    for _ in range(3):
        power.on(bmc)
        assert bench.runs(bmc)
        power.off(bmc)
        assert bench.runs(bmc) is None


def test_one_node_leaves_the_other_alone(bench: Bench, power: Power) -> None:
    first, second = bench.bmcs
    power.on(first)
    assert power.state(second) is PowerState.OFF
    power.on(second)
    power.off(first)
    assert power.state(second) is PowerState.ON
    assert bench.runs(second)


def test_boot_from_is_kept(bench: Bench, power: Power, bmc: Bmc) -> None:
    if not bench.chooses_boot:
        power.boot_from(bmc, BootDevice.NETWORK)
        assert power.boots_from(bmc) is None
        assert bench.boots_from(bmc) is BootDevice.DISK
        return
    for device in [BootDevice.NETWORK, BootDevice.DISK, BootDevice.NETWORK]:
        power.boot_from(bmc, device)
        assert bench.boots_from(bmc) is device
        assert power.boots_from(bmc) is device
        power.boot_from(bmc, device)
        assert bench.boots_from(bmc) is device


def test_boot_from_survives_a_power_cycle(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.boot_from(bmc, BootDevice.NETWORK)
    before = bench.boots_from(bmc)
    power.on(bmc)
    power.off(bmc)
    assert bench.boots_from(bmc) is before
    assert (before is BootDevice.NETWORK) is bench.chooses_boot


def test_boot_from_does_not_switch(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.boot_from(bmc, BootDevice.DISK)
    assert bench.runs(bmc) is None
    power.on(bmc)
    run = bench.runs(bmc)
    power.boot_from(bmc, BootDevice.NETWORK)
    assert bench.runs(bmc) == run


def test_reset_boot_leaves_nothing_of_what_was_chosen(bench: Bench, power: Power, bmc: Bmc) -> None:
    other = bench.bmcs[1]
    for each in (bmc, other):
        power.boot_from(each, BootDevice.NETWORK)
    for _ in range(2):
        power.reset_boot(bmc)
        assert power.boots_from(bmc) is None
        assert bench.boots_from(bmc) is BootDevice.DISK  # the firmware's own choice
    if not bench.chooses_boot:
        return
    assert bench.boots_from(other) is BootDevice.NETWORK
    power.boot_from(bmc, BootDevice.NETWORK)
    assert bench.boots_from(bmc) is BootDevice.NETWORK


def test_reset_boot_empties_the_virtual_drives_of_this_node(bench: Bench, power: Power, bmc: Bmc) -> None:
    other = bench.bmcs[1]
    assert list(power.media(bmc)) == []
    if not bench.has_drives:
        return  # that is all there is to show
    images = {each: bench.insert(each) for each in (bmc, other)}
    assert {each: list(power.media(each)) for each in images} == {
        each: [image] for each, image in images.items()
    }
    power.reset_boot(bmc)
    assert list(power.media(bmc)) == []
    assert list(power.media(other)) == [images[other]]
    power.reset_boot(other)
    assert list(power.media(other)) == []


def test_reset_boot_does_not_switch(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.reset_boot(bmc)
    assert bench.runs(bmc) is None
    power.on(bmc)
    run = bench.runs(bmc)
    power.reset_boot(bmc)
    assert bench.runs(bmc) == run


def test_another_driver_object_sees_the_same(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.on(bmc)
    with driving(bench) as other:
        assert other.state(bmc) is PowerState.ON
        other.off(bmc)
    assert power.state(bmc) is PowerState.OFF


@verbs
def test_a_controller_that_does_not_answer_is_reported_at_once(
    bench: Bench, power: Power, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    with pytest.raises(BmcUnreachable, match=bench.unreachable.address) as failure:
        VERBS[verb](power, bench.unreachable)
    assert time.monotonic() - began < bench.soon
    assert failure.value.transient
    assert_secret(bench.unreachable.password, failure.value, caplog)


@verbs
def test_a_wrong_password_is_refused(
    bench: Bench, power: Power, bmc: Bmc, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    before = bench.boots_from(bmc)
    with pytest.raises(BmcRefused, match=bmc.address) as failure:
        VERBS[verb](power, replace(bmc, password="open sesame"))
    assert not failure.value.transient
    assert bmc.username in failure.value.message
    assert_secret("open sesame", failure.value, caplog)
    assert bench.runs(bmc) is None
    assert bench.boots_from(bmc) is before


def test_a_password_is_never_logged(power: Power, bmc: Bmc, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    power.on(bmc)
    power.off(bmc)
    assert bmc.password not in caplog.text
    assert bmc.password not in repr(bmc)


def test_a_connection_serves_only_who_knows_the_password(power: Power, bmc: Bmc) -> None:
    assert power.state(bmc) is PowerState.OFF
    with pytest.raises(BmcRefused):
        power.state(replace(bmc, password="open sesame"))
    assert power.state(bmc) is PowerState.OFF


def test_a_restarted_controller_is_found_again(bench: Bench, power: Power, bmc: Bmc) -> None:
    power.on(bmc)
    run = bench.runs(bmc)
    bench.restart()
    assert bench.runs(bmc) == run
    assert power.state(bmc) is PowerState.ON
    bench.restart()
    power.off(bmc)
    assert bench.runs(bmc) is None


def test_nodes_are_switched_side_by_side(bench: Bench, power: Power) -> None:
    def cycle(bmc: Bmc) -> None:
        for _ in range(4):
            power.on(bmc)
            assert bench.runs(bmc)
            power.boot_from(bmc, BootDevice.NETWORK)
            power.off(bmc)
            assert bench.runs(bmc) is None
            power.boot_from(bmc, BootDevice.DISK)

    with ThreadPoolExecutor() as pool:
        list(pool.map(cycle, bench.bmcs))


def test_many_callers_may_ask_for_the_same(bench: Bench, power: Power, bmc: Bmc) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: power.on(bmc), range(6)))
        run = bench.runs(bmc)  # fails if there are two
        assert run
        list(pool.map(lambda _: power.state(bmc), range(6)))
        assert bench.runs(bmc) == run
        list(pool.map(lambda _: power.off(bmc), range(6)))
    assert bench.runs(bmc) is None


# --- consoles --------------------------------------------------------------------------------------------

EVERY_BYTE = bytes(range(256))


def listen(console: Console, wanted: bytes, deadline: float = 20) -> bytes:
    """Listen until a node has said something, and return all that it said."""
    said = bytearray()
    wait_until(
        lambda: said.extend(console.read(0.2)) or wanted in said,
        deadline=deadline,
        what=f"the node to say {wanted!r}",
        next_step="-",
    )
    return bytes(said)


def heard(end: SerialEnd, wanted: bytes) -> None:
    try:
        wait_until(lambda: wanted in end.heard(), deadline=20, what="the node to hear it", next_step="-")
    except DeadlineExceeded:
        assert end.heard() == wanted  # shows the difference


def test_a_console_says_what_the_node_says_and_types_what_it_is_given(
    bench: Bench, power: Power, bmc: Bmc
) -> None:
    if has_none(bench, power):
        return
    with bench.serial_line(bmc) as end, opened(power, bmc) as console:
        end.say(b"<" + EVERY_BYTE + b">!")
        assert listen(console, b">!") == b"<" + EVERY_BYTE + b">!"
        assert console.read(0.05) == b""
        console.write(b"<" + EVERY_BYTE + b">")
        heard(end, b"<" + EVERY_BYTE + b">")


def test_nothing_that_is_typed_is_an_order_to_what_is_between(bench: Bench, power: Power, bmc: Bmc) -> None:
    """Escape sequences of ssh and of ipmitool, and what ipmitool's own is here."""
    if has_none(bench, power):
        return
    orders = b"\r~.\n~B\r~?\n\x1f.\r\x1f\x1f\n\x1f\x1a\x03\x04\x11\x13\x1d\r"
    with bench.serial_line(bmc) as end, opened(power, bmc) as console:
        for byte in orders:  # one at a time, as from a keyboard
            console.write(bytes([byte]))
        console.write(b"still there")
        heard(end, orders + b"still there")
        end.say(b"answer")
        listen(console, b"answer")


def test_a_console_that_was_closed_can_be_had_again(bench: Bench, power: Power, bmc: Bmc) -> None:
    if has_none(bench, power):
        return
    with bench.serial_line(bmc) as end:
        for number in range(3):
            with opened(power, bmc) as console:
                end.say(b"%d!" % number)
                assert listen(console, b"!") == b"%d!" % number
                console.write(b"%d?" % number)
                heard(end, b"%d?" % number)
            bench.forget_session(bmc)


def has_none(bench: Bench, power: Power) -> bool:
    """Say whether a driver has no consoles; then that it says so is all there is to show."""
    if bench.has_console:
        return False
    with pytest.raises(ConsoleUnavailable, match=bench.bmcs[0].address):
        power.console(bench.bmcs[0])
    return True


@contextmanager
def opened(power: Power, bmc: Bmc) -> Iterator[Console]:
    """Open a console; a controller may need a moment to notice that the one before has gone."""

    def attempt() -> Console | None:
        try:
            return power.console(bmc)
        except ConsoleUnavailable:
            return None

    with wait_until(attempt, deadline=20, what="the console", next_step="-", poll=0.2) as console:
        yield console


def test_one_node_does_not_hear_the_other(bench: Bench, power: Power) -> None:
    if has_none(bench, power):
        return
    first, second = bench.bmcs
    with (
        bench.serial_line(first) as one,
        bench.serial_line(second) as two,
        opened(power, first) as console,
        opened(power, second) as other,
    ):
        one.say(b"one")
        two.say(b"two")
        assert listen(console, b"one") == b"one"
        assert listen(other, b"two") == b"two"
        console.write(b"for one")
        heard(one, b"for one")
        assert two.heard() == b""


def test_a_console_is_held_by_one_or_taken_over_but_never_silently_shared(
    bench: Bench, power: Power, bmc: Bmc
) -> None:
    if has_none(bench, power):
        return
    with bench.serial_line(bmc) as end, opened(power, bmc) as first:
        if bench.takes_over:
            with power.console(bmc) as second:
                end.say(b"now the second's")
                listen(second, b"now the second's")
            return
        with pytest.raises(ConsoleUnavailable, match=bmc.address):
            power.console(bmc)
        end.say(b"still the first's")
        listen(first, b"still the first's")


def test_a_console_ends_when_its_controller_does(bench: Bench, power: Power, bmc: Bmc) -> None:
    if has_none(bench, power):
        return
    if bench.name == "memory":
        return  # nothing runs that could end
    with bench.serial_line(bmc), opened(power, bmc) as console:
        bench.restart()
        lost = None
        for _ in range(400):  # IPMI runs over UDP: a controller that is gone is noticed by its silence
            try:
                console.read(0.2)
            except ConsoleLost as error:
                lost = error
                break
        assert lost is not None
        assert bmc.address in lost.message
        assert lost.transient


def assert_secret(password: str, failure: BmiError, caplog: pytest.LogCaptureFixture) -> None:
    assert password not in str(failure)
    assert password not in caplog.text
    cause: BaseException | None = failure
    while cause is not None:
        assert password not in str(cause)
        cause = cause.__cause__ or cause.__context__
