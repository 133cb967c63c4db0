"""What drivers keep in files: locks between processes, and the state of the `memory` drivers."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Generic, TypeVar

from pydantic import BaseModel

from bmi.errors import BmiError, DeadlineExceeded
from bmi.wait import wait_until

_DEADLINE = 60.0  # seconds that another caller may take
_POLL = 0.002  # seconds

S = TypeVar("S", bound=BaseModel)


@contextmanager
def locked(path: Path, failure: type[BmiError]) -> Iterator[None]:
    """Keep every other thread and process out that locks the same file.

    Args:
        path: The file; it is made if it is not there, and stays.
        failure: Class of the error to raise.

    Raises:
        BmiError: Of the class given; another one holds the lock for too long.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            wait_until(
                lambda: _try_lock(file), deadline=_DEADLINE, what=f"the lock {path}", next_step="", poll=_POLL
            )
        except DeadlineExceeded as error:
            raise failure(
                f"another BMI holds {path} for longer than {_DEADLINE:g} s",
                next_step=f"find out which with fuser {path}, and try again",
            ) from error
        yield


class StateFile(Generic[S]):
    """A model kept in a file, which several processes may change."""

    def __init__(self, path: Path, model: type[S], failure: type[BmiError]) -> None:
        """Say where it is, what it holds while there is no file, and of which class the errors are to be."""
        self._path = path
        self._model = model
        self._failure = failure

    def read(self) -> S:
        """Return what the file holds."""
        try:
            return self._model.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return self._model()

    @contextmanager
    def edit(self) -> Iterator[S]:
        """Let the caller change what the file holds; it is written when the context ends well."""
        with locked(self._path.with_suffix(".lock"), self._failure):
            state = self.read()
            yield state
            partial = self._path.with_suffix(".part")
            partial.write_text(state.model_dump_json())
            partial.rename(self._path)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
