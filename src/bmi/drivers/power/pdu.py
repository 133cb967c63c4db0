"""Power by the outlets of a power distribution unit (PDU), over SNMP, with `snmpget` and `snmpset`.

The node's BMC option `outlets` names its outlets; one with two power supplies has two, on the same unit. It is off
when all of them are. That power came back starts a server only where its firmware says so.
"""

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.power.by_hand import PowerOnly
from bmi.errors import BmcRefused, BmcUnreachable, CommandFailed, CommandTimedOut, DeadlineExceeded
from bmi.run import run
from bmi.wait import wait_until

OUTLETS = "outlets"
"""BMC option: numbers of the node's outlets, with commas between."""

_POLL = 0.2  # seconds between two looks
_MARGIN = 5.0  # seconds that a command may take beside waiting for answers
_OUTLETS_MOST = 8
_OID = r"^\.?\d+(\.\d+)+$"
_SECRET = re.compile(r"[ !#-\[\]-~]{1,64}")  # what a line of snmp.conf can carry between double quotes


class PduOptions(Options):
    """Options of the driver `pdu`. The objects are those of APC's rack units (PowerNet-MIB, rPDUOutlet)."""

    version: Literal["2c", "3"] = "3"
    """SNMP version. With 2c the BMC's password is the community, and goes over the network in the clear."""
    auth: Literal["MD5", "SHA", "SHA-256", "SHA-512"] = "SHA"
    """How log-in is protected in version 3; encryption is always asked for."""
    privacy: Literal["DES", "AES"] = "AES"
    """How traffic is encrypted in version 3."""
    control_oid: str = Field("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4", pattern=_OID)
    """Object that switches an outlet, without the outlet's number: rPDUOutletControlOutletCommand."""
    state_oid: str = Field("1.3.6.1.4.1.318.1.1.12.3.5.1.1.4", pattern=_OID)
    """Object that says how an outlet is: rPDUOutletStatusOutletState."""
    control_on: int = 1
    control_off: int = 2
    state_on: int = 1
    state_off: int = 2
    timeout: PositiveFloat = 30.0
    """Seconds to wait until a unit confirms what it was asked for."""
    answer: int = Field(2, ge=1, le=30)
    """Seconds to wait for an answer before it is asked again."""
    tries: int = Field(3, ge=1, le=20)
    """How often it is asked."""
    discharge: NonNegativeFloat = Field(5.0, le=120)
    """Seconds that a power supply still runs after its outlet was switched off; it counts as off after that."""


class PduPower(PowerOnly):
    """The driver of nodes whose outlets are switched."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(PduOptions, options, driver="pdu")

    def state(self, bmc: Bmc) -> PowerState:
        """Read how the outlets are: the node is off only where all of them are."""
        states = self._states(bmc)
        return PowerState.OFF if all(state is PowerState.OFF for state in states) else PowerState.ON

    def on(self, bmc: Bmc) -> None:
        """Switch all outlets on and wait until the unit confirms it."""
        self._switch(bmc, PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        """Switch all outlets off, and wait until the unit confirms it and nothing is left in the power supplies."""
        if self._switch(bmc, PowerState.OFF):
            time.sleep(self._options.discharge)  # nothing can be asked that would know

    def _switch(self, bmc: Bmc, wanted: PowerState) -> bool:
        """Switch what is not as wanted; say whether there was something."""
        outlets = _outlets(bmc)
        different = [
            outlet for outlet, state in zip(outlets, self._states(bmc), strict=True) if state is not wanted
        ]
        options = self._options
        value = options.control_on if wanted is PowerState.ON else options.control_off
        for outlet in different:
            # Some units answer only once a relay has moved, or not in time: what counts is what they report later.
            with suppress(BmcUnreachable):
                self._ask("snmpset", bmc, f"{options.control_oid}.{outlet}", "i", str(value))
        away: list[BmcUnreachable] = []

        def reached() -> bool:
            away.clear()
            try:
                return all(state is wanted for state in self._states(bmc))
            except BmcUnreachable as error:
                away.append(error)
                return False

        try:
            wait_until(reached, deadline=options.timeout, what=str(wanted), next_step="", poll=_POLL)
        except DeadlineExceeded as error:
            if away:
                raise away[0] from error
            raise BmcRefused(
                f"PDU {bmc.address} was asked to switch {wanted} outlets {bmc.options.get(OUTLETS)}, and does not "
                f"report that after {options.timeout:g} s",
                next_step="look at the unit's own log, and whether its user may switch these outlets",
            ) from error
        return bool(different)

    def _states(self, bmc: Bmc) -> list[PowerState]:
        options, outlets = self._options, _outlets(bmc)
        said = self._ask("snmpget", bmc, *(f"{options.state_oid}.{outlet}" for outlet in outlets)).split()
        known = {str(options.state_on): PowerState.ON, str(options.state_off): PowerState.OFF}
        if len(said) != len(outlets) or any(word not in known for word in said):
            raise BmcRefused(
                f"PDU {bmc.address} says {' '.join(said)[:80]!r} of its outlets {bmc.options.get(OUTLETS)}",
                next_step="correct the node's BMC option 'outlets', or the driver's options state_...",
            )
        return [known[word] for word in said]

    def _ask(self, program: str, bmc: Bmc, *words: str) -> str:
        """Ask a unit; what is secret is in a file that only this user reads, while it is asked."""
        options = self._options
        with tempfile.TemporaryDirectory(prefix="bmi-snmp-") as folder:  # mode 0700
            (Path(folder) / "snmp.conf").write_text(self._conf(bmc))
            command = [program, "-v", options.version, "-Oqvet", "-t", str(options.answer)]
            command += ["-r", str(options.tries - 1)]
            if options.version == "3":
                command += ["-l", "authPriv", "-u", bmc.username, "-a", options.auth, "-x", options.privacy]
            try:
                return run(
                    [*command, bmc.address, *words],
                    # No other configuration, nothing is kept, and no MIB is looked for.
                    env={"SNMPCONFPATH": folder, "SNMP_PERSISTENT_DIR": folder, "MIBS": ""},
                    timeout=options.answer * options.tries + _MARGIN,
                )
            except CommandTimedOut as error:
                raise _unreachable(bmc) from error
            except CommandFailed as error:
                raise _failed(bmc, error, words[0]) from error

    def _conf(self, bmc: Bmc) -> str:
        if not _SECRET.fullmatch(bmc.password):
            raise BmcRefused(
                f"the password of user {bmc.username!r} of PDU {bmc.address} cannot be used",
                next_step="give it 1 to 64 printable ASCII characters, without double quotes and backslashes",
            )
        if self._options.version == "2c":
            return f'defCommunity "{bmc.password}"\n'
        return f'defAuthPassphrase "{bmc.password}"\ndefPrivPassphrase "{bmc.password}"\n'


def _outlets(bmc: Bmc) -> Sequence[int]:
    named = bmc.options.get(OUTLETS, "")
    words = [word.strip() for word in named.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words) or len(words) > _OUTLETS_MOST:
        raise BmcRefused(
            f"the node at PDU {bmc.address} has no outlets: its BMC option '{OUTLETS}' is {named!r}",
            next_step="register it with its outlets' numbers: --bmc-option outlets=3, or outlets=3,4",
        )
    return [int(word) for word in words]


def _failed(bmc: Bmc, error: CommandFailed, object: str) -> CommandFailed | BmcRefused | BmcUnreachable:
    said = error.message
    if "is not installed" in said:
        return error
    if "Timeout" in said or "Unknown host" in said:
        return _unreachable(bmc)
    if any(word in said for word in ("Authentication failure", "Unknown user name", "Decryption error")):
        return BmcRefused(
            f"PDU {bmc.address} refuses user {bmc.username!r}",
            next_step="correct user name and password, and the driver's options auth and privacy",
        )
    return BmcRefused(
        f"PDU {bmc.address} refuses {object}: {said.strip().splitlines()[-1]}",
        next_step="correct the outlet's number, the driver's OIDs, or what the unit's user may write",
    )


def _unreachable(bmc: Bmc) -> BmcUnreachable:
    return BmcUnreachable(
        f"PDU {bmc.address} does not answer to SNMP",
        next_step="check its address and the network between; version 2c does not answer a wrong community either",
    )
