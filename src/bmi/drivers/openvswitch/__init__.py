"""Open vSwitch: what the switch driver, the leg driver and the lab's switch share."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from bmi.drivers import Options


class OvsOptions(Options):
    """How to reach one bridge of one Open vSwitch."""

    database: str = Field("unix:/run/openvswitch/db.sock", pattern=r"^(unix:/.+|tcp:.+:[0-9]+)$")
    """Where ovsdb-server listens: `unix:/path` or `tcp:address:port`, see ovsdb(7)."""
    bridge: str = Field("br0", min_length=1)
    timeout: float = Field(10.0, gt=0)
    """Seconds until a verb that gets no answer fails."""
    flush_flows: bool = True
    """Whether a verb returns only when no packet goes the old way any more. It needs ovs-vswitchd's control
    socket, so it works on the switch's own host only. Without it, packets of flows that are in ovs-vswitchd's
    cache go the old way for up to a second after a verb has returned."""
    control: Path | None = None
    """Control socket of ovs-vswitchd; found beside the database's socket if None."""

    @model_validator(mode="after")
    def _flush_needs_control(self) -> Self:
        if self.flush_flows and self.control is None and not self.database.startswith("unix:"):
            raise ValueError(
                "flush_flows needs a database on this host (unix:/path) or the option control; "
                "set flush_flows to false to live with a change that takes up to a second to be complete"
            )
        return self
