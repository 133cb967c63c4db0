from pathlib import Path
from typing import Any

import pytest

from bmi.drivers import Site
from bmi.drivers.storage import Capacity, Kind, Volume
from bmi.drivers.storage.memory import MemoryStorage
from bmi.errors import SettingsInvalid, StorageError, StorageFull
from bmi.ids import new_id


def store_in(folder: Path, **options: Any) -> MemoryStorage:
    return MemoryStorage(options, Site(folder, "0badcafe"))


def test_its_room_is_what_the_options_say(tmp_path: Path) -> None:
    store, seed = store_in(tmp_path, capacity="16KiB"), new_id()
    store.prepare()
    assert store.capacity() == Capacity(total=16384, free=16384)

    store.write_seed(seed, bytes(8192))
    assert store.capacity() == Capacity(total=16384, free=8192)
    with pytest.raises(StorageFull, match="8192 bytes"):
        store.write_seed(new_id(), bytes(8192))

    store.remove(Volume(Kind.SEED, seed))
    assert store.capacity().free == 16384


def test_it_touches_nothing_outside_the_state_folder(tmp_path: Path) -> None:
    store = store_in(tmp_path / "state")
    store.prepare()

    assert [path.name for path in (tmp_path / "state").iterdir()] == ["storage-memory"]


def test_it_has_to_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="never prepared"):
        store_in(tmp_path).find(Volume(Kind.DISK, new_id()))


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="path"):
        store_in(tmp_path, path="/x")
