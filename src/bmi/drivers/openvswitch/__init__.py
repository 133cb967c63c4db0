"""Open vSwitch: what the switch driver, the leg driver and the lab's switch share."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from bmi.drivers import Options


class OvsOptions(Options):
    """How to reach one bridge of one Open vSwitch."""

    database: str = Field("unix:/run/openvswitch/db.sock", pattern=r"^(unix:/.+|tcp:.+:[0-9]+)$")
    """Where ovsdb-server listens: `unix:/path` or `tcp:address:port`, see ovsdb(7)."""
    bridge: str = Field("br0", min_length=1)
    timeout: float = Field(10.0, gt=0)
    """Seconds until a verb that gets no answer fails."""
    control: Path | None = None
    """Control socket of ovs-vswitchd; found beside the database's socket if None."""
    flush_flows: bool = Field(default=True, validate_default=True)
    """Whether a verb returns only when no packet goes the old way any more. It needs ovs-vswitchd's control
    socket, so it works on the switch's own host only. Without it, packets of flows that are in ovs-vswitchd's
    cache go the old way for up to a second after a verb has returned."""

    @field_validator("flush_flows")
    @classmethod
    def _flush_needs_control(cls, wanted: bool, others: ValidationInfo) -> bool:
        remote = not str(others.data.get("database", "")).startswith("unix:")
        if wanted and remote and others.data.get("control") is None:
            raise ValueError(
                "it needs a database on this host (unix:/path) or the option control; "
                "set it to false to live with a change that takes up to a second to be complete"
            )
        return wanted
