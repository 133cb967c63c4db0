"""Programs whose output is read while they run."""

import os
import time
from pathlib import Path

import pytest

from bmi.errors import CommandFailed, CommandTimedOut
from bmi.run import stream
from bmi.wait import wait_until


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_lines_of_both_outputs_come_as_they_are_printed() -> None:
    came: list[tuple[str, float]] = []
    script = "echo one; sleep 0.5; echo two >&2; printf three"
    stream(["sh", "-c", script], line=lambda text: came.append((text, time.monotonic())), timeout=10)
    assert [text for text, _ in came] == ["one", "two", "three"]
    assert came[1][1] - came[0][1] > 0.3


def test_variables_are_set_on_top_of_the_callers() -> None:
    lines: list[str] = []
    stream(["sh", "-c", "echo $COLOUR; echo $PATH"], line=lines.append, timeout=10, env={"COLOUR": "blue"})
    assert lines == ["blue", os.environ["PATH"]]


def test_a_failure_tells_the_programs_last_words() -> None:
    with pytest.raises(CommandFailed, match="status 3: no room") as caught:
        stream(["sh", "-c", "echo no room; exit 3"], line=lambda text: None, timeout=10)
    assert not isinstance(caught.value, CommandTimedOut)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        stream(["no-such-program"], line=lambda text: None, timeout=10)


@pytest.mark.parametrize(
    "script",
    ["echo $$; exec sleep 60", "echo $$; exec >/dev/null 2>&1; sleep 60"],
    ids=["talks", "is-silent"],
)
def test_a_program_that_takes_too_long_is_killed(script: str) -> None:
    lines: list[str] = []
    with pytest.raises(CommandTimedOut, match="did not end within"):
        stream(["sh", "-c", script], line=lines.append, timeout=0.5)
    assert _gone(int(lines[0]))


def test_what_the_reader_raises_ends_the_program_and_its_children() -> None:
    lines: list[str] = []

    def enough(text: str) -> None:
        lines.append(text)
        raise KeyError(text)

    with pytest.raises(KeyError):
        stream(["sh", "-c", "sleep 60 & echo $!; wait"], line=enough, timeout=10)
    wait_until(lambda: _gone(int(lines[0])), deadline=5, what="the child to end", next_step="")


def test_what_a_carriage_return_ends_is_a_line() -> None:
    lines: list[str] = []
    stream(["printf", "1%%\\r2%%\\r3%%\\n"], line=lines.append, timeout=10)
    assert lines == ["1%", "2%", "3%"]


def test_a_program_that_prints_nothing_can_be_ended() -> None:
    begun = time.monotonic()

    def pulse() -> None:
        if time.monotonic() - begun > 0.3:
            raise KeyError

    with pytest.raises(KeyError):
        stream(["sleep", "60"], line=lambda text: None, timeout=60, pulse=pulse)
    assert time.monotonic() - begun < 10
