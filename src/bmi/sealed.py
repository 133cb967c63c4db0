"""Where sealed secrets stand in the database, and sealing them anew with another key."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from bmi.boot.models import Boot
from bmi.db import Db, Table
from bmi.errors import InUse, SettingsInvalid
from bmi.nodes.models import Node
from bmi.provisioning.models import Operation
from bmi.vault import Vault, key_name, only_first, write_keys

BATCH = 200  # rows in one transaction: services that write wait no longer than for those

# A sealed secret stands in a column, or under a name in a column of JSON.
PLACES: tuple[tuple[type[Table], InstrumentedAttribute[Any], str | None], ...] = (
    (Node, Node.bmc_password, None),
    (Boot, Boot.chap_secret, None),
    (Operation, Operation.request, "url"),
    (Operation, Operation.asked, "url"),
)


@dataclass
class Found:
    """Which key the secrets of an installation are sealed with."""

    keys: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many, by place and by the key's name."""
    lost: list[str] = field(default_factory=list)
    """Secrets that no key of the file opens, in words."""

    def under(self, key: str) -> int:
        """Say how many are sealed with a key."""
        return sum(count for (_, name), count in self.keys.items() if name == key)


def check(db: Db, vault: Vault) -> Found:
    """Say which key each secret is sealed with."""
    found = Found()
    _in_batches(lambda rows: _look(vault, rows, found), db.read)
    return found


def rotate(db: Db, vault: Vault) -> tuple[int, list[str]]:
    """Seal everything with the first key of the file that is sealed with another one.

    Whatever ends it, each secret is sealed with one key or the other; it goes on when it is asked for again.

    Returns:
        How many were sealed anew, and those that no key opens, in words.
    """
    lost: list[str] = []
    return _in_batches(lambda rows: _seal(vault, rows, lost), db.write), lost


def drop_keys(db: Db, vault: Vault) -> int:
    """Take the keys out of the file that nothing is sealed with any more, and say how many there were.

    To be called within `bmi.vault.changing`: a key that begins to seal meanwhile would be lost.

    Raises:
        InUse: Something is.
    """
    with db.write() as session:  # nobody seals and stores meanwhile
        keys, found = vault.keys(), Found()
        _in_batches(lambda rows: _look(vault, rows, found), lambda: nullcontext(session))
        if vault.keys() != keys:
            raise InUse(f"{vault.key_file} was replaced meanwhile", next_step="bmi secrets check, then again")
        old = sum(found.under(key_name(key)) for key in keys.sealing[1:])
        if old or found.lost:
            raise InUse(
                f"{old} secrets are still sealed with an old key, {len(found.lost)} with none of these",
                next_step="bmi secrets rotate, then bmi secrets check",
            )
        write_keys(vault.key_file, only_first(keys))
        return len(keys.sealing) - 1


_Place = tuple[type[Table], InstrumentedAttribute[Any], str | None]
_Rows = list[tuple[_Place, Table]]


def _in_batches(work: Callable[[_Rows], int], begin: Callable[[], AbstractContextManager[Session]]) -> int:
    """Do something to all rows with secrets, some in each transaction, and return the sum of what it returns."""
    done = 0
    for place in PLACES:
        after: UUID | None = None
        while True:
            with begin() as session:
                rows = _rows(session, place, after)
                done += work([(place, row) for row in rows])
            if len(rows) < BATCH:
                break
            after = rows[-1].id
    return done


def _rows(session: Session, place: _Place, after: UUID | None) -> list[Table]:
    table, column, _ = place
    query = select(table).where(column.is_not(None)).order_by(table.id).limit(BATCH)
    return list(session.scalars(query if after is None else query.where(table.id > after)).unique())


def _look(vault: Vault, rows: _Rows, found: Found) -> int:
    for place, row in rows:
        if (sealed := _sealed(place, row)) is None:
            continue
        try:
            found.keys[_name(place), key_name(vault.sealed_with(sealed))] += 1
        except SettingsInvalid:
            found.lost.append(f"{_name(place)} of {row.id}")
    return len(rows)


def _seal(vault: Vault, rows: _Rows, lost: list[str]) -> int:
    changed = 0
    for place, row in rows:
        if (sealed := _sealed(place, row)) is None:
            continue
        try:
            if vault.sealed_with(sealed) == vault.keys().sealing[0]:
                continue
            anew = vault.seal(vault.open(sealed))
        except SettingsInvalid:
            lost.append(f"{_name(place)} of {row.id}")
            continue
        _, column, inside = place
        value = anew if inside is None else {**getattr(row, column.key), inside: anew}
        setattr(row, column.key, value)
        changed += 1
    return changed


def _sealed(place: _Place, row: Table) -> str | None:
    _, column, inside = place
    value = getattr(row, column.key)
    found = value if inside is None else (value or {}).get(inside)
    return found if isinstance(found, str) else None


def _name(place: _Place) -> str:
    table, column, inside = place
    return f"{table.__tablename__}.{column.key}" + (f".{inside}" if inside else "")
