"""Takes an operation in over HTTP: writes it down, wakes the workers, and answers 202."""

from collections.abc import Callable

from fastapi import Response
from sqlalchemy.orm import Session

from bmi.api import operations as wire
from bmi.api.common import Problem
from bmi.http import Service
from bmi.provisioning.models import Operation
from bmi.provisioning.workers import OPERATIONS


def accept(service: Service, response: Response, ask: Callable[[Session], Operation]) -> wire.Operation:
    """Write an operation down, wake the workers once it is committed, and return it for the answer.

    Args:
        service: What answers.
        response: Gets the operation's address.
        ask: Writes it down, with everything that it claims.
    """
    with service.parts.db.write() as session:
        operation = ask(session)
        answer = view(operation)
        service.parts.signals.send(session, OPERATIONS, str(operation.id))
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return answer


def view(row: Operation) -> wire.Operation:
    """Return an operation as it goes over the wire."""
    return wire.Operation(
        id=row.id,
        verb=row.verb,
        subject=row.subject,
        state=row.state,
        project=row.project.name if row.project else None,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        steps=[
            wire.Step(
                name=step.name,
                state=step.state,
                started_at=step.started_at,
                ended_at=step.ended_at,
                detail=step.detail,
                progress=step.progress,
            )
            for step in row.steps
        ],
        error=Problem.model_validate(row.error) if row.error else None,
        result=row.result,
        ending=row.ending,
        retry_of=row.retry_of,
    )
