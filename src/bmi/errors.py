"""Every failure a caller can meet.

An error is its own documentation: the class says what kind of failure it is, `code` never changes between
releases, the message names the thing and the cause, `next_step` says what to do about it.
"""

import math
from typing import ClassVar

OUTAGE = 900.0
"""Seconds for which operations wait for a part that all of them need to come back. Undoing would need it too."""


class BmiError(Exception):
    """An operation of BMI failed."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    transient: ClassVar[bool] = False
    """Whether the same call may succeed a moment later, so that a retry makes sense."""
    patience: ClassVar[float] = 0
    """Seconds for which an operation waits for such a failure to pass before it gives up."""

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}"


class SettingsInvalid(BmiError):
    """The configuration has a value that BMI cannot run with."""

    code = "settings-invalid"


# --- what a caller asked for -----------------------------------------------------------------------------


class BadRequest(BmiError):
    """The request has a value that cannot be used."""

    code = "bad-request"
    status = 400


class NotAuthenticated(BmiError):
    """The request carries no valid token."""

    code = "not-authenticated"
    status = 401


class LoginRefused(NotAuthenticated):
    """The OpenID Connect provider, or what it says of a person, does not let that person in."""

    code = "login-refused"


class ProviderUnavailable(BmiError):
    """The OpenID Connect provider does not answer as it should."""

    code = "provider-unavailable"
    status = 503
    transient = True


class NotAllowed(BmiError):
    """The caller may see the thing, but not do this to it."""

    code = "not-allowed"
    status = 403


class UndeclaredAction(BmiError):
    """A route asks for something that its rule does not name; refused, for an admin too."""

    code = "undeclared-action"
    status = 500


class NotFound(BmiError):
    """The thing does not exist, or the caller may not know that it does."""

    code = "not-found"
    status = 404


class AlreadyExists(BmiError):
    """Another thing has the name already."""

    code = "already-exists"
    status = 409


class InUse(BmiError):
    """The thing is used by something else, or another operation runs on it."""

    code = "in-use"
    status = 409


class WrongState(BmiError):
    """The thing is in a state in which this cannot be done to it."""

    code = "wrong-state"
    status = 409


class QuotaExceeded(BmiError):
    """The project would own more than it may."""

    code = "quota-exceeded"
    status = 409


class TooManyAttempts(BmiError):
    """Somebody failed too often to show who he is."""

    code = "too-many-attempts"
    status = 429

    def __init__(self, message: str, *, next_step: str = "", retry_after: float = 60) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        """Seconds."""
        super().__init__(message, next_step=next_step or f"try again in {self.retry_after} s")


# --- what the parts underneath report --------------------------------------------------------------------


class CommandFailed(BmiError):
    """A program that BMI ran ended with an error."""

    code = "command-failed"


class CommandTimedOut(CommandFailed):
    """A program that BMI ran did not end in time."""

    code = "command-timed-out"
    transient = True


class DeadlineExceeded(BmiError):
    """Something that BMI waited for did not happen in time."""

    code = "deadline-exceeded"
    status = 504


class Unconfirmed(BmiError):
    """A driver said that something was done, and what really exists says that it was not."""

    code = "unconfirmed"
    status = 502
    transient = True


class AuditFailed(BmiError):
    """A request could not be written into the audit trail, so its answer was not given."""

    code = "audit-failed"
    status = 503


class ImportRefused(BmiError):
    """A database of the original BMI cannot be taken over as it is."""

    code = "import-refused"
    status = 422


class DatabaseUnavailable(BmiError):
    """The database does not answer, or is too busy."""

    code = "database-unavailable"
    status = 503
    transient = True
    patience = OUTAGE


class StorageError(BmiError):
    """The storage could not do what was asked."""

    code = "storage-error"


class StorageFull(StorageError):
    """The storage has no room for this."""

    code = "storage-full"
    status = 507


class StorageUnreachable(StorageError):
    """The storage does not answer."""

    code = "storage-unreachable"
    status = 503
    transient = True
    patience = OUTAGE


class ImageInvalid(BmiError):
    """The content offered as an image cannot be used as one."""

    code = "image-invalid"
    status = 422


class ApplianceUnavailable(BmiError):
    """Disks cannot be looked into on this host."""

    code = "appliance-unavailable"
    status = 503


class ApplianceFailed(BmiError):
    """A disk could not be looked into, or not be changed from outside."""

    code = "appliance-failed"


class FetchRefused(BmiError):
    """What a URL leads to may not, or cannot, be fetched."""

    code = "fetch-refused"
    status = 422


class FetchFailed(BmiError):
    """The server that a URL leads to did not give the file."""

    code = "fetch-failed"
    status = 502
    transient = True


class TargetError(BmiError):
    """The iSCSI target could not do what was asked."""

    code = "target-error"
    transient = True


class PortTaken(BmiError):
    """A network address that BMI has to listen on is in use by another program."""

    code = "port-taken"


class SwitchError(BmiError):
    """The switch could not do what was asked."""

    code = "switch-error"
    status = 502
    transient = True


class SwitchUnreachable(SwitchError):
    """The switch, or the service that configures it, does not answer."""

    code = "switch-unreachable"
    status = 503
    patience = OUTAGE


class SwitchRefused(SwitchError):
    """The switch, or what configures it, does not let BMI in, is the wrong one, or refuses what was asked."""

    code = "switch-refused"
    transient = False


class SwitchPortUnknown(SwitchError):
    """The switch has no port of that name."""

    code = "switch-port-unknown"
    status = 400
    transient = False


class VlanInvalid(SwitchError):
    """A port cannot carry these VLANs on any switch."""

    code = "vlan-invalid"
    status = 400
    transient = False


class LegError(BmiError):
    """The gateway's leg on a network could not be made or removed."""

    code = "leg-error"
    transient = True


class AddressTaken(LegError):
    """Another host on the network answers for an address that the gateway is to have."""

    code = "address-taken"


class GatewayUnavailable(BmiError):
    """The gateway that has to do this does not answer, and no other one acts for it."""

    code = "gateway-unavailable"
    status = 503
    transient = True
    patience = OUTAGE


class HelperUnavailable(BmiError):
    """The process that has root's rights does not answer."""

    code = "helper-unavailable"
    status = 503
    transient = True
    patience = OUTAGE


class BootServiceError(BmiError):
    """DHCP, TFTP or the boot scripts of a network could not be served."""

    code = "boot-service-error"
    transient = True


class Miscabled(BmiError):
    """A network card hangs on another switch port than somebody says."""

    code = "miscabled"
    status = 409


class CleaningFailed(BmiError):
    """A node's local disks could not be wiped."""

    code = "cleaning-failed"


class BmcUnreachable(BmiError):
    """The management controller of a node does not answer."""

    code = "bmc-unreachable"
    status = 502
    transient = True


class BmcRefused(BmiError):
    """The management controller of a node refuses what was asked."""

    code = "bmc-refused"
    status = 502


class InventoryUnavailable(BmiError):
    """The site's inventory does not answer, so nobody knows whose a node is."""

    code = "inventory-unavailable"
    status = 503
    transient = True
    patience = OUTAGE


class InventoryRefused(BmiError):
    """The site's inventory does not let BMI see what it needs to."""

    code = "inventory-refused"
    status = 502


class NotLeased(BmiError):
    """The site's inventory has not given the node to the project."""

    code = "not-leased"
    status = 409


class HandNeeded(BmiError):
    """Somebody has to do something to a node by hand, and has not said yet that it is done."""

    code = "hand-needed"
    status = 409
    transient = True
    patience = 4 * 3600.0


class ConsoleUnavailable(BmiError):
    """The management controller of a node gives no console, or not to BMI."""

    code = "console-unavailable"
    status = 409


class ConsoleLost(BmiError):
    """A console that was open has ended."""

    code = "console-lost"
    status = 502
    transient = True


class Cancelled(BmiError):
    """Somebody asked for the operation to be cancelled."""

    code = "cancelled"
    status = 409
