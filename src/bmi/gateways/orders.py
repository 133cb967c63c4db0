"""What gateways are asked to do to their daemons, by workers and by the API, and how they do it.

A step that touches a gateway's daemons writes what should be, as always, and then asks the gateway to make it so.
In the process that acts for the gateway this is a call; elsewhere it is an order in the database, which whoever
acts for the gateway carries out and answers. A gateway that dies leaves its orders to the one that acts for it.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select

from bmi.api.common import Problem
from bmi.errors import GatewayUnavailable
from bmi.gateways import service
from bmi.gateways.models import Gateway, Order
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.problems import error_of, problem
from bmi.signals import LOST

log = logging.getLogger(__name__)

Verb = Callable[[Parts, UUID], dict[str, Any]]
"""Makes one thing of a gateway equal to the database, and answers in JSON. Idempotent."""

VERBS: dict[str, Verb] = {}

DEADLINE = 60.0  # seconds until an answer; a gateway that takes a dead one's place needs about 25

ORDERS, ANSWERS = "bmi_orders", "bmi_answers"
"""Channels of signals."""

_THREADS = 16
_FORGOTTEN = timedelta(hours=1)  # after which an order whose asker has died is removed


def verb(name: str) -> Callable[[Verb], Verb]:
    """Register a function as a verb that gateways understand."""

    def register(function: Verb) -> Verb:
        VERBS[name] = function
        return function

    return register


def at_gateway(parts: Parts, gateway: UUID, name: str, subject: UUID) -> dict[str, Any]:
    """Let a gateway do something, and return its answer.

    Args:
        parts: The parts of this process.
        gateway: The gateway; whoever acts for it does it.
        name: The verb.
        subject: What it is about.

    Raises:
        GatewayUnavailable: Nobody answered in time.
        BmiError: It failed there, for the reason that the error says.
    """
    if _acts_for(parts, gateway):
        return VERBS[name](parts, subject)
    order = new_id()
    with parts.signals.expected(ANSWERS, str(order)) as answered:
        with parts.db.write() as session:
            session.add(Order(id=order, gateway_id=gateway, verb=name, subject=subject))
            session.flush()
            parts.signals.send(session, ORDERS, str(order))
        row = _answered(parts, order, answered)
    with parts.db.write() as session:
        session.execute(delete(Order).where(Order.id == order))
        host = session.get_one(Gateway, gateway).name
    if row.ended_at is None:
        raise GatewayUnavailable(
            f"gateway {host} did not answer within {DEADLINE:g} s, and no other one took its place",
            next_step=f"start its service again on {host}: bmi gateway",
        )
    if row.error is not None:
        raise error_of(Problem.model_validate(row.error))
    return row.answer or {}


def _acts_for(parts: Parts, gateway: UUID) -> bool:
    if parts.here is None:
        return False
    with parts.db.read() as session:
        return gateway in service.acting(session, parts.here)


def _answered(parts: Parts, id: UUID, answered: threading.Event) -> Order:
    """Wait until an order has ended, or its time is over, and return it as it is then."""
    end = time.monotonic() + DEADLINE
    while True:
        answered.wait(min(LOST, max(0.0, end - time.monotonic())))
        with parts.db.read() as session:
            row = session.get_one(Order, id)
        if row.ended_at is not None or time.monotonic() >= end:
            return row


class OrderTaker:
    """Carries out the orders of the gateways for which this one acts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._look = threading.Event()
        self._guard = threading.Lock()
        self._running: set[UUID] = set()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="order")
        self._thread = threading.Thread(target=self._repeat, name="orders", daemon=True)
        parts.signals.on(ORDERS, lambda order: self._look.set())

    def start(self) -> None:
        """Begin to carry out orders."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what runs is finished, what was not begun waits for the next process."""
        self._stop.set()
        self._look.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _repeat(self) -> None:
        while not self._stop.is_set():
            self._look.wait(LOST)
            self._look.clear()
            try:
                self._take()
            except Exception as error:
                log.warning("orders cannot be read: %s", error)

    def _take(self) -> None:
        with self._parts.db.read() as session:
            acting = service.acting(session, self._parts.gateway)
            found = session.scalars(
                select(Order).where(Order.ended_at.is_(None), Order.gateway_id.in_(acting)).order_by(Order.id)
            ).all()
        with self._guard:
            new = [order for order in found if order.id not in self._running]
            self._running |= {order.id for order in new}
        for order in new:
            self._pool.submit(self._carry_out, order)

    def _carry_out(self, order: Order) -> None:
        try:
            answer, error = self._tried(order)
            with self._parts.db.write() as session:
                row = session.get(Order, order.id)
                if row is not None:
                    row.answer, row.error, row.ended_at = answer, error, self._parts.db.clock(session)
                    self._parts.signals.send(session, ANSWERS, str(order.id))
        except Exception:
            log.exception("order %s (%s) could not be answered", order.id, order.verb)
        finally:
            with self._guard:
                self._running.discard(order.id)

    def _tried(self, order: Order) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        try:
            return VERBS[order.verb](self._parts, order.subject), None
        except Exception as error:
            found = problem(error)
            if found.code == "internal":
                log.exception("order %s: %s of %s", order.id, order.verb, order.subject)
            return None, found.model_dump()


def sweep(parts: Parts) -> None:
    """Remove orders whose askers died before they read the answer."""
    with parts.db.write() as session:
        session.execute(delete(Order).where(Order.created_at < parts.db.clock(session) - _FORGOTTEN))
