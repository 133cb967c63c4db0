"""What a preparation does to a system, one thing at a time; carried out by the program in the sandbox."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Action(BaseModel):
    """One change, with the words that are recorded where it was really made."""

    model_config = ConfigDict(frozen=True)

    why: str

    def told(self) -> dict[str, Any]:
        """Return it as the program in the sandbox reads it."""
        return self.model_dump(by_alias=True)


class Write(Action):
    """Makes a file hold this."""

    do: Literal["write"] = "write"
    path: str
    content: str
    mode: int = 0o644


class Remove(Action):
    """Removes the files of a pattern."""

    do: Literal["remove"] = "remove"
    path: str


class Empty(Action):
    """Makes a file empty."""

    do: Literal["empty"] = "empty"
    path: str


class Mount(Action):
    """Mounts a partition that fstab does not know; nothing that stays."""

    do: Literal["mount"] = "mount"
    device: str
    path: str


class Copy(Action):
    """Copies a file."""

    do: Literal["copy"] = "copy"
    origin: str
    to: str

    def told(self) -> dict[str, Any]:
        """Return it as the program in the sandbox reads it."""
        return {"do": self.do, "why": self.why, "from": self.origin, "to": self.to}


class Install(Action):
    """Installs the packages that lie beside the request."""

    do: Literal["install"] = "install"


class Run(Action):
    """Runs a command of the image, in the virtual machine, where something was changed before."""

    do: Literal["run"] = "run"
    command: str
    always: bool = False
