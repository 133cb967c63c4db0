from pathlib import Path

from bmi.api.doctor import Severity
from bmi.doctor.codes import TABLE, Code, finding, otherwise, page

DOCUMENT = Path(__file__).parents[3] / "docs" / "doctor.md"


def test_every_code_is_described_and_the_document_is_current() -> None:
    assert list(TABLE) == list(Code)
    assert DOCUMENT.read_text() == page()


def test_a_finding_says_what_to_do_before_and_after_repair() -> None:
    found = finding(Code.EXPORT_MISSING, "export x", "is not there")
    assert (found.repairable, found.severity) == (True, Severity.ERROR)
    assert found.next_step == "mend it: bmi doctor --repair"
    assert otherwise(found).next_step == TABLE[Code.EXPORT_MISSING].otherwise
    other = finding(Code.BMC_REFUSED, "node n1", "no", next_step="correct its password")
    assert (other.repairable, otherwise(other).next_step) == (False, "correct its password")


def test_volumes_of_nobody_are_not_mended_by_repair_alone() -> None:
    found = finding(Code.VOLUME_ORPHAN, "disk-x", "nobody's")
    assert not found.repairable
    assert "--remove-orphans" in found.next_step
