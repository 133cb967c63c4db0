"""Waiting for operations, as people and programs see it."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.unit.client.fake_service import ID, Answer, Asked, Service, event, operation, problem, step

Bmi = Callable[..., tuple[int, str, str]]

PATH = f"/operations/{ID}"
PROVISION = ["node", "provision", "n1", "--image", "debian", "--network", "lan"]


@pytest.fixture
def started(service: Service) -> Service:
    service.on("POST", "/nodes/n1/provision", Answer(operation("queued", verb="node.provision"), status=202))
    service.on("GET", PATH, Answer(operation("queued")))
    return service


def test_in_a_pipe_each_finished_step_is_a_line(started: Service, bmi: Bmi) -> None:
    one = operation("running", step("disk", "running"))
    two = operation("running", step("disk", detail="clone of debian"), step("boot", "running", progress=0.5))
    ended = operation(
        "succeeded", step("disk"), step("boot"), result={"address": "10.7.0.5", "disk_id": None}
    )
    started.on("GET", f"{PATH}/events", Answer(stream=tuple(map(event, (one, two, ended)))))
    status, out, err = bmi(*PROVISION)
    assert (status, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        f"provision of node n1 (operation {ID})",
        "done disk 1.5 s clone of debian",
        "done boot 1.5 s",
        "done: provision of node n1 in 42.0 s",
        "address 10.7.0.5",
    ]


def test_failure_tells_step_cause_and_next_step_and_what_was_undone(started: Service, bmi: Bmi) -> None:
    done = operation("running", step("disk"), step("network", "running"))
    error = problem(502, "switch-error", "port 7 of tor1 does not come up", "check the cable").json
    failed = operation("failed", step("disk", "undone"), step("network", "failed"), error=error)
    started.on("GET", f"{PATH}/events", Answer(stream=(event(done), event(failed))))
    status, out, err = bmi(*PROVISION)
    assert status == 1
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["done", "disk"],
        ["undone", "disk"],
        ["failed", "network"],
    ]
    cause = "port 7 of tor1 does not come up; check the cable"
    assert err == f"bmi: provision of node n1 failed at step network: {cause}\n"


def test_with_json_there_is_nothing_but_the_operation(started: Service, bmi: Bmi) -> None:
    failed = operation("failed", step("disk", "failed"))
    started.on("GET", f"{PATH}/events", Answer(stream=(event(failed),)))
    status, out, err = bmi(*PROVISION, "--json")
    assert status == 1
    assert json.loads(out)["state"] == "failed"
    assert err.startswith("bmi: provision of node n1 failed at step disk;")
    assert json.loads(bmi(*PROVISION, "--json", "--no-wait")[1])["state"] == "queued"


def test_op_wait_follows_what_somebody_else_started(started: Service, bmi: Bmi) -> None:
    started.on(
        "GET", f"{PATH}/events", Answer(stream=(event(operation("cancelled", step("disk", "undone"))),))
    )
    status, out, err = bmi("op", "wait", ID)
    assert status == 1
    assert out.splitlines()[1].startswith("undone   disk")
    assert err.startswith("bmi: provision of node n1 was cancelled; ")


def test_ctrl_c_says_that_the_operation_goes_on(started: Service) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(request: Asked) -> Answer:
        asked.set()
        released.wait(20)
        return Answer(stream=())

    started.on("GET", f"{PATH}/events", hang)
    # Tests that run in the background of a shell ignore the signal, and so would their children.
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    command = [sys.executable, "-c", f"{heeding} from bmi.cli.main import run; sys.exit(run(sys.argv[1:]))"]
    with subprocess.Popen(
        [*command, *PROVISION], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert asked.wait(20)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=20)
        finally:
            child.kill()
    released.set()
    assert child.returncode == 130
    assert err == (
        "bmi: stopped waiting, the provision of node n1 goes on; "
        f"follow it with `bmi op wait {ID}`, or end it with `bmi op cancel {ID}`\n"
    )


def test_on_a_terminal_steps_are_drawn_with_a_bar_while_they_run(started: Service) -> None:
    seen = threading.Event()

    def route(request: Asked) -> Answer:
        # Polls come after the only stream has ended, so the drawing of the running step stays a while.
        if request.query.get("wait"):
            seen.wait(20)
            return Answer(operation("succeeded", step("packages", detail="[bold]310 packages"), step("pack")))
        return Answer(operation("running"))

    started.on("GET", PATH, route)
    running = operation("running", step("packages", "running", "unpacking [x]", progress=0.25))
    started.on("GET", f"{PATH}/events", Answer(stream=(event(running),)))
    drawn = on_terminal(["op", "wait", ID], until="25%", then=seen.set)
    assert "━" in drawn
    assert "unpacking [x]" in drawn
    assert "✓  packages  1.5 s  [bold]310 packages" in drawn
    assert "provision of node n1 in 42.0 s" in drawn


def on_terminal(arguments: list[str], *, until: str, then: Callable[[], None]) -> str:
    """Run a command on a terminal of its own, and return what it wrote.

    Args:
        arguments: The command.
        until: What it has to write before ...
        then: ... this is called.
    """
    ours, its = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "NO_COLOR": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "bmi.cli", *arguments], stdout=its, stderr=its, stdin=its, env=environ
    )
    os.close(its)
    written, end = b"", time.monotonic() + 30
    try:
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: the other side is closed
                break
            written += piece
            if until.encode() in written:
                then()
        assert child.wait(timeout=10) == 0, written.decode()
    finally:
        os.close(ours)
        if child.poll() is None:
            child.kill()
            child.wait()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
