"""How many lines a flood leaves in the trail, and who is left out with whom."""

from collections import Counter

import pytest

from bmi.audit import limit
from bmi.audit.limit import Limit, Verdict


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limit, "time", made)
    return made


def taken(bound: Limit, who: str, times: int, *, known: bool) -> list[tuple[Verdict, int]]:
    found = Counter(bound.take(who, known=known)[0] for _ in range(times))
    return sorted(found.items(), key=lambda pair: pair[0].value)


def test_one_who_floods_has_his_share_and_one_line_more(clock: Clock) -> None:
    bound = Limit()
    assert taken(bound, "address 192.0.2.1", 500, known=False) == [
        (Verdict.WRITE, 60),
        (Verdict.LAST, 1),
        (Verdict.LEAVE_OUT, 439),
    ]
    assert taken(bound, "address 192.0.2.2", 10, known=False) == [(Verdict.WRITE, 10)]
    assert taken(bound, "caller a", 60, known=True) == [(Verdict.WRITE, 60)]


def test_addresses_without_end_share_one_bound_and_cost_no_memory(clock: Clock) -> None:
    bound = Limit()
    verdicts = [bound.take(f"address 2001:db8::{number:x}", known=False) for number in range(10_000)]
    assert [verdict for verdict, _ in verdicts[:300]] == [Verdict.WRITE] * 300
    assert verdicts[300] == (Verdict.LAST, "unknown callers")
    assert {verdict for verdict, _ in verdicts[301:]} == {Verdict.LEAVE_OUT}
    assert len(bound._asked) < 310
    assert bound.take("caller a", known=True) == (Verdict.WRITE, "caller a")


def test_a_minute_later_all_begin_anew_and_the_log_says_how_many_were_left_out(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    bound = Limit()
    taken(bound, "caller a", 100, known=True)
    clock.now += 59
    assert bound.take("caller a", known=True)[0] is Verdict.LEAVE_OUT
    clock.now += 2
    assert bound.take("caller a", known=True)[0] is Verdict.WRITE
    assert "caller a: 41 lines were left out of the audit trail" in caplog.text
