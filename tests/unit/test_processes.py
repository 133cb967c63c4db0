import json
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.errors import CommandFailed
from bmi.processes import Process, recorded, recorded_below, start
from bmi.wait import wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def run(tmp_path: Path, argv: list[str] = SLEEPER) -> Process:
    process = start(argv, record=tmp_path / "record.json", log=tmp_path / "log")
    wait_until(lambda: "up" in (tmp_path / "log").read_text(), deadline=20, what="it", next_step="look")
    return process


def test_a_started_program_is_found_by_its_record(tmp_path: Path) -> None:
    process = run(tmp_path)
    assert recorded(tmp_path / "record.json") == process
    assert recorded_below(tmp_path) == [process]
    process.stop()
    assert not process.alive()
    assert recorded(tmp_path / "record.json") is None


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmi.processes._TERM_DEADLINE", 0.2)
    process = run(tmp_path, STUBBORN)
    process.stop()
    assert not process.alive()


def test_another_process_with_the_same_id_is_neither_found_nor_signalled(tmp_path: Path) -> None:
    process = run(tmp_path)
    other = replace(process, started=process.started + "0")
    (tmp_path / "record.json").write_text(json.dumps({"pid": other.pid, "started": other.started}))
    assert recorded(tmp_path / "record.json") is None
    other.signal(signal.SIGKILL)
    assert process.alive()
    process.stop(kill=True)


def test_the_end_is_told_even_when_nobody_collects_the_child(tmp_path: Path) -> None:
    process = run(tmp_path)
    told = threading.Event()
    process.on_exit(told.set)
    assert not told.wait(0.1)
    process.signal(signal.SIGKILL)
    assert told.wait(10)
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        start(["no-such-program"], record=tmp_path / "record.json", log=tmp_path / "log")


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"pid": 1, "started": 5, "more": 1}', "[1, 2]"])
def test_a_damaged_record_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert recorded(tmp_path / "record.json") is None


def test_a_number_that_became_a_thread_s_is_no_process() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert not Process(thread.native_id, "a boot, and a time").alive()
    finally:
        stop.set()
        thread.join()
