"""`bmi node console`: what of a node's words reaches a terminal, and what of a person's keys reaches a node."""

import random

import pytest

from bmi.cli.console import Escape
from bmi.cli.harmless import Harmless
from tests.unit.cli.conftest import Bmi
from tests.unit.client.fake_service import Service


def shown(*pieces: bytes) -> str:
    harmless = Harmless()
    return "".join(harmless(piece) for piece in pieces) + harmless(b"", final=True)


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"plain text\r\nnext\tcolumn\n", "plain text\nnext\tcolumn\n"),
        ("Grüße ✓".encode(), "Grüße ✓"),
        (b"\x1b[2J\x1b[1;31mred\x1b[0m", "red"),  # screen and colours
        (b"\x1b]0;rm -rf\x07title", "title"),  # the window's title
        (b"\x1b]52;c;cm0gLXJm\x1b\\clip", "clip"),  # the clipboard
        (b"\x1bP+q544e\x1b\\dcs\x1b_apc\x1b\\\x1b^pm\x1b\\.", "dcs."),
        (b"\x1b(B\x1bcreset\x1b7", "reset"),
        (b"\x9b31mc1\xc2\x9b31mc1", "�31mc1c1"),  # one is no UTF-8, the other a control sequence
        (b"10%\r50%\r100%\r\n", "10%\n50%\n100%\n"),
        (b"a\x00b\x07c\x08d\x7fe\x0ef", "abcdef"),
        ("evil\u202eslive\u2066".encode(), "evilslive"),  # turns the direction of what follows
        (b"\xff\xfe", "��"),
        (b"\x1b]never ended" + b"x" * 5000 + b"END", "x" * 914 + "END"),
        (b"\x1b]ended by a line\nnext", "\nnext"),
        (b"\x1b[12\x18can", "can"),
        (b"half a letter \xe2\x9c", "half a letter �"),
    ],
)
def test_a_node_controls_no_terminal(said: bytes, seen: str) -> None:
    assert shown(said) == seen
    assert shown(*(bytes([byte]) for byte in said)) == seen  # however it comes


def test_whatever_a_node_says_only_lines_and_tabs_are_not_printable() -> None:
    chance = random.Random(7)
    for _ in range(300):
        said = bytes(chance.choice(b"\x1b[]P\\;0m\x07\x9b\xc2\x9d\r\nab\x18\xe2\x80\xae") for _ in range(200))
        assert all(character.isprintable() or character in "\n\t" for character in shown(said))


@pytest.mark.parametrize(
    ("typed", "sent", "help", "leaves"),
    [
        (b"ls -l ~.", b"ls -l ~.", False, False),  # not where a line begins
        (b"ls\r~.", b"ls\r", False, True),
        (b"~.", b"", False, True),
        (b"\r~~.", b"\r~.", False, False),
        (b"\n~?x", b"\nx", True, False),
        (b"\r~a", b"\r~a", False, False),
        (b"\r~\r~.", b"\r~\r", False, True),
        (b"\x03\x1a\x1b[A", b"\x03\x1a\x1b[A", False, False),
    ],
)
def test_only_a_tilde_where_a_line_begins_is_for_the_command(
    typed: bytes, sent: bytes, help: bool, leaves: bool
) -> None:
    assert Escape()(typed) == (sent, help, leaves)
    one = Escape()
    results = []
    for byte in typed:  # key by key
        results.append(one(bytes([byte])))
        if results[-1][2]:
            break
    assert b"".join(each[0] for each in results) == sent
    assert any(each[1] for each in results) is help
    assert any(each[2] for each in results) is leaves


@pytest.mark.parametrize(
    "words", [("--log", "--follow"), ("--boot", "3"), ("--raw",), ("--follow", "--boot", "2")]
)
def test_options_that_do_not_go_together_are_refused(
    service: Service, bmi: Bmi, words: tuple[str, ...]
) -> None:
    status, _, err = bmi("node", "console", "n1", *words)
    assert status == 2
    assert "--log" in err


def test_without_a_terminal_there_is_nothing_to_type_on(service: Service, bmi: Bmi) -> None:
    status, _, err = bmi("node", "console", "n1")
    assert status == 1
    assert "--follow" in err
