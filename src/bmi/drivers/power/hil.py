"""Power driver `hil`: nodes are switched by HIL, which leads to OBMd, which asks the node's own controller.

The address of such a BMC is the node's name in HIL. User and password are those of the settings, unless the BMC has
its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import Field, PositiveFloat

from bmi.drivers import Site, parse_options
from bmi.drivers.hil.client import Hil, HilSaysNo, Login
from bmi.drivers.hil.options import ProjectsOptions
from bmi.drivers.hil.words import in_our_words
from bmi.drivers.power import Bmc, BootDevice, Console, PowerState
from bmi.errors import BmcRefused, BmcUnreachable, ConsoleUnavailable, DeadlineExceeded
from bmi.wait import wait_until

_DEVICES = {BootDevice.NETWORK: "pxe", BootDevice.DISK: "disk"}

T = TypeVar("T")


class HilPowerOptions(ProjectsOptions):
    """Options of the driver `hil`."""

    poll: PositiveFloat = Field(1.0, le=60)
    """Seconds between two looks whether a node has power; OBMd runs ipmitool for each."""


class HilPower:
    """The HIL driver.

    Only nodes of the projects in the settings are switched: an admin of HIL could switch everybody's. What HIL
    cannot do is to tell what a node boots from, and what is in its virtual drives.
    """

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(HilPowerOptions, options, driver="hil")
        self._hil = Hil(self._options)
        self._chosen: dict[str, BootDevice] = {}
        """What this process last asked nodes to boot from; HIL itself does not tell."""

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state from the controller."""
        return self._asked(bmc, lambda login: self._state(bmc, login))

    def on(self, bmc: Bmc) -> None:
        """Switch on and wait until the controller confirms it. A node that is on stays on."""
        self._switch(bmc, PowerState.ON, "power_on")

    def off(self, bmc: Bmc) -> None:
        """Switch off at once, without asking the operating system, and wait until the controller confirms it."""
        self._switch(bmc, PowerState.OFF, "power_off")

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Choose what the firmware starts from. It cannot be read back: OBMd's word that it is done counts."""
        self._choose(bmc, _DEVICES[device])
        self._chosen[bmc.address] = device

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Return what this process chose last and OBMd took; None if nothing."""
        return self._chosen.get(bmc.address)

    def reset_boot(self, bmc: Bmc) -> None:
        """Have the firmware start from what it is set to itself; that cannot be read back. There are no drives."""
        self._choose(bmc, "none")
        self._chosen.pop(bmc.address, None)

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Return nothing: HIL knows no virtual drives."""
        self.state(bmc)  # one that does not answer, or refuses, is told of
        return []

    def console(self, bmc: Bmc) -> Console:
        """Refuse: OBMd hands out what it has recorded, and takes nothing that is typed.

        Raises:
            ConsoleUnavailable: Always.
        """
        self.state(bmc)
        raise ConsoleUnavailable(
            f"HIL gives BMI no console of node {bmc.address}",
            next_step=f"read what OBMd has recorded: hil node console show {bmc.address}",
        )

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""

    def _choose(self, bmc: Bmc, device: str) -> None:
        def choose(login: Login | None) -> None:
            self._require_ours(bmc, login)
            self._through(bmc, login, "PUT", "boot_device", {"bootdev": device})

        self._asked(bmc, choose)

    def _switch(self, bmc: Bmc, wanted: PowerState, verb: str) -> None:
        def switch(login: Login | None) -> None:
            self._require_ours(bmc, login)
            if self._state(bmc, login) is wanted:
                return
            self._through(bmc, login, "POST", verb, None)
            self._confirm(bmc, login, wanted)

        self._asked(bmc, switch)

    def _confirm(self, bmc: Bmc, login: Login | None, wanted: PowerState) -> None:
        try:
            wait_until(
                lambda: self._state(bmc, login) is wanted,
                deadline=self._options.timeout,
                what=f"node {bmc.address}",
                next_step="",
                poll=self._options.poll,
            )
        except DeadlineExceeded as error:
            raise BmcRefused(
                f"node {bmc.address} was asked through HIL to switch {wanted}, and its controller does not report "
                f"that after {self._options.timeout:g} s",
                next_step="look at OBMd's log and at the node's BMC",
            ) from error

    def _state(self, bmc: Bmc, login: Login | None) -> PowerState:
        try:
            return PowerState(
                self._enabled(bmc, login, lambda: self._hil.power_status(bmc.address, login=login))
            )
        except HilSaysNo as error:
            if error.status == 404 and not error.kind:  # a page of HTML: there is no such call
                raise BmcRefused(
                    f"node {bmc.address}: {self._hil.name} does not tell whether nodes have power; before 0.4 no "
                    "HIL does",
                    next_step="update HIL, or drive the node's BMC itself: power driver ipmi or redfish",
                ) from None
            raise

    def _through(
        self, bmc: Bmc, login: Login | None, method: str, verb: str, body: Mapping[str, str] | None
    ) -> None:
        self._enabled(bmc, login, lambda: self._hil.obm(method, bmc.address, verb, body, login=login))

    def _enabled(self, bmc: Bmc, login: Login | None, ask: Callable[[], T]) -> T:
        """Ask for something; where HIL has turned the node's controller off, turn it on before."""
        try:
            return ask()
        except HilSaysNo as error:
            if not (error.status == 409 and error.says("not enabled")):
                raise
        self._require_ours(bmc, login)
        self._hil.enable_obm(bmc.address, login=login)
        return ask()

    def _require_ours(self, bmc: Bmc, login: Login | None) -> None:
        project = self._hil.node(bmc.address, login=login).project
        if project not in self._options.projects:
            raise BmcRefused(
                f"node {bmc.address} belongs in HIL to {f'project {project}' if project else 'nobody'}, "
                "and BMI switches none but those of its own projects",
                next_step="give it to one of the option 'projects' in HIL, or give it back here: "
                "bmi node deprovision",
            )

    def _asked(self, bmc: Bmc, ask: Callable[[Login | None], T]) -> T:
        with self._in_our_words(bmc):
            return ask(Login(bmc.username, bmc.password) if bmc.username else None)

    @contextmanager
    def _in_our_words(self, bmc: Bmc) -> Iterator[None]:
        with in_our_words(
            f"node {bmc.address} of {self._hil.name}",
            away=BmcUnreachable,
            failed=BmcUnreachable,
            refused=BmcRefused,
        ):
            yield
