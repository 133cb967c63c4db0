"""What every target driver must do.

tgt runs for real: over files and over images in a real Ceph, in the host's namespace and in one of its own.
The kernel's own target does where the kernel has it: in the virtual machine of `make lio`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rtslib_fb import RTSRoot

from bmi.drivers import Outcome, Site
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal, Removal, Target
from bmi.drivers.target.lio import LioTarget
from bmi.drivers.target.memory import MemoryTarget
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import BadRequest, PortTaken, SettingsInvalid
from bmi.helper.client import HelpedRights
from bmi.ids import new_id
from bmi.rights import OWN, Rights
from bmi.run import run
from bmi.wait import wait_until
from tests.helped import helping
from tests.iscsi import Initiator, free_portal, gets_through, make_export
from tests.rbd_images import Images, images

ALREADY, DONE = Outcome.ALREADY, Outcome.DONE
MARK = "0a1b2c3d"

NODE, STRANGER = IPv4Address("127.0.0.8"), IPv4Address("127.0.0.9")

MakeExport = Callable[[str], Export]


class MemoryRig:
    """The memory driver, and what happens around it."""

    namespace = "somewhere"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def driver(self, **_: float) -> MemoryTarget:
        return MemoryTarget({}, Site(self.folder, MARK))

    def portal(self) -> Portal:
        return free_portal(self.namespace)

    def export(self, name: str) -> Export:
        return make_export(self.folder.parent, name)

    def kill(self, driver: Any, portal: UUID) -> None:
        driver.kill(portal)

    def hang(self, driver: Any, portal: UUID) -> None:
        driver.hang(portal)

    def gets_through(self, driver: Any, portal: Portal, source: IPv4Address) -> bool:
        return bool(driver.lets_through(portal.id, source))

    @contextmanager
    def log_in(self, driver: Any, portal: Portal, export: Export) -> Iterator[None]:
        driver.log_in(portal.id, export.iqn)
        yield


class TgtRig:
    """The tgt driver on a real tgtd, and real initiators."""

    def __init__(
        self, folder: Path, namespace: str | None, images: Images | None, rights: Rights = OWN
    ) -> None:
        self.folder = folder
        self.namespace = namespace
        self.images = images
        self.rights = rights

    def driver(self, **options: float) -> TgtTarget:
        return TgtTarget(options, Site(self.folder, MARK, self.rights))

    def portal(self) -> Portal:
        return free_portal(self.namespace)

    def export(self, name: str) -> Export:
        return make_export(self.folder.parent, name, images=self.images)

    def kill(self, driver: Any, portal: UUID) -> None:
        process = driver._server(portal).process()
        assert process is not None
        process.stop(kill=True)

    def hang(self, driver: Any, portal: UUID) -> None:
        driver._server(portal).process().signal(signal.SIGSTOP)

    def gets_through(self, driver: Any, portal: Portal, source: IPv4Address) -> bool:
        return gets_through(portal, source)

    @contextmanager
    def log_in(self, driver: Any, portal: Portal, export: Export) -> Iterator[None]:
        with logged_in(driver, portal, export):
            yield


class LioRig:
    """The lio driver on the kernel's own target, and real initiators."""

    def __init__(self, folder: Path, namespace: str | None) -> None:
        self.folder = folder
        self.namespace = namespace

    def driver(self, **options: float) -> LioTarget:
        return LioTarget(options, Site(self.folder, MARK))

    def portal(self) -> Portal:
        return free_portal(self.namespace)

    def export(self, name: str) -> Export:
        return make_export(self.folder.parent, name)

    def kill(self, driver: Any, portal: UUID) -> None:
        RTSRoot().clear_existing(confirm=True)  # all that the kernel's target has, as `targetctl clear` does

    def gets_through(self, driver: Any, portal: Portal, source: IPv4Address) -> bool:
        return gets_through(portal, source)

    @contextmanager
    def log_in(self, driver: Any, portal: Portal, export: Export) -> Iterator[None]:
        with logged_in(driver, portal, export):
            yield


@contextmanager
def logged_in(driver: Target, portal: Portal, export: Export) -> Iterator[None]:
    """Log a real initiator in, and wait until the driver tells of it."""
    before = len(list(driver.sessions(portal.id)))
    with Initiator(portal, export).session():
        wait_until(
            lambda: len(list(driver.sessions(portal.id))) > before,
            deadline=20,
            what="the log-in",
            next_step="look into tgtd's log",
        )
        yield


Rig = MemoryRig | TgtRig | LioRig

PROCESSES = ["memory", "tgt", "tgt-namespace", "tgt-rbd", "tgt-rbd-namespace", "tgt-helper-namespace"]
KERNEL = ["lio", "lio-namespace"] if Path("/sys/module/iscsi_target_mod").exists() else []

can_hang = pytest.mark.parametrize("rig", PROCESSES, indirect=True)
"""For tests of servers that hang: the kernel's target is no process that could be stopped or ended."""


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with images(tmp_path_factory.mktemp("ceph")) as found:
        yield found


@pytest.fixture(params=PROCESSES + KERNEL)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    state = tmp_path / "state"
    if request.param == "memory":
        yield MemoryRig(state)
        return
    in_ceph = request.getfixturevalue("ceph") if "rbd" in request.param else None
    if "namespace" not in request.param:
        yield LioRig(state, None) if request.param == "lio" else TgtRig(state, None, in_ceph)
        return
    namespace = f"bmi-{MARK}-{new_id().hex}"
    with ExitStack() as stack:
        run(["ip", "netns", "add", namespace])
        stack.callback(run, ["ip", "netns", "delete", namespace])
        run(["ip", "-n", namespace, "link", "set", "lo", "up"])
        if "lio" in request.param:
            yield LioRig(state, namespace)
            return
        rights: Rights = OWN
        if "helper" in request.param:
            rights = HelpedRights(stack.enter_context(helping(tmp_path / "h")).client(MARK))
        yield TgtRig(state, namespace, in_ceph, rights)


@pytest.fixture
def driver(rig: Rig) -> Iterator[Target]:
    driver = rig.driver()
    yield driver
    for portal in driver.portals():
        driver.stop(portal)
    driver.close()


@pytest.fixture
def portal(rig: Rig) -> Portal:
    return rig.portal()


@pytest.fixture
def export(rig: Rig) -> MakeExport:
    return rig.export


def without_secret(*exports: Export) -> set[Export]:
    """Return exports as they are listed: without what cannot be read back."""
    return {
        replace(export, password="", luns=tuple(without_conf(lun) for lun in export.luns))
        for export in exports
    }


def without_conf(lun: Lun) -> Lun:
    return replace(lun, backing=replace(lun.backing, conf="", user=""))


class Exits:
    """Collects the portals whose server ended."""

    def __init__(self, driver: Target) -> None:
        self.portals: list[UUID] = []
        driver.on_exit(self.portals.append)

    def wait_for(self, portal: UUID) -> None:
        wait_until(lambda: portal in self.portals, deadline=10, what="on_exit", next_step="-")


# --- serve -------------------------------------------------------------------------------------------------


def test_serve_starts_the_portal_and_lists_it(driver: Target, portal: Portal, export: MakeExport) -> None:
    a, b = export("a"), export("b")
    assert driver.serve(portal, [a, b]) is DONE
    assert set(driver.exports(portal.id)) == without_secret(a, b)
    assert list(driver.portals()) == [portal.id]


def test_serve_again_changes_nothing(rig: Rig, driver: Target, portal: Portal, export: MakeExport) -> None:
    a = export("a")
    driver.serve(portal, [a])
    with rig.log_in(driver, portal, a):
        before = list(driver.sessions(portal.id))
        assert driver.serve(portal, [a]) is ALREADY
        assert list(driver.sessions(portal.id)) == before


def test_serve_adds_and_leaves_what_is_not_named(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a])
    with rig.log_in(driver, portal, a):
        assert driver.serve(portal, [b]) is DONE
        assert set(driver.exports(portal.id)) == without_secret(a, b)
        assert [session.iqn for session in driver.sessions(portal.id)] == [a.iqn]


def test_serve_without_exports_opens_an_empty_portal(driver: Target, portal: Portal) -> None:
    assert driver.serve(portal, []) is DONE
    assert driver.serve(portal, []) is ALREADY
    assert list(driver.portals()) == [portal.id]
    assert list(driver.exports(portal.id)) == []


def other_lun(export: Export, folder: Path) -> Export:
    (folder / "other.img").write_bytes(bytes(4096))
    return replace(export, luns=(Lun(1, Backing("file", str(folder / "other.img"))),))


@pytest.mark.parametrize("what", ["password", "initiator", "username", "luns"])
def test_serve_replaces_an_export_that_changed(
    driver: Target, portal: Portal, export: MakeExport, what: str, tmp_path: Path
) -> None:
    a, b = export("a"), export("b")
    new = {
        "password": replace(a, password="another-secret"),
        "initiator": replace(a, initiator="iqn.2026-01.org.example:another"),
        "username": replace(a, username="another"),
        "luns": other_lun(a, tmp_path),
    }[what]
    driver.serve(portal, [a, b])
    assert driver.serve(portal, [new]) is DONE
    assert driver.serve(portal, [new, b]) is ALREADY
    assert set(driver.exports(portal.id)) == without_secret(new, b)


def test_serve_moves_the_portal_to_another_address(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, elsewhere = export("a"), rig.portal()
    driver.serve(portal, [a])
    moved = replace(portal, address=elsewhere.address, port=elsewhere.port)
    assert driver.serve(moved, [a]) is DONE
    assert driver.serve(moved, [a]) is ALREADY
    assert driver.serve(replace(portal, id=new_id()), []) is DONE  # the old address is free again


def test_threads_can_serve_one_portal_at_once(driver: Target, portal: Portal, export: MakeExport) -> None:
    exports = [export(f"n{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda one: driver.serve(portal, [one]), exports))
    assert outcomes == [DONE] * 8
    assert set(driver.exports(portal.id)) == without_secret(*exports)


def test_only_its_peer_gets_through_to_a_portal(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    if portal.namespace is None:  # the host's own filter is not BMI's business
        with pytest.raises(BadRequest, match="namespace"):
            driver.serve(replace(portal, peer=NODE), [])
        assert list(driver.portals()) == []
        return
    a, beside = export("a"), rig.portal()
    own = replace(portal, peer=NODE)
    assert driver.serve(own, [a]) is DONE
    assert driver.serve(own, [a]) is ALREADY
    driver.serve(beside, [export("b")])
    assert rig.gets_through(driver, portal, NODE)
    assert not rig.gets_through(driver, portal, STRANGER)
    assert rig.gets_through(driver, beside, STRANGER)

    assert driver.serve(replace(portal, peer=STRANGER), [a]) is DONE
    assert not rig.gets_through(driver, portal, NODE)
    assert rig.gets_through(driver, portal, STRANGER)

    driver.stop(portal.id)
    driver.serve(own, [a])
    assert rig.gets_through(driver, portal, NODE)
    assert not rig.gets_through(driver, portal, STRANGER)
    assert driver.serve(portal, [a]) is DONE
    assert rig.gets_through(driver, portal, STRANGER)


def bad(export: Export, what: str) -> Export:
    lun = export.luns[0]
    return {
        "name": replace(export, iqn="iqn.2026-01.org.example:a,b"),
        "initiator": replace(export, initiator="node one"),
        "username": replace(export, username="a,password=b"),
        "secret that is short": replace(export, password="short"),
        "secret with a comma": replace(export, password="twelve,letters"),
        "path with a comma": replace(export, luns=(Lun(1, Backing("file", "/a,bstype=sg")),)),
        "relative path": replace(export, luns=(Lun(1, Backing("file", "a.img")),)),
        "path with a line break": replace(export, luns=(Lun(1, Backing("file", "/a\nb")),)),
        "LUN 0": replace(export, luns=(replace(lun, number=0),)),
        "LUN twice": replace(export, luns=(lun, lun)),
        "no LUN": replace(export, luns=()),
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "name",
        "initiator",
        "username",
        "secret that is short",
        "secret with a comma",
        "path with a comma",
        "relative path",
        "path with a line break",
        "LUN 0",
        "LUN twice",
        "no LUN",
    ],
)
def test_serve_refuses_what_cannot_be_served(
    driver: Target, portal: Portal, export: MakeExport, what: str
) -> None:
    wrong = bad(export("a"), what)
    with pytest.raises(BadRequest) as refused:
        driver.serve(portal, [wrong])
    assert wrong.password not in str(refused.value)
    assert list(driver.portals()) == []


def test_exports_of_a_portal_need_names_of_their_own(
    driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, b = export("a"), export("b")
    with pytest.raises(BadRequest, match="name"):
        driver.serve(portal, [a, replace(b, iqn=a.iqn)])
    with pytest.raises(BadRequest, match="username"):
        driver.serve(portal, [a, replace(b, username=a.username)])
    driver.serve(portal, [a])
    with pytest.raises(BadRequest, match=a.iqn):
        driver.serve(portal, [replace(b, username=a.username)])
    assert set(driver.exports(portal.id)) == without_secret(a)


def test_a_portal_that_cannot_be_is_refused(driver: Target, portal: Portal) -> None:
    with pytest.raises(BadRequest):
        driver.serve(replace(portal, port=65536), [])
    with pytest.raises(BadRequest):
        driver.serve(replace(portal, namespace="../etc"), [])
    assert list(driver.portals()) == []


def test_an_address_that_is_taken_is_named_and_nothing_stays(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a])
    second = replace(portal, id=new_id())
    with pytest.raises(PortTaken, match=str(portal)):
        driver.serve(second, [b])
    assert list(driver.portals()) == [portal.id]
    assert list(driver.exports(second.id)) == []
    assert set(driver.exports(portal.id)) == without_secret(a)
    driver.stop(portal.id)
    assert driver.serve(second, [b]) is DONE


# --- remove ------------------------------------------------------------------------------------------------


def test_remove_takes_one_export_away(driver: Target, portal: Portal, export: MakeExport) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a, b])
    removal = driver.remove(portal.id, a.iqn)
    assert (removal.outcome, removal.initiators, removal.forced) == (DONE, (), False)
    assert set(driver.exports(portal.id)) == without_secret(b)
    assert driver.remove(portal.id, a.iqn).outcome is ALREADY
    assert driver.serve(portal, [a]) is DONE


def test_remove_closes_sessions_and_names_them(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a, b])
    with rig.log_in(driver, portal, a), rig.log_in(driver, portal, b):
        of_b = [session for session in driver.sessions(portal.id) if session.iqn == b.iqn]
        removal = driver.remove(portal.id, a.iqn)
        assert (removal.outcome, removal.initiators, removal.forced) == (DONE, (a.initiator,), False)
        assert list(driver.sessions(portal.id)) == of_b
    assert set(driver.exports(portal.id)) == without_secret(b)


def test_remove_where_nothing_runs(driver: Target, portal: Portal, export: MakeExport) -> None:
    assert driver.remove(portal.id, export("a").iqn).outcome is ALREADY


def test_the_last_export_can_go_and_come_back(driver: Target, portal: Portal, export: MakeExport) -> None:
    a = export("a")
    driver.serve(portal, [a])
    assert driver.remove(portal.id, a.iqn).outcome is DONE
    assert list(driver.exports(portal.id)) == []
    assert driver.serve(portal, [a]) is DONE


@can_hang
@pytest.mark.usefixtures("driver")
def test_remove_from_a_server_that_hangs_ends_it_and_names_who_was_connected(
    rig: Rig, portal: Portal, export: MakeExport
) -> None:
    driver, a = rig.driver(answer_deadline=1), export("a")
    driver.serve(portal, [a])
    with rig.log_in(driver, portal, a):
        (session,) = driver.sessions(portal.id)
        rig.hang(driver, portal.id)
        removal = driver.remove(portal.id, a.iqn)
    assert removal == Removal(DONE, (session.address,), forced=True)
    assert list(driver.portals()) == []
    assert driver.remove(portal.id, a.iqn) == Removal(ALREADY)
    assert driver.serve(portal, [a]) is DONE
    driver.stop(portal.id)


# --- sessions ----------------------------------------------------------------------------------------------


def test_sessions_differ_between_two_log_ins(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a = export("a")
    assert list(driver.sessions(portal.id)) == []
    driver.serve(portal, [a])
    assert list(driver.sessions(portal.id)) == []
    with rig.log_in(driver, portal, a):
        (first,) = driver.sessions(portal.id)
        assert (first.iqn, first.initiator) == (a.iqn, a.initiator)
        assert first.address
        driver.remove(portal.id, a.iqn)
    driver.serve(portal, [a])
    with rig.log_in(driver, portal, a):
        (second,) = driver.sessions(portal.id)
    assert second.id != first.id


# --- servers that hang -------------------------------------------------------------------------------------


@can_hang
@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("found_running", [False, True])
def test_a_server_that_hangs_is_ended_reported_and_filled_again(
    rig: Rig, portal: Portal, export: MakeExport, found_running: bool
) -> None:
    driver, a = rig.driver(answer_deadline=1), export("a")
    assert not driver.end_if_hung(portal.id)
    driver.serve(portal, [a])
    watcher = rig.driver(answer_deadline=1) if found_running else driver
    exits = Exits(watcher)
    assert not watcher.end_if_hung(portal.id)
    rig.hang(watcher, portal.id)
    assert watcher.end_if_hung(portal.id)
    exits.wait_for(portal.id)
    assert list(watcher.portals()) == []
    assert watcher.serve(portal, [a]) is DONE
    assert set(watcher.exports(portal.id)) == without_secret(a)
    assert exits.portals == [portal.id]
    watcher.stop(portal.id)


# --- restarts and crashes ----------------------------------------------------------------------------------


def test_servers_outlive_the_driver(rig: Rig, driver: Target, portal: Portal, export: MakeExport) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a])
    with rig.log_in(driver, portal, a):
        before = list(driver.sessions(portal.id))
        driver.close()
        again = rig.driver()
        assert list(again.portals()) == [portal.id]
        assert set(again.exports(portal.id)) == without_secret(a)
        assert again.serve(portal, [a]) is ALREADY
        assert again.serve(portal, [a, b]) is DONE
        assert list(again.sessions(portal.id)) == before


@pytest.mark.parametrize("found_running", [False, True])
def test_a_killed_server_is_reported_and_filled_again(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport, found_running: bool
) -> None:
    a, b = export("a"), export("b")
    driver.serve(portal, [a, b])
    watcher = rig.driver() if found_running else driver
    exits = Exits(watcher)
    rig.kill(watcher, portal.id)
    exits.wait_for(portal.id)
    assert set(watcher.portals()) <= {portal.id}  # more than one process may be part of it
    assert list(watcher.exports(portal.id)) == []
    assert list(watcher.sessions(portal.id)) == []
    assert watcher.serve(portal, [a, b]) is DONE
    assert set(watcher.exports(portal.id)) == without_secret(a, b)
    rig.kill(watcher, portal.id)
    wait_until(lambda: len(exits.portals) == 2, deadline=10, what="on_exit again", next_step="-")


def test_stop_ends_everything_and_surprises_nobody(
    rig: Rig, driver: Target, portal: Portal, export: MakeExport
) -> None:
    a, other = export("a"), rig.portal()
    exits = Exits(driver)
    driver.serve(portal, [a])
    driver.serve(other, [])
    threads = threading.active_count()
    with rig.log_in(driver, portal, a):
        assert driver.stop(portal.id) is DONE
    assert driver.stop(portal.id) is ALREADY
    assert list(driver.portals()) == [other.id]
    assert list(driver.exports(portal.id)) == []
    assert driver.remove(portal.id, a.iqn).outcome is ALREADY
    if isinstance(rig, TgtRig):  # the thread that watched the stopped server has seen its end
        wait_until(lambda: threading.active_count() < threads, deadline=10, what="it", next_step="-")
        assert [folder.name for folder in (rig.folder / "target").iterdir()] == [str(other.id)]
    rig.kill(driver, other.id)
    exits.wait_for(other.id)
    assert exits.portals == [other.id]


def test_unknown_options_are_refused(rig: Rig, driver: Target) -> None:
    with pytest.raises(SettingsInvalid, match="colour"):
        type(driver)({"colour": "blue"}, Site(rig.folder, "0a1b2c3d"))  # type: ignore[call-arg]
