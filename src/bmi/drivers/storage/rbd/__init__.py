"""Storage in Ceph: images, disks and seeds as RBD images, spoken to with Ceph's own library.

Importing this package needs Ceph's Python bindings; only those import it whose settings name the driver.
"""

from bmi.drivers.storage.rbd.store import RbdStorage

__all__ = ["RbdStorage"]
