"""What every switch driver must do. A further driver is one more `Bench` and one more word in `BENCHES`."""

import fcntl
import json
import struct
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any, cast

import pytest

from bmi import netns
from bmi.drivers import Outcome, Site, load
from bmi.drivers.switch import ISOLATED, PortVlans, Switch
from bmi.errors import SettingsInvalid, SwitchError, SwitchPortUnknown, SwitchRefused, VlanInvalid
from bmi.helper.client import HelpedSwitch
from bmi.wait import wait_until
from tests.helped import helping
from tests.hil.double import serving
from tests.hil.world import Network, User, World
from tests.switches import BOXES
from tests.switches.server import listening
from tests.wires import running_switch

_TUNSETIFF, _TAP = 0x400454CA, 0x1002  # with no header of its own before each frame

ACCESS = PortVlans(101)
OTHER = PortVlans(102)
TAGGED = PortVlans(tagged=frozenset({201, 202}))
BOTH = PortVlans(101, frozenset({201, 202}))
EDGES = PortVlans(1, frozenset({4094}))
SETTINGS = (ISOLATED, ACCESS, OTHER, TAGGED, BOTH, EDGES)


class Bench(ABC):
    """A switch with a few ports."""

    name: str
    ports: tuple[str, ...] = ("p1", "p2", "p3", "p4", "p5", "p6")
    options: dict[str, Any]
    settings: tuple[PortVlans, ...] = SETTINGS
    """What its ports can carry."""
    hears = False
    """Whether it tells behind which port it heard a card."""

    def __init__(self, tmp_path: Path) -> None:
        self.site = Site(tmp_path / "state", "0badcafe")

    @abstractmethod
    def running(self) -> AbstractContextManager[object]: ...

    def speak(self, switch: Switch, port: str, mac: str) -> None:
        """Send a frame of a card into a port, of a switch that hears."""
        raise AssertionError("it does not hear")

    def driver(self) -> Switch:
        """Return a new driver object for the same switch."""
        made: Switch = load("switch", self.name, self.options, self.site)
        return made

    def spec(self) -> str:
        return json.dumps(
            [self.name, self.options, str(self.site.state_dir), self.site.installation, self.ports[0]]
        )


class OvsBench(Bench):
    name = "ovs"
    hears = True

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self._folder = tmp_path

    def running(self) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            switch = stack.enter_context(running_switch(self._folder))
            for port in self.ports:
                switch.add_tap(port)
            self.options = {"database": switch.db}
            self._switch = switch
            return stack.pop_all()

    def speak(self, switch: Switch, port: str, mac: str) -> None:
        """Be the machine behind a tap device (Documentation/networking/tuntap.rst in Linux) and send a frame."""
        inside = self._switch.namespace
        with netns.call_inside(inside, lambda: open("/dev/net/tun", "r+b", buffering=0)) as tap:
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", port.encode(), _TAP))
            source = bytes.fromhex(mac.replace(":", ""))
            tap.write(b"\xff" * 6 + source + b"\x88\xb5" + bytes(46))


class HelpedBench(OvsBench):
    """The same switch, configured by a helper."""

    def running(self) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            stack.enter_context(super().running())
            self._helper = stack.enter_context(helping(self._folder / "h", switches={"sw1": self.options}))
            return stack.pop_all()

    def driver(self) -> Switch:
        return HelpedSwitch(self._helper.client(self.site.installation), "sw1")


class MemoryBench(Bench):
    name = "memory"
    hears = True

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.options = {"ports": self.ports}

    def speak(self, switch: Switch, port: str, mac: str) -> None:
        cast("Any", switch).plug(port, mac)

    def running(self) -> AbstractContextManager[object]:
        return ExitStack()


class NetmikoBench(Bench):
    """A double of a switch, behind a real SSH server."""

    name = "netmiko"
    dialect: str

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.ports = BOXES[self.dialect].ports
        self._folder = tmp_path
        if self.dialect == "dell_os10":  # whose ports always have a VLAN for untagged frames
            self.settings = tuple(vlans for vlans in SETTINGS if vlans != TAGGED)

    def running(self) -> AbstractContextManager[object]:
        with ExitStack() as stack:
            rack = stack.enter_context(listening(BOXES[self.dialect]()))
            self.options = rack.options(self._folder / "switch", self.dialect)
            return stack.pop_all()


class HilBench(Bench):
    """A HIL that is played; on a switch that takes tagged networks alone."""

    name = "hil"
    ports = tuple(f"p{number}/nic1" for number in range(1, 7))

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self._password = tmp_path / "password"
        self._password.write_text("a word\n")

    def running(self) -> AbstractContextManager[object]:
        world = World(delay=0.005)
        world.projects.add("red")
        world.users["bmi"] = User("a word", {"red"})
        for vlan in (*range(1, 61), 101, 102, 201, 202, 4094):
            world.networks[f"net-{vlan}"] = Network(vlan, {"red"})
        for number, port in enumerate(self.ports):
            world.add_node(port.partition("/")[0], "red", nic1=f"52:54:00:00:00:{number:02X}")
        with ExitStack() as stack:
            double = stack.enter_context(serving(world))
            self.options = {
                "url": double.url,
                "username": "bmi",
                "password_file": str(self._password),
                "projects": ["red"],
                "timeout": 20,
                "poll": 0.005,
            }
            return stack.pop_all()


BENCHES: dict[str, type[Bench]] = {
    "ovs": OvsBench,
    "helper": HelpedBench,
    "hil": HilBench,
    "memory": MemoryBench,
}
BENCHES |= {dialect: type(dialect, (NetmikoBench,), {"dialect": dialect}) for dialect in BOXES}

_WORKER = """
import json, sys
from pathlib import Path
from bmi.drivers import Site, load
from bmi.drivers.switch import PortVlans
name, options, state, installation, port = json.loads(sys.argv[1])
driver = load("switch", name, options, Site(Path(state), installation))
driver.configure(port, PortVlans(101))
print("working", flush=True)
while True:
    driver.configure(port, PortVlans(102))
    driver.configure(port, PortVlans(101))
"""


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = BENCHES[request.param](tmp_path)
    with made.running():
        yield made


@pytest.fixture
def switch(bench: Bench) -> Iterator[Switch]:
    with closing(bench.driver()) as driver:
        yield driver


def test_a_new_port_is_isolated(switch: Switch, bench: Bench) -> None:
    assert switch.port(bench.ports[0]).vlans == ISOLATED


def test_ports_lists_every_port(switch: Switch, bench: Bench) -> None:
    switch.configure(bench.ports[1], BOTH)

    states = {state.port: state for state in switch.ports()}

    assert set(states) == set(bench.ports)
    assert states[bench.ports[1]] == switch.port(bench.ports[1])


def test_a_card_that_nobody_heard_is_nowhere(switch: Switch, bench: Bench) -> None:
    assert not switch.heard_at("52:54:00:00:00:01")


def test_a_card_is_heard_where_it_spoke(switch: Switch, bench: Bench) -> None:
    if not bench.hears:
        assert switch.heard_at("52:54:00:aa:00:01") is None
        return
    switch.configure(bench.ports[1], ACCESS)
    bench.speak(switch, bench.ports[1], "52:54:00:AA:00:01")
    wait_until(
        lambda: switch.heard_at("52:54:00:aa:00:01") == [bench.ports[1]],
        deadline=5,
        what="the switch to hear a card",
        next_step="",
    )
    assert not switch.heard_at("52:54:00:aa:00:02")


@pytest.mark.parametrize("before", SETTINGS, ids=str)
def test_configure_sets_exactly_what_is_asked(switch: Switch, bench: Bench, before: PortVlans) -> None:
    port, neighbour = bench.ports[:2]
    switch.configure(neighbour, BOTH)
    if before not in bench.settings:
        with pytest.raises(SwitchRefused, match=port) as caught:
            switch.configure(port, before)
        assert not caught.value.transient
        assert switch.port(port).vlans == ISOLATED
        return

    for after in bench.settings:
        switch.configure(port, before)
        switch.configure(port, after)
        assert switch.port(port).vlans == after
    assert switch.port(neighbour).vlans == BOTH


def test_configure_says_whether_it_had_something_to_do(switch: Switch, bench: Bench) -> None:
    port = bench.ports[0]
    for vlans in (*bench.settings[1:], ISOLATED):
        assert switch.configure(port, vlans) is Outcome.DONE
        assert switch.configure(port, vlans) is Outcome.ALREADY


@pytest.mark.parametrize("verb", ["configure", "port"])
def test_an_unknown_port_is_named_with_examples_of_known_ones(
    switch: Switch, bench: Bench, verb: str
) -> None:
    with pytest.raises(SwitchPortUnknown) as caught:
        switch.configure("nosuch", ACCESS) if verb == "configure" else switch.port("nosuch")

    assert "nosuch" in caught.value.message
    assert bench.ports[0] in caught.value.next_step
    assert not caught.value.transient


@pytest.mark.parametrize("vlan", [-1, 0, 4095, 4096, 70000])
def test_what_is_no_vlan_is_refused_and_changes_nothing(switch: Switch, bench: Bench, vlan: int) -> None:
    port = bench.ports[0]
    switch.configure(port, ACCESS)

    for vlans in (PortVlans(vlan), PortVlans(tagged=frozenset({vlan})), PortVlans(7, frozenset({8, vlan}))):
        with pytest.raises(VlanInvalid, match=str(vlan)):
            switch.configure(port, vlans)

    assert switch.port(port).vlans == ACCESS


def test_a_vlan_cannot_be_native_and_tagged(switch: Switch, bench: Bench) -> None:
    with pytest.raises(VlanInvalid):
        switch.configure(bench.ports[0], PortVlans(5, frozenset({5, 6})))

    assert switch.port(bench.ports[0]).vlans == ISOLATED


def test_settings_outlive_the_driver(bench: Bench) -> None:
    with closing(bench.driver()) as first:
        first.configure(bench.ports[0], BOTH)
    with closing(bench.driver()) as second:
        assert second.port(bench.ports[0]).vlans == BOTH


def test_two_drivers_see_each_other_s_changes_at_once(bench: Bench) -> None:
    port = bench.ports[0]
    with closing(bench.driver()) as first, closing(bench.driver()) as second:
        for number in range(1, 41):
            first.configure(port, PortVlans(number))
            assert second.port(port).vlans == PortVlans(number)
            assert second.configure(port, PortVlans(number)) is Outcome.ALREADY


def test_a_closed_driver_can_be_used_again(switch: Switch, bench: Bench) -> None:
    switch.configure(bench.ports[0], ACCESS)
    switch.close()
    switch.close()
    assert switch.port(bench.ports[0]).vlans == ACCESS


def test_many_threads_use_one_driver(switch: Switch, bench: Bench) -> None:
    def work(number: int) -> None:
        port = bench.ports[number % len(bench.ports)]
        assert switch.configure(port, PortVlans(1 + number)) is Outcome.DONE
        assert switch.port(port).port == port

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(60)))

    for number, port in enumerate(bench.ports):
        native = switch.port(port).vlans.native
        assert native is not None
        assert (native - 1) % len(bench.ports) == number


def test_one_that_is_killed_anywhere_leaves_a_port_that_works(bench: Bench) -> None:
    port = bench.ports[0]
    for loops in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", _WORKER, bench.spec()], stdout=subprocess.PIPE, text=True
        ) as worker:
            try:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "working\n"
                with closing(bench.driver()) as driver:
                    for _ in range(loops):
                        assert driver.port(port).vlans in {ISOLATED, ACCESS, OTHER}
            finally:
                worker.kill()
        with closing(bench.driver()) as driver:
            assert driver.port(port).vlans in {ISOLATED, ACCESS, OTHER}
            driver.configure(port, BOTH)
            assert driver.port(port).vlans == BOTH


def test_an_unknown_option_is_refused(bench: Bench) -> None:
    with pytest.raises(SettingsInvalid, match="colour"):
        load("switch", bench.name, {**bench.options, "colour": "red"}, bench.site)


def test_every_error_is_a_switch_error() -> None:
    assert issubclass(SwitchPortUnknown, SwitchError)
    assert issubclass(VlanInvalid, SwitchError)
