"""What images and disks take in the store, on the wire."""

from bmi.api.images import Usage
from bmi.drivers.storage import Storage, Volume
from bmi.errors import NotFound, StorageError


def usage_of(storage: Storage, volume: Volume) -> Usage | None:
    """Ask the storage what a volume takes; what else is known of it is shown even if the storage is down."""
    try:
        found = storage.usage(volume)
    except (NotFound, StorageError):
        return None
    return Usage(own=found.own, shared=found.shared)
