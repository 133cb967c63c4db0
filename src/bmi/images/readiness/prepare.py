"""Makes an image boot over iSCSI without a person editing it, and says what was changed."""

from dataclasses import dataclass

from pydantic import ValidationError

from bmi.api.readiness import Report
from bmi.drivers.storage import Backing
from bmi.errors import ApplianceFailed
from bmi.images.appliance.session import Appliance, Tell, temporary_folder
from bmi.images.readiness.check import judge
from bmi.images.readiness.facts import DiskReport
from bmi.images.readiness.packages import fetch
from bmi.images.readiness.plan import missing_packages, plan

_LOOKED = 0.3  # fraction of the time that has gone when it is known what to do


@dataclass(frozen=True)
class Prepared:
    """What became of an image."""

    changes: list[str]
    """What was changed, in words; empty where it was ready."""
    report: Report
    """What a check says of it now."""


def prepare(appliance: Appliance, backing: Backing, tell: Tell) -> Prepared:
    """Make a disk ready for network boot; one that is ready stays as it is.

    It may be interrupted and called again.

    Args:
        appliance: What looks, and changes.
        backing: The disk, which nobody else uses.
        tell: Told how far it is.

    Raises:
        ApplianceUnavailable: Disks cannot be changed here.
        ApplianceFailed: This one cannot be.
        ImageInvalid: It is no system that this can be done to, or one of its own programs failed.
        CommandFailed: A package that it needs cannot be had.
        CommandTimedOut: It took too long.
    """
    answer = appliance.ask(
        backing, "look", {"packages": True}, tell=lambda doing, part: tell(doing, part * _LOOKED)
    )
    seen = _seen(answer)
    before = judge(seen)
    actions = plan(seen, before)
    with temporary_folder() as folder:
        files = folder / "packages"
        files.mkdir(mode=0o755)
        if (
            seen.system is not None
            and seen.system.family == "debian"
            and (missing := missing_packages(seen.system))
        ):
            tell(f"fetching {' '.join(missing)}", _LOOKED)
            installed = [(str(a), str(b), str(c)) for a, b, c in answer.get("packages", ())]
            fetch(missing, installed, release=seen.system.release("VERSION_CODENAME"), folder=files)
        answer = appliance.ask(
            backing,
            "prepare",
            {"actions": [action.told() for action in actions]},
            tell=lambda doing, part: tell(doing, _LOOKED + part * (1 - _LOOKED)),
            writable=True,
            files=files,
        )
    return Prepared(list(map(str, answer["changes"])), judge(_seen(answer["seen"])))


def _seen(answer: object) -> DiskReport:
    try:
        return DiskReport.model_validate(answer)
    except ValidationError as error:
        raise ApplianceFailed(
            "the appliance saw something in the disk that cannot be",
            next_step="the image is broken, or made to do harm: do not use it",
        ) from error
