"""No driver is believed: after a verb that changes something, what really exists is read back.

A controller may say "done" before it is, a switch may take an order and drop it, a driver may have a fault of its
own. Such a thing is found here, at the step that asked for it and can ask again, and not weeks later as a leak.
The drivers of BMI read back too, where only they know how; this is what holds for every driver.

Each class passes on what only reads. Methods have the docstrings of the family's protocol.
"""

# ruff: noqa: D102
from collections.abc import Collection, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

from bmi.drivers import Outcome
from bmi.drivers.leg import Leg, Legs
from bmi.drivers.power import Bmc, BootDevice, Console, Power, PowerState
from bmi.drivers.storage import Kind, Progress, Storage, Volume, VolumeInfo
from bmi.drivers.switch import PortVlans, Switch
from bmi.drivers.target import Export, Portal, Removal, Target
from bmi.errors import ConsoleUnavailable, Unconfirmed


class _Confirmed:
    """Passes everything on that is not confirmed."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


class ConfirmedStorage(_Confirmed):
    """A storage driver whose volumes are looked for."""

    _driver: Storage

    def import_image(self, image: UUID, source: Path, progress: Progress) -> VolumeInfo:
        found = self._driver.import_image(image, source, progress)
        self._require(Volume(Kind.IMAGE, image), there=True)
        return found

    def clone(self, image: UUID, disk: UUID, size: int | None = None) -> Outcome:
        outcome = self._driver.clone(image, disk, size)
        self._require(Volume(Kind.DISK, disk), there=True)
        return outcome

    def snapshot(self, disk: UUID, image: UUID) -> Outcome:
        outcome = self._driver.snapshot(disk, image)
        self._require(Volume(Kind.IMAGE, image), there=True)
        return outcome

    def copy(self, image: UUID, new_image: UUID) -> Outcome:
        outcome = self._driver.copy(image, new_image)
        self._require(Volume(Kind.IMAGE, new_image), there=True)
        return outcome

    def adopt(self, image: UUID, name: str) -> VolumeInfo:
        found = self._driver.adopt(image, name)
        self._require(Volume(Kind.IMAGE, image), there=True)
        return found

    def flatten(self, volume: Volume, progress: Progress) -> Outcome:
        outcome = self._driver.flatten(volume, progress)
        _require(self._driver.depth(volume) == 0, f"{volume} was made independent", "storage")
        return outcome

    def roll_back(self, disk: UUID, image: UUID) -> Outcome:
        outcome = self._driver.roll_back(disk, image)
        self._require(Volume(Kind.DISK, disk), there=True)
        return outcome

    def grow(self, disk: UUID, size: int) -> Outcome:
        outcome = self._driver.grow(disk, size)
        volume = Volume(Kind.DISK, disk)
        found = self._driver.find(volume)
        _require(found is not None and found.size >= size, f"{volume} has {size} bytes", "storage")
        return outcome

    def write_seed(self, seed: UUID, content: bytes) -> Outcome:
        outcome = self._driver.write_seed(seed, content)
        self._require(Volume(Kind.SEED, seed), there=True)
        return outcome

    def remove(self, volume: Volume) -> Outcome:
        outcome = self._driver.remove(volume)
        self._require(volume, there=False)
        return outcome

    def _require(self, volume: Volume, *, there: bool) -> None:
        found = self._driver.find(volume) is not None
        _require(found is there, f"{volume} was {'made' if there else 'removed'}", "storage")


class ConfirmedTarget(_Confirmed):
    """A target driver whose exports are listed."""

    _driver: Target

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        outcome = self._driver.serve(portal, exports)
        served = {found.iqn: found.initiator for found in self._driver.exports(portal.id)}
        for export in exports:
            _require(served.get(export.iqn) == export.initiator, f"{export.iqn} is exported", "target")
        return outcome

    def remove(self, portal: UUID, iqn: str) -> Removal:
        removal = self._driver.remove(portal, iqn)
        left = [found.iqn for found in self._driver.exports(portal)]
        _require(iqn not in left, f"export {iqn} was removed", "target")
        return removal

    def stop(self, portal: UUID) -> Outcome:
        outcome = self._driver.stop(portal)
        _require(portal not in self._driver.portals(), f"the server of portal {portal} was ended", "target")
        return outcome


class ConfirmedSwitch(_Confirmed):
    """A switch driver whose ports are read back."""

    _driver: Switch

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        outcome = self._driver.configure(port, vlans)
        found = self._driver.port(port).vlans
        _require(found == vlans, f"port {port} carries VLAN {vlans}, it carries {found}", "switch")
        return outcome


class ConfirmedPower(_Confirmed):
    """A power driver whose controllers are asked again."""

    _driver: Power

    def on(self, bmc: Bmc) -> None:
        self._driver.on(bmc)
        self._require(bmc, PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        self._driver.off(bmc)
        self._require(bmc, PowerState.OFF)

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        self._driver.boot_from(bmc, device)
        if not getattr(self._driver, "chooses_boot", True):
            return  # the firmware's own order counts
        chosen = self._driver.boots_from(bmc) is device
        _require(chosen, f"the node of BMC {bmc.address} boots from {device}", "power")

    def reset_boot(self, bmc: Bmc) -> None:
        self._driver.reset_boot(bmc)
        reset = self._driver.boots_from(bmc) is None and not self._driver.media(bmc)
        _require(reset, f"the boot settings of BMC {bmc.address} were reset", "power")

    def console(self, bmc: Bmc) -> Console:
        # Drivers of others may be older than consoles.
        found = getattr(self._driver, "console", None)
        if found is None:
            raise ConsoleUnavailable(
                f"the power driver of BMC {bmc.address} knows no consoles",
                next_step="take a newer one, or do without",
            )
        opened: Console = found(bmc)
        return opened

    def _require(self, bmc: Bmc, state: PowerState) -> None:
        _require(self._driver.state(bmc) is state, f"the node of BMC {bmc.address} is {state}", "power")


class ConfirmedLegs(_Confirmed):
    """A leg driver whose legs are listed."""

    _driver: Legs

    def up(
        self,
        network: UUID,
        vlan: int,
        address: IPv4Interface,
        *,
        also: Collection[IPv4Interface] = (),
        lease: int | None = None,
    ) -> Leg:
        leg = self._driver.up(network, vlan, address, also=also, lease=lease)
        found = {each.network: each.vlan for each in self._driver.legs()}
        _require(found.get(network) == vlan, f"the leg on network {network} is there", "leg")
        return leg

    def down(self, network: UUID) -> Outcome:
        outcome = self._driver.down(network)
        left = [leg.network for leg in self._driver.legs()]
        _require(network not in left, f"the leg on network {network} was removed", "leg")
        return outcome


_CONFIRMED = {
    "storage": ConfirmedStorage,
    "target": ConfirmedTarget,
    "switch": ConfirmedSwitch,
    "power": ConfirmedPower,
    "leg": ConfirmedLegs,
}


def confirmed(family: str, driver: Any) -> Any:
    """Return a driver that is not believed; it raises `Unconfirmed` where it does not do what it says."""
    return _CONFIRMED[family](driver)


def _require(condition: bool, claim: str, family: str) -> None:
    if not condition:
        raise Unconfirmed(
            f"the {family} driver said that {claim}, but that is not so",
            next_step=f"look at the {family}'s own log; it may be slow, or somebody else changes it",
        )
