"""`bmi image check` and `bmi image prepare`: what is shown, and the exit status."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.client.fake_service import ID, Answer, Service, operation

Bmi = Callable[..., tuple[int, str, str]]

QUEUED = Answer(operation("queued"), status=202)
FINDING = {"code": "swap", "severity": "warns", "message": "there is swap", "next_step": "take it out"}


def _readiness(*findings: dict[str, Any], changes: list[str] | None = None) -> dict[str, Any]:
    report = {"system": "Debian 12", "findings": list(findings), "cloud_init": True, "first_boot": False}
    return {"image": "debian", "report": report, "changes": changes}


@pytest.mark.parametrize(("severity", "status"), [("blocks", 1), ("warns", 0), ("info", 0)])
def test_check_fails_where_something_blocks(service: Service, bmi: Bmi, severity: str, status: int) -> None:
    service.on("POST", "/images/debian/check", QUEUED)
    service.on("GET", f"/operations/{ID}", Answer(operation("succeeded")))
    service.on("GET", "/images/debian/readiness", Answer(_readiness(FINDING | {"severity": severity})))
    ended, out, err = bmi("image", "check", "debian")
    assert ended == status, err
    assert "Debian 12" in out
    assert "swap" in out
    assert ("bmi image prepare debian" in err) is (status == 1)


def test_the_last_check_is_shown_without_another(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/images/debian/readiness", Answer(_readiness()))
    status, out, err = bmi("image", "check", "debian", "--last", "--json")
    assert status == 0, err
    assert json.loads(out)["report"]["system"] == "Debian 12"


def test_an_image_that_was_never_checked_is_named(service: Service, bmi: Bmi) -> None:
    nothing = {"image": "debian", "report": None, "changes": None}
    service.on("GET", "/images/debian/readiness", Answer(nothing))
    status, _, err = bmi("image", "check", "debian", "--last")
    assert status == 1
    assert "never checked" in err
