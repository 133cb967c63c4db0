"""Imports every room's tables, so that the metadata is complete wherever the database is opened."""

from bmi import events
from bmi.access import models as access
from bmi.audit import models as audit
from bmi.boot import models as boot
from bmi.consoles import models as consoles
from bmi.discovery import models as discovery
from bmi.gateways import models as gateways
from bmi.images import models as images
from bmi.legacy import models as legacy
from bmi.networks import models as networks
from bmi.nodes import models as nodes
from bmi.provisioning import models as provisioning

__all__ = [
    "access",
    "audit",
    "boot",
    "consoles",
    "discovery",
    "events",
    "gateways",
    "images",
    "legacy",
    "networks",
    "nodes",
    "provisioning",
]
