"""How errors are told: one line, what is wrong, then what to do."""

import sys

import typer


class Failure(Exception):
    """A command cannot go on."""

    def __init__(self, message: str, *, next_step: str, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.status = status

    def __str__(self) -> str:
        line = "; ".join(part for part in (self.message, self.next_step) if part)
        # What a service says must not move the cursor about.
        return "".join(character for character in " ".join(line.split()) if character.isprintable())


def told(error: Exception) -> Failure | None:
    """Return an error as it is told to a person; None if it is a defect of BMI, which needs its traceback."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if "pydantic" in sys.modules and (refused := _refused(error)):
        return refused
    # The client's errors have these two, and so have the service's, which the command line may not import.
    message, next_step = getattr(error, "message", None), getattr(error, "next_step", None)
    if isinstance(message, str) and isinstance(next_step, str):
        return Failure(message, next_step=next_step)
    return None


def _usage(error: typer.TyperException) -> Failure:
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "bmi"
    return Failure(
        message[0].lower() + message[1:].rstrip("."),
        next_step=f"see `{path} --help`",
        status=error.exit_code,
    )


def _refused(error: Exception) -> Failure | None:
    """Return what the API's own types say about a value that was given."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    first = error.errors(include_url=False)[0]
    what = ".".join(str(part) for part in first["loc"]).replace("_", "-") or error.title
    if first["type"] == "string_pattern_mismatch" and what.endswith(("name", "hostname")):
        return Failure(
            f"{first['input']!r} cannot be a {what}",
            next_step="use lower-case letters, digits, dots and dashes, 63 at the most",
            status=2,
        )
    reason = first["msg"][0].lower() + first["msg"][1:]
    given = first["input"]
    shown = f" {given!r}" if isinstance(given, str | int | float) and "password" not in what else ""
    return Failure(f"{what}{shown} cannot be used: {reason}", next_step="correct it and try again", status=2)
