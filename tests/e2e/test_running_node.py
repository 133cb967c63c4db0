"""A booted node writes with fsync all the time while what carries its disk dies: nothing acknowledged is lost."""

import itertools
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import IO

import pytest

from bmi import processes
from bmi.api.nodes import Provision
from bmi.processes import Process
from bmi.wait import wait_until
from tests.e2e.conftest import EMPTY, IMAGE, Measured, Site, is_of
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(900)

BOOT = 400.0  # seconds that a provision up to the running operating system may take
ISCSI_TIMEOUT = 120.0  # seconds; how long open-iscsi waits for a session to come back (replacement_timeout)
CALM = 20  # writes in a row without a pause that count as back to normal
AWAY = 3.0  # seconds until somebody starts again what has no supervisor

RECORD = 4096  # bytes
_BODY = RECORD - 8
_NUMBER = 11

WRITER = f"""
use IO::Handle;
open(my $file, ">", "/root/records") or die;
for (my $number = 1; ; $number++) {{
    my $body = substr(sprintf("%0{_NUMBER}d", $number) x {_BODY // _NUMBER + 1}, 0, {_BODY});
    syswrite($file, $body . sprintf("%08x", unpack("%32C*", $body))) == {RECORD} or die;
    $file->sync or die;
    open(my $clock, "<", "/proc/uptime") or die;
    my ($up) = split(/ /, <$clock>);
    syswrite(STDOUT, "$number $up\\n");
}}
"""
"""Writes records of a number and a checksum, and says each number, and when, once fsync(2) has returned."""


def record(number: int) -> bytes:
    body = (f"{number:0{_NUMBER}}" * (_BODY // _NUMBER + 1))[:_BODY].encode()
    return body + f"{sum(body):08x}".encode()


@dataclass
class Acknowledged:
    """What the node says is written."""

    times: list[float]
    """By the node's clock, of number 1 and so on."""

    def take(self, output: IO[str]) -> None:
        for line in output:
            number, up = line.split()
            assert int(number) == len(self.times) + 1
            self.times.append(float(up))

    @property
    def count(self) -> int:
        return len(self.times)

    def longest_pause(self, since: int = 0) -> float:
        return max((after - before for before, after in itertools.pairwise(self.times[since:])), default=0.0)


@pytest.fixture
def ssh(site: Site, tmp_path: Path) -> Iterator[Ssh]:
    """Log-ins to n1, which runs Debian."""
    key = make_key(tmp_path)
    with site.lab.client(project="red") as client:
        request = Provision(image=IMAGE, network="red-net", ssh_keys=[key.with_suffix(".pub").read_text()])
        ended = client.operations.wait(client.nodes.provision("n1", request).id, timeout=BOOT)
        assert ended.state == "succeeded", ended
        network = client.networks.get("red-net").id
        namespace = site.lab.leg_namespaces()[str(network)]
        yield Ssh(client.nodes.get("n1"), key, namespace)


def test_every_write_that_was_acknowledged_is_there(site: Site, ssh: Ssh, measured: Measured) -> None:
    acknowledged, before = Acknowledged([]), len(restarts(site))
    with ssh.streaming(f"exec perl -e {shlex.quote(WRITER)}") as writer:
        assert writer.stdout is not None
        reader = threading.Thread(target=acknowledged.take, args=(writer.stdout,))
        reader.start()

        def until_calm(what: str) -> None:
            """Wait until it writes without pauses, from now on."""
            begun, before = time.monotonic(), acknowledged.count
            wait_until(
                lambda: acknowledged.count >= before + CALM or writer.poll() is not None,
                deadline=ISCSI_TIMEOUT,
                what=f"the node to write, {what}",
                next_step="look at its console",
            )
            assert writer.poll() is None
            print(f"{CALM} writes {what}: {time.monotonic() - begun:.1f} s")

        def with_pause(what: str, kill: Callable[[], None]) -> None:
            before = acknowledged.count
            kill()
            until_calm(f"after {what}")
            measured(f"{what}: longest pause", acknowledged.longest_pause(before - 1))

        until_calm("at first")
        for number in (1, 2):
            with_pause(f"tgtd SIGKILL, time {number}", lambda: tgtd(site).signal(SIGKILL))
        site.lab.service.stop()
        site.lab.start_service()
        with_pause("tgtd of an earlier service SIGKILL", lambda: tgtd(site).signal(SIGKILL))
        with_pause("service and tgtd SIGKILL", lambda: kill_service_and_tgtd(site))
        with_pause("ovs-vswitchd SIGKILL", lambda: kill_switch(site))
    reader.join(10)
    print(f"{acknowledged.count} writes; the longest pause of all was {acknowledged.longest_pause():.1f} s")

    ssh.run("sync; echo 3 > /proc/sys/vm/drop_caches")
    content = ssh.read("/root/records")
    lost = [
        number
        for number in range(1, acknowledged.count + 1)
        if content[(number - 1) * RECORD : number * RECORD] != record(number)
    ]
    assert lost == []
    assert "rw" in ssh.run("findmnt -no OPTIONS /").split(",")
    told = restarts(site)[before:]
    print(*told, sep="\n")
    assert len(told) == 3
    assert set(site.leftovers()) <= EMPTY  # what the node takes, and nothing that differs from the database


def restarts(site: Site) -> list[str]:
    """What the node's timeline says of a tgtd that was started again."""
    return [line for line in site.must("node", "events", "n1").splitlines() if "serves again" in line]


def tgtd(site: Site) -> Process:
    """The one that serves n1's disk, once it runs."""
    folder = site.lab.service.state("service") / "target"
    return wait_until(
        lambda: next((each for each in processes.recorded_below(folder) if is_of(each, "tgtd")), None),
        deadline=30,
        what="tgtd",
        next_step="look at the service's log",
    )


def kill_service_and_tgtd(site: Site) -> None:
    service, server = site.lab.service_process(), tgtd(site)
    assert service is not None
    service.stop(kill=True)
    server.stop(kill=True)
    time.sleep(AWAY)  # what is proven is that the node waits so long
    site.lab.start_service()


def kill_switch(site: Site) -> None:
    vswitchd = site.lab.switch.vswitchd()
    assert vswitchd is not None
    vswitchd.stop(kill=True)
    time.sleep(AWAY)  # the same
    site.lab.switch.start()
