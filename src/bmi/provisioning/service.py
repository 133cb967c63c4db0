"""Use cases of operations: asking for one, cancelling one, asking for one again."""

from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api.operations import OperationState
from bmi.errors import InUse, WrongState
from bmi.events import record
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning.engine import ask_again
from bmi.provisioning.models import Operation


def ask(
    session: Session,
    caller: Caller,
    verb: str,
    subject: str,
    *,
    project: UUID | None,
    request: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
    node: UUID | None = None,
    disk: UUID | None = None,
    image: UUID | None = None,
    network: UUID | None = None,
    second_node: UUID | None = None,
) -> Operation:
    """Write down an operation to be carried out, with its claims.

    Args:
        session: The transaction; the engine is told only after it is committed.
        caller: Who asks.
        verb: What is asked for.
        subject: What it is about, in words.
        project: Whose operation it is.
        request: What the workflow needs to know, as JSON.
        result: What is known of the result from the beginning.
        asked: What is needed to ask for it again, as JSON; kept until it has succeeded.
        node: The node that nobody else may change meanwhile.
        disk: The same for a disk.
        image: The same for an image.
        network: The same for a network.
        second_node: The same for another node.

    Raises:
        InUse: Another operation has claimed one of them.
    """
    row = Operation(
        id=new_id(),
        verb=verb,
        subject=subject,
        project_id=project,
        asked_by=caller.name,
        node_id=node,
        disk_id=disk,
        image_id=image,
        network_id=network,
        second_node_id=second_node,
        request=request or {},
        result=result or {},
        asked=asked or {},
    )
    _refuse_claimed(session, row)
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        raise InUse(
            f"{subject} was claimed by another operation at the same moment", next_step="try again"
        ) from error
    session.refresh(row)
    words = f"{verb} of {subject}, asked for by {caller.name}"
    record(session, "operation.queued", words, node=node, operation=row.id, project=project)
    return row


def cancel(session: Session, operation: Operation) -> None:
    """Ask an operation to stop: to undo what it did, or where it only goes forward, to stay where it is.

    Raises:
        WrongState: It has ended.
    """
    if operation.ended_at is not None:
        raise WrongState(
            f"operation {operation.id} has already {operation.state}", next_step="nothing to cancel"
        )
    operation.state = OperationState.CANCELLING
    record(
        session,
        "operation.cancelling",
        f"{operation.verb} of {operation.subject} is to be cancelled",
        node=operation.node_id,
        operation=operation.id,
        project=operation.project_id,
    )


def retry(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for what an operation did not bring about.

    Raises:
        WrongState: It has not ended, or it succeeded.
        BmiError: What the verb itself refuses, for this caller and as things are now.
    """
    if operation.ended_at is None:
        raise WrongState(
            f"operation {operation.id} is {operation.state}",
            next_step=f"wait for it: bmi op wait {operation.id}",
        )
    if operation.state is OperationState.SUCCEEDED or operation.asked is None:
        raise WrongState(f"operation {operation.id} has {operation.state}", next_step="nothing to try again")
    again = ask_again(session, parts, caller, operation)
    again.retry_of = operation.id
    return again


def _refuse_claimed(session: Session, row: Operation) -> None:
    claims = (
        (Operation.disk_id, row.disk_id),
        (Operation.image_id, row.image_id),
        (Operation.network_id, row.network_id),
    )
    same = [column == id for column, id in claims if id is not None]
    for node in {row.node_id, row.second_node_id} - {None}:
        same += [Operation.node_id == node, Operation.second_node_id == node]
    other = (
        session.scalar(select(Operation).where(Operation.ended_at.is_(None), or_(*same))) if same else None
    )
    if other:
        raise InUse(
            f"{row.subject} is busy: {other.verb} of {other.subject} is {other.state}",
            next_step=f"wait for it (bmi op wait {other.id}) or cancel it (bmi op cancel {other.id})",
        )
