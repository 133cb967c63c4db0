import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, meta

from bmi.boot.texts import OWN_TEMPLATES, OWN_TEXTS, Texts
from bmi.boot.variables import PARTS, SAMPLES, ExitScript, Loader, MetaData, Variables
from bmi.errors import SettingsInvalid

ROOT = Path(__file__).parents[3]
KINDS: tuple[type[Variables], ...] = (*dict.fromkeys(type(sample) for sample in SAMPLES), *PARTS)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = os.umask(0o022)
    (tmp_path / "templates").mkdir()
    yield tmp_path / "templates"
    os.umask(before)


def checked(folder: Path) -> Texts:
    texts = Texts(folder)
    texts.check(dnsmasq=True)
    return texts


def test_there_is_a_kind_for_each_template() -> None:
    assert sorted(kind.template for kind in KINDS) == sorted(file.name for file in OWN_TEMPLATES.glob("*"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.template)
def test_a_template_uses_what_it_is_given_and_nothing_else(kind: type[Variables]) -> None:
    source = (OWN_TEMPLATES / kind.template).read_text()
    environment = Environment()  # noqa: S701 - nothing is rendered
    environment.filters |= {"yaml": str, "quoted": str}
    used = meta.find_undeclared_variables(environment.parse(source))
    inherited = {
        each.name for part in PARTS if issubclass(kind, part) and kind is not part for each in fields(part)
    }
    assert used == {each.name for each in fields(kind)} - inherited


@pytest.mark.parametrize("kind", [*KINDS, Loader], ids=lambda kind: getattr(kind, "template", kind.__name__))
def test_the_document_lists_what_a_template_is_given(kind: type) -> None:
    text = (ROOT / "docs" / "templates.md").read_text()
    title = getattr(kind, "template", "a loader")
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert listed == [each.name for each in fields(kind)]


def test_bmis_own_pass_their_own_checks(folder: Path) -> None:
    for file in OWN_TEMPLATES.glob("*"):
        (folder / file.name).write_bytes(file.read_bytes())
    texts = checked(folder)
    for sample in SAMPLES:
        assert texts.render(sample) == OWN_TEXTS.render(sample)


def test_an_override_takes_the_place_of_one_template_alone(folder: Path) -> None:
    (folder / "exit.ipxe.j2").write_text("#!ipxe\necho Ask the desk: {{ reason }}\nexit\n")
    texts = checked(folder)
    assert texts.render(ExitScript("gone")) == "#!ipxe\necho Ask the desk: gone\nexit\n"
    for sample in SAMPLES:
        if not isinstance(sample, ExitScript):
            assert texts.render(sample) == OWN_TEXTS.render(sample)


def test_a_part_is_replaced_in_all_that_include_it(folder: Path) -> None:
    (folder / "retry.ipxe.j2").write_text("reboot\n")
    texts = checked(folder)
    ends = [texts.render(sample).endswith("\nreboot\n") for sample in SAMPLES]
    assert ends.count(True) == 3


def test_a_change_takes_effect_at_the_next_start(folder: Path) -> None:
    (folder / "exit.ipxe.j2").write_text("#!ipxe\nexit\n")
    texts = checked(folder)
    (folder / "exit.ipxe.j2").write_text("#!ipxe\npoweroff\n")
    assert texts.render(ExitScript("")) == "#!ipxe\nexit\n"
    assert checked(folder).render(ExitScript("")) == "#!ipxe\npoweroff\n"


DNSMASQ = (OWN_TEMPLATES / "dnsmasq.conf.j2").read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("exit.ipxe.j2", "#!ipxe\necho {{ reason }\n", r"exit\.ipxe\.j2, line 2: unexpected '}'"),
        ("exit.ipxe.j2", "#!ipxe\n\necho {{ raison }}\n", r"exit\.ipxe\.j2, line 3: 'raison' is undefined"),
        ("exit.ipxe.j2", "#!ipxe\n{{ 1 // 0 }}\n", r"exit\.ipxe\.j2, line 2: ZeroDivisionError"),
        ("exit.ipxe.j2", "#!ipxe\n{{ ''.__class__.__mro__ }}\n", r"line 2: access to attribute .*unsafe"),
        ("exit.ipxe.j2", '{% include "/etc/passwd" %}', r"exit\.ipxe\.j2, line 1: /etc/passwd"),
        ("exit.ipxe.j2", "echo hello\n", r"exit\.ipxe\.j2: line 1: it does not begin with #!ipxe"),
        ("retry.ipxe.j2", "goto {{ nowhere }}\n", r"retry\.ipxe\.j2, line 1: 'nowhere' is undefined"),
        ("network-config.j2", "version: 2\nethernets: [\n", r"network-config\.j2: line 3 of what .*expected"),
        ("meta-data.j2", "local-hostname: {{ hostname | yaml }}\n", r"meta-data\.j2: it has no instance-id"),
        ("vendor-data.j2", "phone_home: {}\n", r"line 1: it does not begin with #cloud-config"),
        ("dnsmasq.conf.j2", f"{DNSMASQ}bogus=1\n", r"dnsmasq\.conf\.j2: line \d+ .*, 'bogus=1': bad option"),
        ("dnsmasq.conf.j2", "port=0\n", r'dnsmasq\.conf\.j2: BMI cannot do without the line dhcp-hostsfile="'),
    ],
)  # fmt: skip
def test_an_override_that_is_wrong_is_refused_at_the_start(
    folder: Path, name: str, text: str, said: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(SettingsInvalid, match=said) as refused:
        checked(folder)
    assert str(folder / name) in refused.value.message


def test_a_misspelled_name_is_refused(folder: Path) -> None:
    (folder / "boot.ipxe").write_text("#!ipxe\n")
    with pytest.raises(SettingsInvalid, match=r"boot\.ipxe replaces no template") as refused:
        Texts(folder)
    assert "boot.ipxe.j2" in refused.value.next_step


def test_what_others_could_write_is_refused(folder: Path) -> None:
    file = folder / "exit.ipxe.j2"
    file.write_text("#!ipxe\n")
    file.chmod(0o664)
    with pytest.raises(SettingsInvalid, match=r"others than root can write .*exit\.ipxe\.j2"):
        Texts(folder)
    file.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(SettingsInvalid, match="others than root can write"):
        Texts(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away: run as root")
def test_a_file_of_another_user_is_refused(folder: Path) -> None:
    (folder / "exit.ipxe.j2").write_text("#!ipxe\n")
    os.chown(folder / "exit.ipxe.j2", 12345, -1)
    with pytest.raises(SettingsInvalid, match="others than root"):
        Texts(folder)


def test_a_folder_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"nowhere cannot be read"):
        Texts(folder / "nowhere")


@pytest.mark.parametrize(
    "word", ["a: b", "'", '"\n- x', "# no comment", "{}", "&a *a", "null", "ä 😀", "\u2028"]
)
def test_no_value_becomes_more_than_a_value_of_yaml(word: str) -> None:
    text = OWN_TEXTS.render(MetaData(word, word, (word, word)))
    assert yaml.safe_load(text) == {"instance-id": word, "local-hostname": word, "public-keys": [word, word]}
