"""What every life of a service would work out again: its routes, and the SQL of its statements.

Both take longer than an operation. So the process that lives are forked from works them out once, without a thread
that stays; elsewhere nothing is kept.
"""

from pathlib import Path
from threading import Event
from typing import Any, ClassVar
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import URL, Engine

from bmi import connect
from bmi.provisioning import engine

_open_engine = connect.open_engine


class _Kept:
    app: ClassVar[FastAPI | None] = None
    engine: ClassVar[Engine | None] = None


def app(new: FastAPI) -> FastAPI:
    """Return the application whose routes are worked out, with the life and the state of a new one."""
    if _Kept.app is None:
        return new
    _Kept.app.state = new.state
    _Kept.app.router.lifespan_context = new.router.lifespan_context
    return _Kept.app


def open_engine(url: URL) -> Engine:
    """Open a database, with the statements that are worked out."""
    made = _open_engine(url)
    if _Kept.engine is not None and url.drivername == "sqlite":
        made.dialect = _Kept.engine.dialect
        made._compiled_cache = _Kept.engine._compiled_cache
    return made


def warm_up(folder: Path) -> None:
    """Let a service do once what lives do, in this thread."""
    from tests.faults.house import IMAGE, NETWORK, NODES, PROJECT, House
    from tests.faults.reality import broken_promises, differences

    house = House(folder)
    _Kept.app, _Kept.engine = house.api.app, house.parts.db.engine  # type: ignore[assignment]
    current = engine._Current
    current.parts, current.worker, current.ending = house.parts, "warm", Event()
    current.active, current.dropped = set(), set()

    def carry_out(method: str, path: str, body: dict[str, Any]) -> None:
        id: UUID = house.ask(method, path, body)
        engine._carry_out(engine.Journal(house.parts.db, id))
        house.get(f"/operations/{id}")

    run_step = engine.DBOS.run_step
    engine.DBOS.run_step = staticmethod(lambda options, do: do())
    house.api.post("/v1/projects", json={"name": PROJECT})
    carry_out("POST", "/networks", {"name": NETWORK, "project": PROJECT})
    house.image(IMAGE)
    house.node(NODES[0], 1)
    boot = {"image": IMAGE, "network": NETWORK, "project": PROJECT, "until": "power"}
    carry_out("POST", f"/nodes/{NODES[0]}/provision", boot)
    house.converge()
    assert not [*differences(house.parts), *broken_promises(house.parts)]
    carry_out("POST", f"/nodes/{NODES[0]}/deprovision", {})
    engine.DBOS.run_step = run_step
    house.api.close()
    house.parts.close()
    house.close()
