"""Power over IPMI 2.0 (RMCP+), with `ipmitool`.

The protocol is old, and so are many controllers that speak it: passwords have 20 bytes at the most, and orders are
confirmed that are not carried out. So every verb ends only when the controller itself reports what was asked for.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveFloat

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.power import Bmc, BootDevice, Console, PowerState, sol
from bmi.errors import BmcRefused, BmcUnreachable, CommandFailed, CommandTimedOut, DeadlineExceeded
from bmi.run import run
from bmi.wait import wait_until

_POLL = 0.2  # seconds between two looks; controllers are small computers
_PORT = "623"
_PASSWORD = 20  # bytes; IPMI 2.0, 22.30
_MARGIN = 5.0  # seconds that ipmitool may take beside waiting for answers

_POWER = re.compile(r"Chassis Power is (on|off)")
_FLAGS = re.compile(r"Boot parameter data: ([0-9a-fA-F]{10})")
_REFUSED = re.compile(
    r"RAKP \d.*|.*(?:unauthorized name|insufficient privilege|Invalid role|Unable to Get Channel Cipher).*",
    re.IGNORECASE,
)

# IPMI 2.0, table 28-14, parameter 5: the first byte says whether the flags count, the second which device.
_VALID = 0x80
_SELECTORS = {1: BootDevice.NETWORK, 2: BootDevice.DISK}
_WORDS = {BootDevice.NETWORK: "pxe", BootDevice.DISK: "disk"}


class IpmiOptions(Options):
    """Options of the driver `ipmi`."""

    timeout: PositiveFloat = 30.0
    """Seconds to wait until a controller confirms what it was asked for."""
    answer: int = Field(2, ge=1, le=30)
    """Seconds to wait for an answer before it is asked again."""
    tries: int = Field(3, ge=1, le=20)
    """How often it is asked."""
    cipher_suite: int = Field(17, ge=0, le=17)
    """How log-in and traffic are protected: 17 is SHA-256 and AES; 3 (SHA-1) is all that older controllers have."""
    uefi: bool = False
    """Whether nodes are to boot as UEFI; a controller that is asked for a device may choose BIOS otherwise."""
    believe_flags: bool = True
    """Whether the flag counts that says whether a boot device was chosen; some controllers never set it."""


class IpmiPower:
    """The IPMI driver."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(IpmiOptions, options, driver="ipmi")

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state from the controller."""
        return PowerState(self._read(bmc, _POWER, "chassis", "power", "status"))

    def on(self, bmc: Bmc) -> None:
        """Switch on and wait until the controller confirms it. A node that is on stays on."""
        self._switch(bmc, PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        """Switch off at once, without asking the operating system, and wait until the controller confirms it."""
        self._switch(bmc, PowerState.OFF)

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Choose what the firmware starts from, and read it back.

        It holds for every start if the controller can do that, else for the next one.
        """
        options = "persistent,efiboot" if self._options.uefi else "persistent"
        self._call(bmc, "chassis", "bootdev", _WORDS[device], f"options={options}")
        self._confirm(bmc, lambda: self.boots_from(bmc) is device, f"to boot from {_WORDS[device]}")

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Read what the firmware was told to start from; None if nothing, or something else."""
        data = bytes.fromhex(self._read(bmc, _FLAGS, "chassis", "bootparam", "get", "5"))
        if self._options.believe_flags and not data[0] & _VALID:
            return None
        return _SELECTORS.get(data[1] >> 2 & 0x0F)

    def reset_boot(self, bmc: Bmc) -> None:
        """Have the firmware start from what it is set to itself, and read it back; there are no virtual drives."""
        self._call(bmc, "chassis", "bootdev", "none")
        self._confirm(bmc, lambda: self.boots_from(bmc) is None, "to forget what to boot from")

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Return nothing: IPMI knows no virtual drives. A controller that has some shows them by Redfish only."""
        self.state(bmc)  # one that does not answer, or refuses, is told of
        return []

    def console(self, bmc: Bmc) -> Console:
        """Open the node's serial line over LAN; a session that somebody else has is ended."""
        options = self._options
        return sol.activate(login(bmc, options.cipher_suite, answer=options.answer, tries=options.tries))

    def close(self) -> None:
        """Do nothing: each call logs in and out."""

    def _switch(self, bmc: Bmc, wanted: PowerState) -> None:
        if self.state(bmc) is not wanted:
            self._call(bmc, "chassis", "power", wanted.value)
            self._confirm(bmc, lambda: self.state(bmc) is wanted, f"to switch {wanted}")

    def _confirm(self, bmc: Bmc, reached: Callable[[], bool], order: str) -> None:
        try:
            wait_until(reached, deadline=self._options.timeout, what=order, next_step="", poll=_POLL)
        except DeadlineExceeded as error:
            raise BmcRefused(
                f"BMC {bmc.address} was asked {order}, and does not report that after {self._options.timeout:g} s",
                next_step="look at the BMC's own log and console, update its firmware or reset the BMC",
            ) from error

    def _read(self, bmc: Bmc, form: re.Pattern[str], *words: str) -> str:
        answer = self._call(bmc, *words)
        found = form.search(answer)
        if found is None:
            raise BmcRefused(
                f"BMC {bmc.address} gives no answer to {' '.join(words)} that can be read",
                next_step=f"see what ipmitool says: ipmitool -I lanplus -H {bmc.address} {' '.join(words)}",
            )
        return found[1]

    def _call(self, bmc: Bmc, *words: str) -> str:
        """Let ipmitool ask for something; the password goes over its standard input, where nobody sees it."""
        options = self._options
        place = login(bmc, options.cipher_suite, answer=options.answer, tries=options.tries)
        command = [*place.command("/dev/stdin"), *words]
        try:
            return run(command, input=bmc.password.encode(), timeout=place.patience)
        except CommandTimedOut as error:
            raise _unreachable(bmc) from error
        except CommandFailed as error:
            raise _failed(bmc, error, words) from error


def login(bmc: Bmc, cipher_suite: int, *, answer: int = 2, tries: int = 3) -> sol.Login:
    """Return how ipmitool logs in to a controller.

    Args:
        bmc: The controller; its address is HOST or HOST:PORT.
        cipher_suite: How log-in and traffic are protected.
        answer: Seconds to wait for an answer before it is asked again.
        tries: How often it is asked.

    Raises:
        BmcRefused: The password has more bytes than IPMI knows.
    """
    if len(bmc.password.encode()) > _PASSWORD:
        raise BmcRefused(
            f"BMC {bmc.address}: its password has more than the {_PASSWORD} bytes that IPMI knows",
            next_step=f"give user {bmc.username} a shorter one there, and here",
        )
    host, _, port = bmc.address.partition(":")
    options = ["-H", host, "-p", port or _PORT, "-U", bmc.username]
    options += ["-C", str(cipher_suite), "-N", str(answer), "-R", str(tries)]
    patience = 2 * answer * (tries + 1) + _MARGIN
    return sol.Login(options, bmc.address, bmc.username, bmc.password, patience)


def _failed(
    bmc: Bmc, error: CommandFailed, words: Sequence[str]
) -> BmcRefused | BmcUnreachable | CommandFailed:
    """Say whether a controller is away, or says no."""
    if "is not installed" in error.message:
        return error
    refusals = [
        line.strip("> ") for line in error.message.splitlines() if _REFUSED.fullmatch(line.strip("> "))
    ]
    if refusals:
        return BmcRefused(
            f"BMC {bmc.address} refuses user {bmc.username!r}: {refusals[0]}",
            next_step="correct user name and password of the node's BMC, and allow that user IPMI over LAN",
        )
    if "Unable to establish" in error.message or "Get Auth Capabilities" in error.message:
        return _unreachable(bmc)
    last = error.message.strip().splitlines()[-1]
    return BmcRefused(
        f"BMC {bmc.address} refuses {' '.join(words)}: {last}", next_step="look at the BMC's own log"
    )


def _unreachable(bmc: Bmc) -> BmcUnreachable:
    return BmcUnreachable(
        f"BMC {bmc.address} does not answer to IPMI over LAN",
        next_step="check its address, its cable and power, that IPMI over LAN is turned on, and the cipher suite",
    )
