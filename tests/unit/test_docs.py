"""Every `bmi` command in the documents exists, with the options that it is shown with."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from bmi.cli.main import run

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def commands(document: Path) -> list[str]:
    """The commands of a document: lines of code blocks, and inline code, that begin with `bmi`."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^ {4}(bmi .*)$", text, re.MULTILINE)
    return blocks + re.findall(r"`(?:\.venv/bin/)?(bmi [^`]*)`", text)


CASES = [(document.name, command) for document in DOCUMENTS for command in commands(document)]


def test_there_are_commands_to_check() -> None:
    assert len(CASES) > 15


@pytest.mark.parametrize(("document", "command"), CASES)
def test_the_command_exists(document: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.replace('"', ""), comments=True)[1:]
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    noun_and_verb = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    assert run([*noun_and_verb, "--help"]) == 0, f"{document}: {command}"
    shown = capsys.readouterr().out
    for option in options:
        assert option in shown, f"{document}: {command}: {option}"
