"""Open vSwitch's database: reading it, changing it, and knowing that the switch has followed (RFC 7047).

ovsdb-server keeps the configuration, ovs-vswitchd follows it. `next_cfg` counts the changes asked for,
`cur_cfg` those that ovs-vswitchd has carried out (ovs-vswitchd.conf.db(5)).

The connection, its thread and the replica of the tables are ovsdbapp's. The transactions are not: ovsdbapp's
own report success when ovs-vswitchd is dead, do not ask it at all when they change nothing, and may come into
force long after their caller has given up.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from ovs.db.idl import SchemaHelper, Transaction
from ovs.poller import Poller
from ovsdbapp.backend.ovs_idl.connection import Connection, OvsdbIdl
from ovsdbapp.backend.ovs_idl.idlutils import ExceptionResult
from ovsdbapp.exceptions import TimeoutException

from bmi.errors import BmiError

T = TypeVar("T")
R = TypeVar("R")

Edit = Callable[[Any, Any], T]
"""Changes rows: takes the transaction (`ovs.db.idl.Transaction`) and the tables, by name. It is called again
if somebody else was faster."""

Look = Callable[[Any], T]
"""Reads rows: takes the tables, by name."""

_RECONNECT = (100, 500)  # milliseconds between two attempts to connect, at first and later
_GRACE = 1.0  # seconds that the connection's thread gets beyond a deadline that it keeps itself
_STOP_DEADLINE = 5.0  # seconds until the connection's thread must have ended

_ASK: dict[str, object] = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"]}
"""Makes a transaction go to the server although it changes nothing."""


def _optional(key: dict[str, Any]) -> dict[str, Any]:
    return {"type": {"key": key, "min": 0, "max": 1}}


def _set(key: dict[str, Any]) -> dict[str, Any]:
    return {"type": {"key": key, "min": 0, "max": "unlimited"}}


def _rows(table: str) -> dict[str, Any]:
    return {"type": "uuid", "refTable": table}


_VLAN = {"type": "integer", "minInteger": 0, "maxInteger": 4095}
_SCHEMA: dict[str, Any] = {
    "name": "Open_vSwitch",
    "version": "8.0.0",  # the one whose Port has `protected`: Open vSwitch 2.12
    "tables": {
        "Open_vSwitch": {
            "isRoot": True,
            "maxRows": 1,
            "columns": {
                "next_cfg": {"type": "integer"},
                "cur_cfg": {"type": "integer"},
            },
        },
        "Bridge": {
            "columns": {
                "name": {"type": "string", "mutable": False},
                "ports": _set(_rows("Port")),
                "datapath_type": {"type": "string"},
            },
        },
        "Port": {
            "columns": {
                "name": {"type": "string", "mutable": False},
                "interfaces": {"type": {"key": _rows("Interface"), "min": 1, "max": "unlimited"}},
                "vlan_mode": _optional({"type": "string"}),
                "tag": _optional(_VLAN),
                "trunks": {"type": {"key": _VLAN, "min": 0, "max": 4096}},
                "protected": {"type": "boolean"},
                "external_ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
            },
        },
        "Interface": {
            "columns": {
                "name": {"type": "string", "mutable": False},
                "link_state": _optional({"type": "string"}),
                "ofport": _optional({"type": "integer"}),
                "ofport_request": _optional({"type": "integer"}),
                "error": _optional({"type": "string"}),
            },
        },
    },
}
"""The part of the schema that BMI needs. Counters, which change every few seconds, are no part of it."""


class Database:
    """A connection to ovsdb-server, made when it is needed and made again when it breaks. Thread-safe."""

    def __init__(self, remote: str, *, timeout: float, failure: type[BmiError]) -> None:
        """Say where the database is.

        Args:
            remote: `unix:/path` or `tcp:address:port`.
            timeout: Seconds until a call fails that gets no answer.
            failure: Class of the errors to raise.
        """
        self.remote = remote
        self.timeout = timeout
        self.failure = failure
        self._turn = threading.Lock()
        self._connection: Any = None

    def read(self, look: Look[T]) -> T:
        """Read what the switch does at this moment: the server is asked, and ovs-vswitchd has followed it.

        Raises:
            BmiError: Of the class given; nobody answers, or ovs-vswitchd does not follow.
        """
        return self._do(_Read(self, look))

    def change(self, edit: Edit[T]) -> T:
        """Change rows in one transaction, and return what `edit` did once ovs-vswitchd has carried it out.

        Raises:
            BmiError: Of the class given; nobody answers, the server refuses, or ovs-vswitchd does not follow.
                The change may come into force later then.
        """
        return self._do(_Change(self, edit))

    def close(self) -> None:
        """Let go of the connection, once calls under way are done; the next call makes another one."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if connection.thread is None:  # it never got through
                connection.idl.close()
            elif not connection.stop(_STOP_DEADLINE):
                raise self.failure(
                    f"the connection to {self.remote} does not end", next_step="restart BMI, and report this"
                )

    def _do(self, work: "_Work[T]") -> T:
        # One at a time is what the connection's thread does anyway; here each has the same time to wait.
        if not self._turn.acquire(timeout=self.timeout):
            raise self.silent("was busy with other calls, and did not get to this one")
        try:
            connection = self._connected()
            work.begin(connection.idl)
            connection.queue_txn(work)
            result = work.results.get(timeout=self.timeout + _GRACE)
        except (TimeoutException, queue.Empty) as error:
            raise self.silent("did not answer") from error
        finally:
            self._turn.release()
        if isinstance(result, ExceptionResult):
            raise result.ex
        found: T = result
        return found

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = Connection(_Replica(self.remote), self.timeout)
        self._connection.start()
        return self._connection

    def silent(self, what: str) -> BmiError:
        """Return the error that tells of a server which does not answer."""
        return self.failure(
            f"ovsdb-server at {self.remote} {what} within {self.timeout:g} s",
            next_step="check that ovsdb-server runs and that the option database names its socket",
        )


class _Replica(OvsdbIdl):  # type: ignore[misc] # ovsdbapp has no types
    """Our copy of the tables, kept up to date by the server."""

    def __init__(self, remote: str) -> None:
        helper = SchemaHelper(None, _SCHEMA)
        helper.register_all()
        super().__init__(remote, helper)
        # By default it lets up to eight seconds pass before it looks for a server that is back.
        self._session.reconnect.set_backoff(*_RECONNECT)


class _Work(Generic[T]):
    """What the connection's thread does for one call. ovsdbapp fixes the names of the public members."""

    commands: ClassVar[tuple[()]] = ()

    def __init__(self, database: Database) -> None:
        self.results: queue.Queue[Any] = queue.Queue(1)
        self._database = database
        self._replica: Any = None
        self._deadline = 0.0

    def begin(self, replica: Any) -> None:
        """Let its time run."""
        self._replica = replica
        self._deadline = time.monotonic() + self._database.timeout

    def do_commit(self) -> T:
        """Do it, and return the caller's answer."""
        # An update that the server sent before its answer is in the replica when the answer is.
        self._transact(lambda transaction, tables: None, count=False)
        return self._work()

    def _work(self) -> T:
        raise NotImplementedError

    def _transact(self, edit: Edit[R], *, count: bool) -> R:
        """Commit a transaction, again and again while somebody else is faster.

        Args:
            edit: What to do in it.
            count: Count it as a change that ovs-vswitchd must follow.
        """
        while True:
            seen = self._replica.change_seqno
            transaction = Transaction(self._replica)
            try:
                result = edit(transaction, self._replica.tables)
                if count:
                    self._root().increment("next_cfg")
            except BaseException:
                transaction.abort()
                raise
            transaction.add_op(_ASK)
            while (status := transaction.commit()) == Transaction.INCOMPLETE:
                self._wait("did not answer")
            if status == Transaction.SUCCESS:
                if count:
                    self._until_followed(transaction.get_increment_new_value())
                return result
            if status != Transaction.TRY_AGAIN:
                raise self._database.failure(
                    f"ovsdb-server at {self._database.remote} refuses the change: {transaction.get_error()}",
                    next_step="look at the bridge with ovs-vsctl show",
                )
            while self._replica.change_seqno == seen:
                self._wait("could not be reached")

    def _until_followed(self, wanted: int) -> None:
        while self._root().cur_cfg < wanted:
            if time.monotonic() >= self._deadline:
                raise self._database.failure(
                    f"ovs-vswitchd at {self._database.remote} did not carry out the configuration within "
                    f"{self._database.timeout:g} s",
                    next_step="check that ovs-vswitchd runs, and restart it; it then does what is configured",
                )
            self._pump()

    def _wait(self, what: str) -> None:
        if time.monotonic() >= self._deadline:
            raise self._database.silent(what)
        self._pump()

    def _pump(self) -> None:
        """Sleep until the server sends something, at the most until the deadline, and take it in."""
        poller = Poller()
        self._replica.wait(poller)
        poller.timer_wait(max(1, round(1000 * (self._deadline - time.monotonic()))))
        poller.block()
        self._replica.run()

    def _root(self) -> Any:
        for row in self._replica.tables["Open_vSwitch"].rows.values():
            return row
        raise self._database.failure(
            f"the database at {self._database.remote} is empty", next_step="run ovs-vsctl init"
        )


class _Read(_Work[T]):
    def __init__(self, database: Database, look: Look[T]) -> None:
        super().__init__(database)
        self._look = look

    def _work(self) -> T:
        self._until_followed(self._root().next_cfg)
        return self._look(self._replica.tables)


class _Change(_Work[T]):
    def __init__(self, database: Database, edit: Edit[T]) -> None:
        super().__init__(database)
        self._edit = edit

    def _work(self) -> T:
        return self._transact(self._edit, count=True)
