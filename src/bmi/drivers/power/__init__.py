"""Power: what BMI asks of a node's management controller (BMC)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

SAID = "power"
"""BMC option of nodes that are switched by hand: what an admin said last, `on` or `off`."""


class PowerState(StrEnum):
    """Whether a node has power."""

    ON = "on"
    OFF = "off"


class BootDevice(StrEnum):
    """What the firmware starts from."""

    NETWORK = "network"
    DISK = "disk"


@dataclass(frozen=True)
class Bmc:
    """How to reach one management controller."""

    address: str
    """URL or host name, as the driver expects it."""
    username: str
    password: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What only one driver knows, such as Redfish's `system` path."""


class Console(Protocol):
    """A node's serial line, open in both directions. One thread may read while another one writes."""

    def read(self, timeout: float) -> bytes:
        """Return what the node said, as it comes; nothing if it said nothing in this time.

        Args:
            timeout: Seconds.

        Raises:
            ConsoleLost: The session has ended; what came before was returned before.
        """

    def write(self, data: bytes) -> None:
        """Type something; every byte goes to the node as it is.

        Raises:
            ConsoleLost: The session has ended, or took nothing for some seconds.
        """

    def close(self) -> None:
        """End the session, so that the controller gives it to the next one; the node notices nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class OpenConsole:
    """What all consoles share: whoever opened one in a `with` has closed it afterwards."""

    def close(self) -> None:
        """End the session."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Power(Protocol):
    """What every power driver can do.

    All verbs raise `BmcUnreachable` when nothing answers, `BmcRefused` when the controller says no. One driver
    object serves all nodes and is called from many threads.

    A driver that cannot choose what the firmware starts from says `chooses_boot = False`; one whose nodes are
    switched by people, `by_hand = True`. Both may be left out.
    """

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state from the controller."""

    def on(self, bmc: Bmc) -> None:
        """Switch on and wait until the controller confirms it. A node that is on stays on."""

    def off(self, bmc: Bmc) -> None:
        """Switch off at once, without asking the operating system, and wait until the controller confirms it."""

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Choose what the firmware starts from, and read it back."""

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Read what the firmware was told to start from; None if nothing, or something else."""

    def reset_boot(self, bmc: Bmc) -> None:
        """Have the firmware start from what it is set to itself, empty the virtual drives, and read both back."""

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Name the images in the virtual drives that the controller gives the node."""

    def console(self, bmc: Bmc) -> Console:
        """Open the node's serial line, whether it has power or not.

        A controller gives one session. One that somebody else has is taken over where the protocol can do that.

        Raises:
            ConsoleUnavailable: This driver, or this controller, has no console; or somebody else has it.
        """

    def close(self) -> None:
        """Let go of connections."""
