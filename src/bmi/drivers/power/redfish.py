"""Power over Redfish (DMTF DSP0266 and DSP2046), with `sushy`."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import sushy

from bmi.drivers import Site, parse_options
from bmi.drivers.power import (
    Bmc,
    BootDevice,
    Console,
    PowerState,
    redfish_console,
    redfish_media,
    sol,
    ssh_console,
)
from bmi.drivers.power.ipmi import login
from bmi.drivers.power.redfish_connection import Connection, Lacking, RedfishOptions
from bmi.drivers.power.redfish_quirks import boot_mode, boot_override, order, quirks_of, wanted_mode
from bmi.errors import BadRequest, BmcRefused, ConsoleUnavailable, DeadlineExceeded
from bmi.wait import wait_until

_POLL = 0.1  # seconds between two looks; controllers are small computers
_LOG_OUTS = 16  # controllers that are said goodbye to at a time

_RESETS = {
    # ForceOn is all that some offer.
    PowerState.ON: (sushy.RESET_TYPE_ON, sushy.RESET_TYPE_FORCE_ON),
    PowerState.OFF: (sushy.RESET_TYPE_FORCE_OFF,),
}
_NETWORK_TARGETS = {
    "pxe": sushy.BOOT_SOURCE_TARGET_PXE,
    "http": sushy.BOOT_SOURCE_TARGET_UEFI_HTTP,
}
"""What each value of a node's option `network_boot` chooses (DSP0268, ComputerSystem, BootSource)."""
_NETWORK_BOOT = "network_boot"
_DEVICES = {
    **dict.fromkeys(_NETWORK_TARGETS.values(), BootDevice.NETWORK),
    sushy.BOOT_SOURCE_TARGET_HDD: BootDevice.DISK,
}
_ALWAYS = sushy.BOOT_SOURCE_ENABLED_CONTINUOUS
_ONCE = sushy.BOOT_SOURCE_ENABLED_ONCE
_NEVER = sushy.BOOT_SOURCE_ENABLED_DISABLED
_NOTHING = sushy.BOOT_SOURCE_TARGET_NONE


class RedfishPower:
    """The Redfish driver.

    Some controllers take an order, report no error and do nothing. So every verb ends only when the controller
    itself reports what was asked for.
    """

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(RedfishOptions, options, driver="redfish")
        self._connections: dict[tuple[str, str, str | None], Connection] = {}
        self._lock = threading.Lock()

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state from the controller."""
        with self._connection(bmc).system() as system:
            return _power_state(system)

    def on(self, bmc: Bmc) -> None:
        """Switch on and wait until the controller confirms it. A node that is on stays on."""
        self._switch(bmc, PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        """Switch off at once, without asking the operating system, and wait until the controller confirms it."""
        self._switch(bmc, PowerState.OFF)

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Choose what the firmware starts from, and read it back.

        It holds for every start if the controller can do that, else for the next one. From the network that is by
        PXE, or by UEFI HTTP where the node's option `network_boot` is `http`.
        """
        connection, target, mode = self._connection(bmc), _target(bmc, device), wanted_mode(bmc)
        with connection.system() as system:
            if boot_override(system) == (target, _ALWAYS) and mode in (None, boot_mode(system)):
                return
            _choose(system, target, mode)
        self._confirm(
            connection,
            lambda system: (
                boot_override(system) in [(target, _ALWAYS), (target, _ONCE)]
                and mode in (None, boot_mode(system))
            ),
            f"to boot from {target.value}" + (f" in mode {mode.value}" if mode else ""),
        )

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Read what the firmware was told to start from; None if nothing, or something else."""
        with self._connection(bmc).system() as system:
            target, enabled = boot_override(system)
        return _DEVICES.get(target) if enabled in (_ALWAYS, _ONCE) else None

    def reset_boot(self, bmc: Bmc) -> None:
        """Have the firmware start from what it is set to itself, empty the virtual drives, and read both back."""
        connection = self._connection(bmc)
        with connection.system() as system:
            redfish_media.eject(system)
            if not _is_clear(system):
                _clear(system)
        self._confirm(connection, _is_clear, "to forget what to boot from")
        self._confirm(
            connection, lambda system: not redfish_media.inserted(system), "to empty its virtual drives"
        )

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Name the images in the virtual drives that the controller gives the node."""
        with self._connection(bmc).system() as system:
            return redfish_media.inserted(system)

    def console(self, bmc: Bmc) -> Console:
        """Open the node's serial line, over SSH or Serial over LAN, as the controller says where it is."""
        with self._connection(bmc).system() as system:
            offer = redfish_console.offered(system)
        if offer is None:
            raise ConsoleUnavailable(
                f"BMC {bmc.address} offers no serial console over SSH or IPMI (SerialConsole)",
                next_step="turn on its serial console over SSH, or do without: nothing else of BMI needs it",
            )
        host = urlsplit(bmc.address).hostname or ""
        if offer.protocol == "IPMI":
            place = replace(bmc, address=f"{host}:{offer.port}")
            return sol.activate(login(place, self._options.ipmi_cipher_suite))
        return ssh_console.connect(
            ssh_console.Place(
                name=bmc.address,
                host=host,
                port=offer.port,
                username=bmc.username,
                password=bmc.password,
                host_key=bmc.options.get(ssh_console.HOST_KEY, ""),
                verify=self._options.verify_host_keys,
                timeout=self._options.connect_timeout,
                command=offer.command,
            )
        )

    def close(self) -> None:
        """Log out from every controller."""
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        with ThreadPoolExecutor(_LOG_OUTS) as pool:  # one that does not answer must not hold up the others
            list(pool.map(Connection.close, connections))

    def _connection(self, bmc: Bmc) -> Connection:
        key = (bmc.address, bmc.username, bmc.options.get("system"))
        with self._lock:
            found = self._connections.get(key)
            if found and found.bmc == bmc:
                return found
            made = self._connections[key] = Connection(bmc, self._options)
        if found:  # its password is another now
            found.close()
        return made

    def _switch(self, bmc: Bmc, wanted: PowerState) -> None:
        connection = self._connection(bmc)
        order = f"to switch {wanted}"
        self._confirm(connection, lambda system: _asked_to_switch(system, wanted), order)
        self._confirm(connection, lambda system: _power_state(system) is wanted, order)

    def _confirm(self, connection: Connection, reached: Callable[[Any], bool], order: str) -> None:
        def look() -> bool:
            with connection.system() as system:
                return reached(system)

        try:
            wait_until(look, deadline=self._options.timeout, what=order, next_step="", poll=_POLL)
        except DeadlineExceeded as error:
            with connection.system() as system:
                now = _described(system)
            raise BmcRefused(
                f"BMC {connection.bmc.address} was asked {order} but after {self._options.timeout:g} s "
                f"still reports {now}",
                next_step="look at the BMC's own log and console, update its firmware or reset the BMC",
            ) from error


def _target(bmc: Bmc, device: BootDevice) -> Any:
    """Return the boot target for a device, as the node's options want it."""
    if device is BootDevice.DISK:
        return sushy.BOOT_SOURCE_TARGET_HDD
    way = bmc.options.get(_NETWORK_BOOT, "pxe")
    try:
        return _NETWORK_TARGETS[way]
    except KeyError:
        raise BadRequest(
            f"BMC {bmc.address}: option {_NETWORK_BOOT} is {way!r}",
            next_step=f"register the node with {_NETWORK_BOOT}={' or '.join(_NETWORK_TARGETS)}",
        ) from None


def _power_state(system: Any) -> PowerState:
    """Read the power state; a node that is about to change it has power."""
    if system.power_state is None:
        raise Lacking("reports no PowerState")
    return PowerState.OFF if system.power_state == sushy.SYSTEM_POWER_STATE_OFF else PowerState.ON


def _asked_to_switch(system: Any, wanted: PowerState) -> bool:
    """Ask for a power state where it is needed, and say whether that was possible yet."""
    if wanted is PowerState.ON and system.power_state == sushy.SYSTEM_POWER_STATE_POWERING_OFF:
        return False
    if _power_state(system) is wanted:
        return True
    offered = system.get_allowed_reset_system_values()
    chosen = next((reset for reset in _RESETS[wanted] if reset in offered), None)
    if chosen is None:
        raise Lacking(f"has no reset {_RESETS[wanted][0].value}, only {_words(offered)}")
    try:
        system.reset_system(chosen)
    except sushy.exceptions.HTTPError:
        # An order that was given before, by a caller that was killed, may be refused the second time.
        system.refresh()
        if _power_state(system) is not wanted:
            raise
    return True


def _choose(system: Any, target: Any, mode: Any) -> None:
    """Set the boot target, for every start if the controller can do that, else for the next one.

    Args:
        system: The system.
        target: What to boot from.
        mode: In which mode; None leaves that alone.
    """
    offered = system.get_allowed_system_boot_source_values()
    if target not in offered:
        raise Lacking(f"has no boot target {target.value}, only {_words(offered)}")
    quirks, found = quirks_of(system), boot_mode(system)
    if mode is not None and found is None:
        raise Lacking(f"tells of no boot mode, so that {mode.value} cannot be made sure of")
    changed = mode if mode is not found else None
    for enabled in quirks.enabled:
        try:
            order(system, target=target, enabled=enabled, mode=changed or quirks.mode)
        except sushy.exceptions.BadRequestError as error:
            if enabled == quirks.enabled[-1] and changed is not None:
                words = f"starts in mode {found.value}, and refuses {changed.value}: {error.detail or error}"
                raise Lacking(f"{words}; it may have to be set in the firmware's own set-up") from error
            if enabled == quirks.enabled[-1]:
                raise
        else:
            return


def _is_clear(system: Any) -> bool:
    target, enabled = boot_override(system)
    return target in (None, _NOTHING) or enabled not in (_ALWAYS, _ONCE)


def _clear(system: Any) -> None:
    """End the boot override; a controller that cannot is told to boot from nothing in particular (DSP0268)."""
    mode = quirks_of(system).mode
    try:
        order(system, enabled=_NEVER, mode=mode)
    except sushy.exceptions.BadRequestError:
        if _NOTHING not in system.get_allowed_system_boot_source_values():
            raise
        order(system, target=_NOTHING, mode=mode)


def _words(values: Iterable[Any]) -> str:
    return ", ".join(sorted(value.value for value in values)) or "none"


def _described(system: Any) -> str:
    power = system.power_state.value if system.power_state else "unknown"
    target, enabled = boot_override(system)
    boot = f"{target.value} ({enabled.value})" if target and enabled else "not set"
    drives = ", ".join(redfish_media.inserted(system))
    return f"power {power}, boot override {boot}" + (f", virtual media {drives}" if drives else "")
