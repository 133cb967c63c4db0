"""Real disks are looked into, in the sandbox: what is wrong is named, and the image stays as it is."""

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers.storage import Backing
from bmi.errors import ApplianceFailed, ApplianceUnavailable, CommandTimedOut
from bmi.images.appliance import sandbox
from bmi.images.appliance.session import Appliance
from bmi.images.debian import Recipe
from bmi.images.readiness.check import check, judge
from bmi.images.readiness.facts import DiskReport
from tests.integration.appliance.conftest import Guest, quiet
from tests.integration.boot_harness import golden

pytestmark = pytest.mark.timeout(1200)

# What is broken is not mended before the next: codes that stay are left out where something else hides them.
EXPECTED = {
    "as_it_is": {"virtual-nics-only"},
    "a_used_machine": {
        *("virtual-nics-only", "machine-id", "host-keys", "fstab-no-netdev", "fstab-by-device", "swap"),
        *("nic-not-kept", "no-seed-reader", "no-ssh-server", "no-iscsid"),
    },
    "another_loader": {
        "no-bios-loader",
        "no-efi-fallback",
        "unknown-system",
        "root-by-device",
        "no-serial-console",
    },
    "useless_initramfs": {"initramfs-no-iscsi", "initramfs-no-nic", "no-boot-entry"},
    "broken_initramfs": {"initramfs-unreadable", "root-not-found", "no-serial-console"},
    "no_kernel": {"no-kernel"},
    "no_system": {"no-system", "no-boot-loader"},
}


@pytest.fixture(scope="module")
def image() -> Path:
    return golden(Recipe())


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the appliance a folder of the test's own for what is temporary; nothing may be left in it."""
    # Not pytest's: the sandbox, which has no rights, has to find its way in.
    with tempfile.TemporaryDirectory(prefix="bmi-test-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture(scope="module")
def broken(guest: Guest, image: Path, folder_of_appliance: Path) -> dict[str, set[str]]:
    """What is found in the image after each further thing that is broken in it."""
    seen = guest("broken.py", image, folder_of_appliance)
    return {
        name: {finding.code for finding in judge(DiskReport.model_validate(facts)).findings}
        for name, facts in seen.items()
    }


@pytest.mark.parametrize("stage", EXPECTED)
def test_what_is_broken_is_named(broken: dict[str, set[str]], stage: str) -> None:
    assert EXPECTED[stage] <= broken[stage]
    before = broken[list(EXPECTED)[max(0, list(EXPECTED).index(stage) - 1)]]
    assert broken[stage] - before <= EXPECTED[stage]


def test_more_than_a_dozen_things_were_broken() -> None:
    assert len(set().union(*EXPECTED.values())) >= 20


def test_a_good_image_is_checked_in_the_sandbox_and_not_touched(
    appliance: Appliance, image: Path, temporary: Path
) -> None:
    before, told = _digest(image), set[str]()
    report = check(appliance, Backing("file", str(image)), lambda doing, fraction: told.add(doing))
    assert (report.system, report.first_boot) == ("Debian GNU/Linux 12 (bookworm)", True)
    assert [finding.code for finding in report.findings] == ["virtual-nics-only"]
    assert {"starting the appliance", "reading its initramfs"} <= told
    assert _digest(image) == before


def test_what_takes_too_long_is_killed(image: Path, temporary: Path) -> None:
    hasty = Appliance(cache=Path("/var/cache/bmi"), deadline=1.0)
    begun = time.monotonic()
    with pytest.raises(CommandTimedOut, match="starting the appliance"):
        check(hasty, Backing("file", str(image)), quiet)
    assert time.monotonic() - begun < 30


def test_cancelling_ends_it(appliance: Appliance, image: Path, temporary: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(doing: str, fraction: float) -> None:
        if doing == "starting the appliance":
            raise EnoughError

    with pytest.raises(EnoughError):
        check(appliance, Backing("file", str(image)), stop)


def test_a_volume_that_is_not_there_and_an_appliance_that_is_switched_off(tmp_path: Path) -> None:
    with pytest.raises(ApplianceFailed, match="No such file"):
        check(Appliance(cache=Path("/var/cache/bmi")), Backing("file", str(tmp_path / "none")), quiet)
    with pytest.raises(ApplianceUnavailable, match="switched off"):
        check(Appliance(cache=tmp_path, enabled=False), Backing("file", "x"), quiet)


def test_the_sandbox_has_no_rights_no_network_and_none_of_the_hosts_files(
    tmp_path: Path, folder_of_appliance: Path
) -> None:
    (tmp_path / "socket").touch()
    words = sandbox.words(
        appliance=folder_of_appliance, socket=tmp_path / "socket", memory=512, kvm=False, files=None
    )
    script = (
        "import os, pathlib;"
        "print(sorted(os.listdir('/')));"
        "print(os.getuid() != 0, os.environ.get('BMI_SECRET'));"
        "print([p for p in ('/etc/passwd', '/var/lib', '/root', '/home', '/work') if os.path.exists(p)]);"
        "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line));"
        "print([n for n in os.listdir('/proc') if n.isdigit() and int(n) > 9])"
    )
    # The sandbox's folder is under the test's, which nobody else may enter.
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    said = subprocess.run(
        [*words[:-1], script], capture_output=True, text=True, timeout=60, env={"BMI_SECRET": "x"}, check=True
    ).stdout.splitlines()
    assert "root" not in said[0]
    assert said[1:] == ["True None", "[]", "['lo']", "[]"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
