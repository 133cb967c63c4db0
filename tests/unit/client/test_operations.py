import threading
import time

import pytest

from bmi.api.operations import OperationState
from bmi.client import ApiError, Client, OperationFailed, Unreachable, WaitTimedOut, history
from bmi.client import operations as module
from tests.unit.client.fake_service import (
    BROKEN,
    ID,
    WHEN,
    Answer,
    Asked,
    Service,
    event,
    in_turn,
    operation,
    page,
    problem,
    step,
)

PATH = f"/operations/{ID}"
RUNNING = operation("running", step("disk", "running"))
LATER = operation("running", step("disk"), step("boot", "running"))
ENDED = operation("succeeded", step("disk"), step("boot"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_TURN", 0.05)


def states(service: Service) -> list[tuple[str, int]]:
    with Client(service.url, "sesame") as bmi:
        return [(one.state, len(one.steps)) for one in bmi.operations.follow(ID)]


def test_follow_yields_each_change_of_the_stream_once(service: Service) -> None:
    service.on("GET", PATH, Answer(RUNNING))
    chunks = (b": keep-alive\n\n", event(RUNNING), event(LATER), b"event: other\ndata: {}\n\n", event(ENDED))
    service.on("GET", f"{PATH}/events", Answer(stream=chunks))
    assert states(service) == [("running", 1), ("running", 2), ("succeeded", 2)]
    assert len(service.asked) == 2


def test_follow_understands_events_in_small_pieces(service: Service) -> None:
    service.on("GET", PATH, Answer(RUNNING))
    text = event(LATER) + event(ENDED)
    pieces = tuple(text[at : at + 7] for at in range(0, len(text), 7))
    service.on("GET", f"{PATH}/events", Answer(stream=pieces))
    assert states(service) == [("running", 1), ("running", 2), ("succeeded", 2)]


def test_follow_of_an_ended_operation_needs_no_stream(service: Service) -> None:
    service.on("GET", PATH, Answer(ENDED))
    assert states(service) == [("succeeded", 2)]
    assert len(service.asked) == 1


def test_follow_goes_on_with_another_stream_when_one_breaks(service: Service) -> None:
    service.on("GET", PATH, in_turn(Answer(RUNNING), Answer(LATER)))
    service.on(
        "GET",
        f"{PATH}/events",
        in_turn(Answer(stream=(event(RUNNING), BROKEN)), Answer(stream=(event(LATER), event(ENDED)))),
    )
    assert states(service) == [("running", 1), ("running", 2), ("succeeded", 2)]
    assert len(service.requests("GET", f"{PATH}/events")) == 2


def test_follow_goes_on_when_a_stream_ends_too_early(service: Service) -> None:
    service.on("GET", PATH, in_turn(Answer(RUNNING), Answer(ENDED)))
    service.on("GET", f"{PATH}/events", Answer(stream=(event(LATER),)))
    assert states(service) == [("running", 1), ("running", 2), ("succeeded", 2)]


@pytest.mark.parametrize(
    "stream",
    [
        problem(404, "not-found", "no such route"),
        Answer(raw=b"<html>", type="text/html"),
        Answer(stream=(b"event: operation\ndata: {not json\n\n",)),
        Answer(stream=()),
    ],
)
def test_follow_does_without_streams_where_there_are_none(service: Service, stream: Answer) -> None:
    polls = [Answer(RUNNING)] * 6 + [Answer(LATER)] * 3
    service.on("GET", PATH, in_turn(*polls, Answer(ENDED)))
    service.on("GET", f"{PATH}/events", stream)
    assert states(service) == [("running", 1), ("running", 2), ("succeeded", 2)]
    assert len(service.requests("GET", f"{PATH}/events")) == 3
    assert service.requests("GET", PATH)[-1].query == {"wait": "0.05"}


def test_follow_lives_through_a_restart_of_the_service(service: Service) -> None:
    def gone(asked: Asked) -> Answer:
        raise ConnectionResetError

    answers = [lambda _: Answer(RUNNING), gone, lambda _: problem(503, "unavailable", "starting"), gone]
    service.on("GET", PATH, lambda asked: answers.pop(0)(asked) if answers else Answer(ENDED))
    service.on("GET", f"{PATH}/events", gone)
    assert states(service) == [("running", 1), ("succeeded", 2)]


def test_follow_gives_up_when_the_service_stays_away(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)

    def gone(asked: Asked) -> Answer:
        raise ConnectionResetError

    answers = [lambda _: Answer(RUNNING)]
    service.on("GET", PATH, lambda asked: answers.pop(0)(asked) if answers else gone(asked))
    service.on("GET", f"{PATH}/events", gone)
    with pytest.raises(Unreachable):
        states(service)


def test_follow_of_an_unknown_operation_says_so_at_once(service: Service) -> None:
    service.on("GET", PATH, problem(404, "not-found", f"there is no operation {ID}"))
    with pytest.raises(ApiError, match="there is no operation"):
        states(service)
    assert len(service.asked) == 1


def test_follow_ends_when_the_token_is_revoked_meanwhile(service: Service) -> None:
    service.on(
        "GET", PATH, in_turn(Answer(RUNNING), problem(401, "not-authenticated", "the token is unknown"))
    )
    service.on("GET", f"{PATH}/events", Answer(stream=(event(LATER), BROKEN)))
    with pytest.raises(ApiError, match="the token is unknown"):
        states(service)


def test_history_is_followed_until_the_operation_has_ended_and_nothing_of_it_is_lost(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_LOOK", 0.01)
    events = [{"id": ID[:-1] + str(n), "at": WHEN, "kind": "step", "message": f"event {n}"} for n in range(3)]
    service.on("GET", PATH, in_turn(Answer(RUNNING), Answer(ENDED)))
    # The last one is written between the look at the history and the operation's end.
    service.on("GET", f"{PATH}/history", in_turn(page(*events[:2]), page(*events)))
    with Client(service.url, "sesame") as bmi:
        assert [event.message for event in bmi.operations.follow_events(ID)] == [
            "event 0",
            "event 1",
            "event 2",
        ]
        assert len(list(bmi.operations.events(ID))) == 3


def test_wait_polls_long_until_success(service: Service) -> None:
    service.on("GET", PATH, in_turn(Answer(RUNNING), Answer(LATER), Answer(ENDED)))
    with Client(service.url, "sesame") as bmi:
        assert bmi.operations.wait(ID).state is OperationState.SUCCEEDED
    assert [one.query for one in service.asked] == [{}, {"wait": "25"}, {"wait": "25"}]


def test_wait_raises_with_step_cause_and_next_step(service: Service) -> None:
    error = problem(502, "switch-error", "port 7 of tor1 does not come up", "check the cable").json
    failed = operation("failed", step("disk", "undone"), step("network", "failed"), error=error)
    service.on("GET", PATH, Answer(failed))
    with Client(service.url, "sesame") as bmi, pytest.raises(OperationFailed) as caught:
        bmi.operations.wait(ID)
    assert str(caught.value) == (
        "provision of node n1 failed at step network: port 7 of tor1 does not come up; check the cable"
    )
    assert caught.value.operation.state is OperationState.FAILED


def test_wait_tells_a_cancelled_operation_from_a_failed_one(service: Service) -> None:
    service.on("GET", PATH, Answer(operation("cancelled", step("disk", "undone"))))
    with Client(service.url, "sesame") as bmi, pytest.raises(OperationFailed, match="n1 was cancelled;"):
        bmi.operations.wait(ID)


def test_wait_keeps_its_deadline(service: Service) -> None:
    released = threading.Event()

    def linger(asked: Asked) -> Answer:
        released.wait(float(asked.query.get("wait", 0)))
        return Answer(RUNNING)

    service.on("GET", PATH, linger)
    begun = time.monotonic()
    with Client(service.url, "sesame") as bmi, pytest.raises(WaitTimedOut, match=r"after 0\.3 s, it goes on"):
        bmi.operations.wait(ID, timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < 2


def test_wait_does_not_race_where_requests_may_not_wait(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.1)
    service.on("GET", PATH, Answer(RUNNING))
    with Client(service.url, "sesame") as bmi, pytest.raises(WaitTimedOut):
        bmi.operations.wait(ID, timeout=0.5)
    assert len(service.asked) <= 8


def test_cancel_and_list_ask_for_what_was_meant(service: Service) -> None:
    service.on("POST", f"{PATH}/cancel", Answer(operation("cancelling"), status=202))
    service.on("GET", "/operations", Answer({"items": [RUNNING], "next": None}))
    with Client(service.url, "sesame") as bmi:
        assert bmi.operations.cancel(ID).state is OperationState.CANCELLING
        assert len(list(bmi.operations.list(state=OperationState.RUNNING, node="n1"))) == 1
    assert service.asked[1].query == {"state": "running", "node": "n1", "limit": "100"}
