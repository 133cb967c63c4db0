"""Sends whatever the API's own description allows, and what it does not allow, and looks at the answers."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import schemathesis
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisDeprecationWarning
from hypothesis.strategies import SearchStrategy, integers
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bmi.errors import ImageInvalid
from bmi.provisioning import images
from bmi.wait import wait_until

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 40
"""Cases for each operation and token: enough for all fields to be left out, wrong and absurd."""

_TAKES_AWAY = ("/move", "/purge", "/deprovision", "/reset")


@dataclass
class Fuzzed:
    """What came of it."""

    operations: int = 0
    cases: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    """How many answers there were of each status."""
    findings: dict[str, str] = field(default_factory=dict)
    """An example for each kind of wrong answer of each operation."""


def fuzz(api: TestClient, tokens: dict[str, str], things: dict[str, str], examples: int = EXAMPLES) -> Fuzzed:
    """Ask everything of a service that works; what takes things away comes last.

    Args:
        api: The service.
        tokens: The tokens to ask with, by a word for the caller.
        things: Names of things that there are, by their kind; three of four cases name them.
        examples: How many cases there are for each operation and token.
    """
    told = Fuzzed()
    with _listening(cast("FastAPI", api.app)) as url, patch.object(images, "build", _build):
        for caller, token in tokens.items():
            for operation in _operations(api):
                told.operations += 1
                _fuzz_one(operation, url, (caller, token), things, examples, told)
    return told


def _build(*_args: Any, **_kwargs: Any) -> Path:
    """Stand in for a build of minutes, as a recipe that no package fits."""
    raise ImageInvalid("nothing is built here", next_step="-")


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    """Let an application that is started already answer on a port of this host, too; give its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        wait_until(lambda: server.started, deadline=10, what="the API", next_step="-")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _operations(api: TestClient) -> Iterator[schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_dict(api.get("/openapi.json").json())
    order = ("get", "post", "put", "patch", "delete")
    found = [result.ok() for result in schema.get_all_operations()]

    def harm(operation: schemathesis.APIOperation) -> tuple[bool, int]:
        return operation.path.endswith(_TAKES_AWAY), order.index(operation.method)

    yield from sorted(found, key=harm)


def _fuzz_one(
    operation: schemathesis.APIOperation,
    url: str,
    who: tuple[str, str],
    things: dict[str, str],
    examples: int,
    told: Fuzzed,
) -> None:
    caller, token = who

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=_anything(operation), chance=integers(min_value=0, max_value=3))
    def ask(case: schemathesis.Case, chance: int) -> None:
        if chance:
            _name(case, things)
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
        answer = case.call(base_url=url)
        told.cases += 1
        told.statuses[answer.status_code] = told.statuses.get(answer.status_code, 0) + 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                name = f"{operation.label} as {caller}: {failure.title} ({answer.status_code})"
                told.findings.setdefault(name, str(failure.message))

    with warnings.catch_warnings():
        # Schemathesis draws a few things behind Hypothesis's back: a case may not be the same again.
        warnings.simplefilter("ignore", HypothesisDeprecationWarning)
        ask()


def _anything(operation: schemathesis.APIOperation) -> SearchStrategy[schemathesis.Case]:
    """Return cases that have the documented form, and cases that do not; not every operation can have these."""
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not (operation.path_parameters or operation.query or operation.body):
        return good
    return good | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


def _name(case: schemathesis.Case, things: dict[str, str]) -> None:
    """Put names of things that there are where a case has made some up."""
    if "/exports/" in case.operation.path:
        things = {"operation": things["export"]}
    for where in (case.path_parameters, case.query, case.body):
        if isinstance(where, dict):
            where.update({name: thing for name, thing in things.items() if isinstance(where.get(name), str)})
