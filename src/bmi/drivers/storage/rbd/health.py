"""What the cluster says of its own health."""

from collections.abc import Mapping
from typing import Any

from bmi.drivers.storage import Complaint

_MANAGERS = "MGR_"
"""How names of checks about managers begin. Volumes need no manager: without one Ceph only stops counting."""


def complaints(answer: Mapping[str, Any]) -> list[Complaint]:
    """Return the checks that fail and were not muted.

    Args:
        answer: What `ceph health detail` says in JSON,
            https://docs.ceph.com/en/pacific/rados/operations/health-checks/.
    """
    return [
        Complaint(
            name=f"Ceph {name}",
            message=str(check["summary"]["message"]),
            broken=check["severity"] == "HEALTH_ERR" and not name.startswith(_MANAGERS),
        )
        for name, check in sorted(answer["checks"].items())
        if not check.get("muted", False)
    ]
