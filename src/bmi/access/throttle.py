"""How often one may fail to show who one is.

Log-ins are counted in the database, for all processes of the API together: each costs a slow hash anyway. Wrong
tokens are counted in each process: nobody guesses 256 bits, and refusing a flood must not cost a write each.
Both forget an attempt after each pause (the generic cell rate algorithm, ITU-T I.371: one moment for each key).
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from bmi.access.models import Attempts
from bmi.access.secrets import digest
from bmi.db import Db
from bmi.errors import TooManyAttempts
from bmi.settings import Access

_MANY = 10_000  # addresses that a process remembers
_IPV6_SITE = 64  # bits; who has one address of it has all of them


@dataclass(frozen=True)
class Rate:
    """How many attempts may follow each other, and after how long each is forgotten."""

    attempts: int
    pause: float
    """Seconds."""

    def wait(self, ahead: float) -> float:
        """Return the seconds until another attempt is allowed, of one that is so far ahead of its time."""
        return max(0.0, max(ahead, 0.0) + self.pause - self.attempts * self.pause)


def source(address: str) -> str:
    """Return what stands for an address: for IPv6 its network, which one host can have all of."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(int(found) >> (128 - _IPV6_SITE))


def rates(settings: Access, name: str, address: str) -> dict[str, Rate]:
    """Return how often somebody at an address may mistype a user's password.

    From elsewhere the user gets in although one address guesses; how fast all together may guess is bounded too.
    """
    site, all_pause = source(address), settings.pause * settings.attempts / settings.name_attempts
    return {
        f"name {name} from {site}": Rate(settings.attempts, settings.pause),
        f"name {name}": Rate(settings.name_attempts, all_pause),
        f"address {site}": Rate(settings.address_attempts, settings.pause),
    }


def take(db: Db, rates: Mapping[str, Rate]) -> None:
    """Count an attempt before it is made, so that many at once are not more than many in a row.

    Raises:
        TooManyAttempts: There were too many under one of these keys.
    """
    with db.read() as session:  # a flood is refused without a write
        _refuse(db, session, rates)
    with db.write() as session:
        _refuse(db, session, rates)
        clock = db.clock(session)
        session.execute(delete(Attempts).where(Attempts.free_at <= clock))
        known = _known(session, rates)
        for key, rate in rates.items():
            if (row := known.get(digest(key))) is None:
                row = Attempts(key=digest(key), free_at=clock)
                session.add(row)
            row.free_at += timedelta(seconds=rate.pause)


def give_back(session: Session, rates: Mapping[str, Rate]) -> None:
    """Forget an attempt that was a good one."""
    known = _known(session, rates)
    for key, rate in rates.items():
        if row := known.get(digest(key)):
            row.free_at -= timedelta(seconds=rate.pause)


def _refuse(db: Db, session: Session, rates: Mapping[str, Rate]) -> None:
    known, clock = _known(session, rates), db.clock(session)
    waits = [
        rate.wait((row.free_at - clock).total_seconds())
        for key, rate in rates.items()
        if (row := known.get(digest(key)))
    ]
    if wait := max(waits, default=0):
        raise TooManyAttempts("too many attempts to log in", retry_after=wait)


def _known(session: Session, keys: Iterable[str]) -> dict[str, Attempts]:
    query = select(Attempts).where(Attempts.key.in_([digest(key) for key in keys]))
    return {row.key: row for row in session.scalars(query)}


@dataclass
class WrongTokens:
    """Who came with tokens that are none, in this process. Thread-safe, and bounded.

    Good tokens are let through whatever others at the same address do: that may be a proxy, or a whole site.
    """

    rate: Rate
    _free_at: OrderedDict[str, float] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrong(self, address: str, clock: float) -> None:
        """Count a wrong token.

        Raises:
            TooManyAttempts: There were too many from there.
        """
        key = source(address)
        with self._lock:
            free_at = max(self._free_at.pop(key, clock), clock)
            wait = self.rate.wait(free_at - clock)
            self._free_at[key] = free_at if wait else free_at + self.rate.pause
            while len(self._free_at) > _MANY:
                self._free_at.popitem(last=False)
        if wait:
            raise TooManyAttempts("too many wrong tokens from your address", retry_after=wait)
