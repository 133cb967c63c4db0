"""The processes of an installation on the wire."""

from datetime import datetime
from typing import Literal

from bmi.api.common import Response


class Member(Response):
    """A gateway or a worker."""

    role: Literal["gateway", "worker"]
    name: str
    alive: bool
    """Whether it was heard of lately."""
    seen_at: datetime
    """When it was last heard of."""
    acted_for_by: str | None = None
    """Gateways: the other gateway that has taken its place."""
    load: int
    """Gateways: exports whose home it is. Workers: operations that it carries out."""
