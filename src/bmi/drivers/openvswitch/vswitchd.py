"""ovs-vswitchd's control socket (ovs-vswitchd(8), RUNTIME MANAGEMENT COMMANDS)."""

import json
import os
import socket
from pathlib import Path

from bmi.errors import BmiError


class Vswitchd:
    """The daemon that forwards packets."""

    def __init__(self, remote: str, *, control: Path | None, timeout: float, failure: type[BmiError]) -> None:
        """Say which daemon.

        Args:
            remote: The database that it follows; the socket is looked for beside it.
            control: Path of the socket, if it is elsewhere.
            timeout: Seconds until a call fails that gets no answer.
            failure: Class of the errors to raise.
        """
        self._folder = Path(remote.removeprefix("unix:")).parent
        self._control = control
        self._timeout = timeout
        self._failure = failure

    def forget(self, bridge: str, datapath_type: str) -> None:
        """Forget every decision made by an earlier configuration: what is cached of it, and what was learned.

        ovs-vswitchd reports a configuration as carried out when new packets are decided by it. What it
        decided before stays in its flow cache until it comes round to check it: with thousands of flows that
        takes a tenth of a second, in which packets still reach the VLAN that their port has left. And when it
        drops a stale flow, it learns from the flow's last packets that the node is in its old VLAN: what is
        sent to the node there would reach it for minutes.

        Args:
            bridge: The bridge's name.
            datapath_type: The bridge's, as in the database.

        Raises:
            BmiError: Of the class given; nobody answers, or ovs-vswitchd refuses.
        """
        kind = datapath_type or "system"
        # Megaflows are enabled anyway; this is the one command that stops the threads that look after the cache
        # and empties it, so that nothing is learned from stale flows afterwards.
        self._call("upcall/enable-megaflows")
        self._call("fdb/flush", bridge)
        # What was cached between these two may go by what was learned wrongly.
        self._call("dpctl/del-flows", f"{kind}@ovs-{kind}")

    def learned(self, bridge: str) -> list[tuple[int, str]]:
        """Return what a bridge learned of late: numbers of ports, and cards that were heard there.

        Raises:
            BmiError: Of the class given; nobody answers, or ovs-vswitchd refuses.
        """
        # port VLAN MAC age; the bridge's own port is LOCAL.
        lines = [line.split() for line in self._call("fdb/show", bridge).splitlines()]
        return [(int(words[0]), words[2]) for words in lines if len(words) == 4 and words[0].isdecimal()]

    def _call(self, method: str, *arguments: str) -> str:
        path = self._socket()
        try:
            answer = _ask(path, {"id": 0, "method": method, "params": arguments}, self._timeout)
        except OSError as error:
            raise self._failure(
                f"ovs-vswitchd does not answer at {path}: {error}",
                next_step="check that ovs-vswitchd runs, and restart it",
            ) from error
        if refusal := answer["error"]:
            raise self._failure(
                f"ovs-vswitchd refuses {method}: {refusal}", next_step="look at ovs-vswitchd's log"
            )
        return str(answer["result"])

    def _socket(self) -> Path:
        if self._control is not None:
            return self._control
        record = self._folder / "ovs-vswitchd.pid"
        try:
            return self._folder / f"ovs-vswitchd.{int(record.read_text())}.ctl"
        except (OSError, ValueError) as error:
            raise self._failure(
                f"the control socket of ovs-vswitchd is not known: {record}: {error}",
                next_step="check that ovs-vswitchd runs, or name its control socket with the option control",
            ) from error


def _ask(path: Path, request: dict[str, object], timeout: float) -> dict[str, object]:
    """Send a JSON-RPC request and return the answer.

    Raises:
        OSError: Nobody listens, or answers in time.
    """
    # A socket's path has 107 bytes at the most (unix(7)); a descriptor of its folder makes it short.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(timeout)
            control.connect(f"/proc/self/fd/{folder}/{path.name}")
            control.sendall(json.dumps(request).encode())
            received = b""
            while chunk := control.recv(65536):
                received += chunk
                try:
                    answer: dict[str, object] = json.loads(received)
                except ValueError:
                    continue
                return answer
            raise ConnectionError("it hung up")
    finally:
        os.close(folder)
