"""What the shell is told when somebody presses Tab."""

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from tests.unit.client.fake_service import (
    DISK,
    IMAGE,
    NAMED,
    NETWORK,
    TOKEN,
    Answer,
    Asked,
    Service,
    named,
    node,
    page,
    problem,
)

_PATIENT = """
import runpy
from bmi.cli import complete
complete._PATIENCE = 50.0
runpy.run_module("bmi.cli", run_name="__main__")
"""


def complete(words: str, *, patient: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    """Ask as bash does: the words so far, the last of them incomplete.

    Args:
        words: The words.
        patient: Whether the service may take its time, as it does on a busy machine.
        environ: More of the environment.
    """
    return subprocess.run(
        [sys.executable, *(["-c", _PATIENT] if patient else ["-m", "bmi.cli"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "_BMI_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            **environ,
        },
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("bmi no", ["node"]),
        ("bmi node pro", ["provision"]),
        ("bmi node provision --ne", ["--network"]),
        ("bmi node provision n1 --until d", ["dhcp"]),
    ],
)
def test_commands_and_options(words: str, found: list[str]) -> None:
    assert complete(words).stdout.split() == found


@pytest.mark.parametrize(
    ("words", "path", "thing"),
    [
        ("bmi node show n", "/nodes", node()),
        ("bmi image show n", "/images", IMAGE),
        ("bmi node provision x --image n", "/images", IMAGE),
        ("bmi node provision x --disk n", "/disks", DISK),
        ("bmi node provision x --network n", "/networks", NETWORK),
        ("bmi node provision x --tagged n", "/networks", NETWORK),
        ("bmi node attach x n", "/networks", NETWORK),
        ("bmi network share n", "/networks", NETWORK),
        ("bmi disk list --project n", "/projects", NAMED),
        ("bmi token revoke n", "/tokens", TOKEN),
    ],
)
def test_names_come_from_the_service(service: Service, words: str, path: str, thing: dict[str, Any]) -> None:
    service.on("GET", path, named(thing, "n1", "n2", "other"))
    done = complete(words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["n1", "n2"]


def test_names_are_those_of_the_project_on_the_line(service: Service) -> None:
    service.on("GET", "/images", page())
    complete("bmi node provision n1 --project blue --image d")
    assert service.asked[0].query["project"] == "blue"


def test_errors_are_silent(service: Service) -> None:
    service.on("GET", "/nodes", problem(401, "not-authenticated", "the token is unknown"))
    for environ in ({}, {"BMI_URL": "http://127.0.0.1:1"}, {"BMI_URL": "nonsense"}, {"BMI_TOKEN": ""}):
        done = complete("bmi node show n", **environ)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_silent_service_is_not_waited_for(service: Service) -> None:
    completed = threading.Event()

    def linger(asked: Asked) -> Answer:
        completed.wait(50)
        return page(node())

    service.on("GET", "/nodes", linger)
    done = complete("bmi node show n", patient=False)
    completed.set()
    assert (done.stdout.strip(), done.stderr) == ("", "")
