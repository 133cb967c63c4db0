"""`--examples=N` lets the model try more stories than the few that every run does."""

import pytest

EXAMPLES = 4  # half a minute


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=EXAMPLES, help="how many stories the model tries")


@pytest.fixture
def examples(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--examples", default=EXAMPLES))
