import os
import stat
from pathlib import Path

import pytest

from bmi.client import ProfileInvalid, profile
from bmi.client.profile import Profile


def test_file_is_named_by_the_environment(tmp_path: Path) -> None:
    assert profile.path({"BMI_CLIENT_CONFIG": "/x/y.toml", "HOME": "/h"}) == Path("/x/y.toml")
    assert profile.path({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/bmi/client.toml")
    assert profile.path({"HOME": "/h"}) == Path("/h/.config/bmi/client.toml")


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "client.toml"
    saved = Profile(url="http://bmi.example", token='a"b\\c', project="blue")
    profile.save(saved, file)
    assert profile.load({"BMI_CLIENT_CONFIG": str(file)}) == saved
    assert list(file.parent.iterdir()) == [file]


def test_saved_file_is_its_owners_only_even_over_an_open_one(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text("")
    file.chmod(0o644)
    before = os.umask(0)
    try:
        profile.save(Profile(url="http://bmi.example", token="sesame"), file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_environment_wins_over_the_file_value_by_value(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    profile.save(Profile(url="http://file", token="file", project="file"), file)
    environ = {"BMI_CLIENT_CONFIG": str(file), "BMI_URL": "http://env", "BMI_TOKEN": ""}
    assert profile.load(environ) == Profile(url="http://env", token="file", project="file")


def test_without_a_file_there_is_only_the_environment(tmp_path: Path) -> None:
    environ = {"BMI_CLIENT_CONFIG": str(tmp_path / "none"), "BMI_PROJECT": "blue"}
    assert profile.load(environ) == Profile(project="blue")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "client.toml"
    file.write_text('token = "sesame"\n')
    file.chmod(mode)
    with pytest.raises(ProfileInvalid, match=f"mode {mode:04o}.*; chmod 600 {file}") as caught:
        profile.load({"BMI_CLIENT_CONFIG": str(file)})
    assert "sesame" not in str(caught.value)


def test_file_without_a_token_may_be_read_by_all(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('url = "http://bmi.example"\n')
    file.chmod(0o644)
    assert profile.load({"BMI_CLIENT_CONFIG": str(file)}).url == "http://bmi.example"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = ", "is not TOML"),
        ('urk = "x"', "'urk'"),
        ("project = 7", "'project'"),
        ("\udcff", "is not TOML"),
    ],
)
def test_file_that_is_not_understood_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "client.toml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ProfileInvalid, match=f"{file}.*{says}"):
        profile.load({"BMI_CLIENT_CONFIG": str(file)})


def test_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProfileInvalid, match="cannot be read: Is a directory"):
        profile.load({"BMI_CLIENT_CONFIG": str(tmp_path)})
    with pytest.raises(ProfileInvalid, match="cannot be written"):
        profile.save(Profile(url="http://x"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_token_is_not_in_the_profiles_representation() -> None:
    assert "sesame" not in repr(Profile(token="sesame"))
