"""What the documents name exists: every `bmi` command, with the options that it is shown with, and every test."""

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


TESTS = sorted(
    {
        (document.name, file, test)
        for document in DOCUMENTS
        for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", document.read_text())
    }
)


@pytest.mark.parametrize(("document", "file", "test"), TESTS)
def test_the_test_exists(document: str, file: str, test: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"{document} names {file}"
    assert not test or f"def {test}(" in path.read_text(), f"{document} names {file}::{test}"
