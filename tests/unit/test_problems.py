from collections.abc import Iterator

import pytest

from bmi.errors import BmiError, TargetError
from bmi.problems import error_of, problem


def kinds(kind: type[BmiError]) -> Iterator[type[BmiError]]:
    for child in kind.__subclasses__():
        if child.__module__ == "bmi.errors":
            yield child
            yield from kinds(child)


@pytest.mark.parametrize("kind", sorted(kinds(BmiError), key=lambda kind: kind.code))
def test_every_error_comes_back_as_it_was(kind: type[BmiError]) -> None:
    error = error_of(problem(kind("disk d1 is away", next_step="bring it back")))
    assert type(error) is kind
    assert str(error) == "disk d1 is away; bring it back"


def test_a_driver_s_own_error_comes_back_as_the_kind_that_everybody_knows() -> None:
    class Refused(TargetError):
        def __init__(self, code: int) -> None:
            super().__init__(f"refused with {code}", next_step="look")

    error = error_of(problem(Refused(4)))
    assert type(error) is TargetError
    assert error.transient


def test_an_unknown_code_is_an_error_all_the_same() -> None:
    found = problem(ValueError("secret"))
    assert "secret" not in found.detail
    assert type(error_of(found)) is BmiError
