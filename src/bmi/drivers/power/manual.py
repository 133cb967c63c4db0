"""Power by hand: a node without a management controller. Somebody goes there, presses the button and says so.

What an admin said last is in the node's BMC option `power`. An order that differs from it fails in a way that an
operation waits for: its events say what to do, and it goes on when somebody has said that it is done.
"""

from collections.abc import Mapping
from typing import Any

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.power import SAID, Bmc, PowerState
from bmi.drivers.power.by_hand import PowerOnly
from bmi.errors import HandNeeded


class ManualOptions(Options):
    """The driver `manual` has no options."""


class ManualPower(PowerOnly):
    """The driver of nodes that people switch."""

    by_hand = True

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parse_options(ManualOptions, options, driver="manual")

    def state(self, bmc: Bmc) -> PowerState:
        """Return what was said last. A node of which nothing is known may be on."""
        return PowerState.OFF if bmc.options.get(SAID) == PowerState.OFF else PowerState.ON

    def on(self, bmc: Bmc) -> None:
        """Have somebody switch the node on.

        Raises:
            HandNeeded: It has not been said yet that it is on.
        """
        if self.state(bmc) is not PowerState.ON:
            raise _needed(bmc, PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        """Have somebody switch the node off.

        Raises:
            HandNeeded: It has not been said yet that it is off.
        """
        if self.state(bmc) is not PowerState.OFF:
            raise _needed(bmc, PowerState.OFF)


def _needed(bmc: Bmc, wanted: PowerState) -> HandNeeded:
    where = f"the node at {bmc.address}" if bmc.address else "the node"
    return HandNeeded(
        f"{where} has to be switched {wanted} by hand; then say so: bmi node power NODE is-{wanted}",
        next_step=f"switch it {wanted} and say so, then: bmi op retry",
    )
