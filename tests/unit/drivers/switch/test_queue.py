"""The queue before a switch: who is served with whom, and what happens to those who wait."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from bmi.drivers import Outcome
from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.queue import Call, Change, Look, Queue
from bmi.errors import SwitchError

LONG = 30.0  # seconds; nothing here takes so long


class Desk:
    """Serves, as slowly as the test likes, and remembers what."""

    def __init__(self) -> None:
        self.served: list[list[Call]] = []
        self.rests = 0
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def serve(self, calls: Sequence[Call]) -> None:
        self.served.append(list(calls))
        self.begun.release()
        assert self.go.acquire(timeout=LONG)
        for call in calls:
            if isinstance(call, Change):
                call.result.set_result(Outcome.DONE)
            else:
                call.result.set_result(())

    def rest(self) -> None:
        self.rests += 1

    def queue(self, *, most: int = 64, idle: float = LONG) -> Queue:
        return Queue(self.serve, self.rest, most=most, idle=idle, name="switch tor1")


def change(port: str) -> Change:
    return Change(port, PortVlans(101))


def waiting(queue: Queue, number: int) -> Callable[[], bool]:
    return lambda: len(queue._waiting) == number


def until(reached: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(3000):
        if reached():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen")


def test_what_waits_is_served_together_and_a_port_once_at_a_time() -> None:
    desk = Desk()
    queue = desk.queue()
    calls: list[Call] = [change("p0"), change("p1"), Look("p1"), change("p2"), change("p1"), Look(None)]
    with ThreadPoolExecutor(len(calls)) as pool:
        waits = [pool.submit(queue.put, calls[0], timeout=LONG)]
        assert desk.begun.acquire(timeout=LONG)
        for number, call in enumerate(calls[1:], 1):
            waits.append(pool.submit(queue.put, call, timeout=LONG))
            until(waiting(queue, number))
        desk.go.release(3)
        for wait in waits:
            wait.result(LONG)
    assert desk.served == [calls[:1], calls[1:4], calls[4:]]
    queue.close()
    assert desk.rests == 1


def test_no_more_changes_are_served_together_than_is_set() -> None:
    desk = Desk()
    queue = desk.queue(most=2)
    calls = [change(f"p{number}") for number in range(6)]
    with ThreadPoolExecutor(len(calls)) as pool:
        waits = [pool.submit(queue.put, call, timeout=LONG) for call in calls]
        desk.go.release(len(calls))
        for wait in waits:
            wait.result(LONG)
    assert all(len(served) <= 2 for served in desk.served)
    assert sorted(call.port or "" for served in desk.served for call in served) == [f"p{n}" for n in range(6)]
    queue.close()


def test_one_who_gives_up_before_his_turn_is_not_served() -> None:
    desk = Desk()
    queue = desk.queue()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(queue.put, change("p0"), timeout=LONG)
        assert desk.begun.acquire(timeout=LONG)
        with pytest.raises(SwitchError, match=r"switch tor1 did not do what was asked of it within 0.05 s"):
            queue.put(change("p1"), timeout=0.05)
        desk.go.release()
        first.result(LONG)
    queue.close()
    assert [call.port for served in desk.served for call in served] == ["p0"]


def test_a_fault_in_serving_leaves_nobody_waiting_and_the_next_is_served() -> None:
    desk = Desk()

    def serve(calls: Sequence[Call]) -> None:
        if calls[0].port == "p0":
            raise ZeroDivisionError
        desk.serve(calls)

    desk.go.release(9)
    queue = Queue(serve, desk.rest, most=9, idle=LONG, name="switch tor1")
    first, second = change("p0"), change("p1")
    queue.put(first, timeout=LONG)
    queue.put(second, timeout=LONG)
    with pytest.raises(ZeroDivisionError):
        first.result.result()
    assert second.result.result() is Outcome.DONE
    queue.close()


def test_a_queue_that_is_idle_rests_and_begins_again() -> None:
    desk = Desk()
    desk.go.release(9)
    queue = desk.queue(idle=0.02)
    for number in range(3):
        queue.put(change("p0"), timeout=LONG)
        until(lambda number=number: desk.rests == number + 1)
    queue.close()
    queue.close()
    assert desk.rests == 3


def test_a_closed_queue_serves_what_waits_and_can_be_used_again() -> None:
    desk = Desk()
    queue = desk.queue()
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(queue.put, change("p0"), timeout=LONG)]
        assert desk.begun.acquire(timeout=LONG)
        waits.append(pool.submit(queue.put, change("p1"), timeout=LONG))
        until(waiting(queue, 1))
        closing = pool.submit(queue.close)
        desk.go.release(2)
        for wait in (*waits, closing):
            wait.result(LONG)
    desk.go.release()
    queue.put(change("p2"), timeout=LONG)
    queue.close()
    assert [call.port for served in desk.served for call in served] == ["p0", "p1", "p2"]
