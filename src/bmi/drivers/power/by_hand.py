"""What drivers share that can switch a node at the most: they have no boot device, no drives, no console.

The firmware's own order counts then. Its first entry has to be the network; docs/power.md says how that is set.
"""

from collections.abc import Sequence

from bmi.drivers.power import Bmc, BootDevice, Console, PowerState
from bmi.errors import ConsoleUnavailable


class PowerOnly:
    """A driver that cannot choose what the firmware starts from."""

    chooses_boot = False

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state; what follows does so too, so that one that does not answer is told of."""
        raise NotImplementedError

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Do nothing: the firmware's own order counts."""
        self.state(bmc)

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Return None: nothing was chosen."""
        self.state(bmc)
        return None

    def reset_boot(self, bmc: Bmc) -> None:
        """Do nothing: there is nothing that could have been set."""
        self.state(bmc)

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Return nothing: there are no virtual drives."""
        self.state(bmc)
        return []

    def console(self, bmc: Bmc) -> Console:
        """Refuse: there is none.

        Raises:
            ConsoleUnavailable: Always.
        """
        self.state(bmc)
        raise ConsoleUnavailable(
            f"the node at {bmc.address} has no console over this power driver", next_step="look at its screen"
        )

    def close(self) -> None:
        """Do nothing: there are no connections."""
