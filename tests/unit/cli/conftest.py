from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmi.cli.main import run
from tests.unit.client.fake_service import Service

Bmi = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Give a running service that the profile names."""
    with Service() as running:
        monkeypatch.setenv("BMI_URL", running.url)
        monkeypatch.setenv("BMI_TOKEN", "sesame")
        monkeypatch.delenv("BMI_PROJECT", raising=False)
        monkeypatch.setenv("BMI_CLIENT_CONFIG", str(tmp_path / "client.toml"))
        yield running


@pytest.fixture
def bmi(capsys: pytest.CaptureFixture[str]) -> Bmi:
    """Give a way to run a command, which returns its exit status, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
