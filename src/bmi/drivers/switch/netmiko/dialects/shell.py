"""Switches whose command line is a Linux shell: a command's status tells whether it was carried out."""

import re

from bmi.drivers.switch.netmiko.dialects import Dialect

_STATUS = re.compile(r"^bmi-status=(\d{1,3})\s*$", re.MULTILINE)


class Shell(Dialect):
    """A switch that is configured from a shell."""

    enables = False
    enter = ()
    leave = ()

    def wrapped(self, command: str) -> str:
        """See `Dialect`."""
        return f"{command}; echo bmi-status=$?"

    def refused(self, answer: str) -> str:
        """See `Dialect`. What a command says last is usually why."""
        status = _STATUS.search(answer)
        if status is None:
            return "the shell did not tell the status"
        if status[1] == "0":
            return ""
        lines = answer[: status.start()].split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"status {status[1]}")
