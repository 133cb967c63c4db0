"""Ceph's own Python bindings, which are in no package index."""

from importlib import import_module
from typing import Any

from bmi.errors import StorageError


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise StorageError(
            f"Ceph's Python bindings cannot be loaded: {error}",
            next_step=f"install the Debian package python3-{name}, and run scripts/setup again",
        ) from error


rados = _load("rados")
rbd = _load("rbd")
