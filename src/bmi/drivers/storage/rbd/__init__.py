"""Storage in Ceph: images, disks and seeds as RBD images, spoken to with Ceph's own library.

    store                                        the verbs; what they are made of is in the others
    options, conf, preflight, session, failures  the connection, and what can be wrong with it
    names, whole                                 what marks a volume as whole, and who looks at it
    making, importing, freezing, seeds           how volumes come
    removal, header, sweeping                    how they go, and what dead processes left
    swap                                         how a disk is rolled back
    fencing, lineage, stream, room, health       who has a volume open, what it depends on and takes

Importing this package needs Ceph's Python bindings; only those import it whose settings name the driver.
"""

from bmi.drivers.storage.rbd.store import RbdStorage

__all__ = ["RbdStorage"]
