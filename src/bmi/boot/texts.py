"""The texts that nodes and dnsmasq read, from templates: BMI's own, or those that a site has in their place.

An override is read once, when the service starts, and tried then with samples of what it will be given: one that
is wrong stops the service from starting, and no node from booting later on.
"""

import stat
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from os import geteuid
from pathlib import Path
from typing import Any

import yaml
from jinja2 import BaseLoader, StrictUndefined, TemplateError, TemplateNotFound, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bmi.boot.variables import PARTS, SAMPLES, DhcpServer, Variables
from bmi.errors import CommandFailed, SettingsInvalid
from bmi.run import run

OWN_TEMPLATES = Path(__file__).parent / "templates"

_SIZE = 1 << 20  # bytes that a template may have
_SAID = 500  # characters kept of what dnsmasq says


class Texts:
    """All templates of an installation. May be used from many threads."""

    def __init__(self, overrides: Path | None = None) -> None:
        """Read the templates.

        Args:
            overrides: Folder with a site's own, each of which replaces BMI's of the same name; none if None.

        Raises:
            SettingsInvalid: The folder cannot be read, or others than root can write in it, or it has a file that
                is no template's.
        """
        self._own = {file.name: file for file in sorted(OWN_TEMPLATES.glob("*.j2"))}
        self._overrides = {} if overrides is None else _found(overrides, self._own)
        self._environment = ImmutableSandboxedEnvironment(
            loader=_Once({**self._own, **self._overrides}),
            autoescape=False,  # nosec B701 - none of it is HTML
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters |= {"yaml": _yaml, "quoted": quoted}

    def render(self, variables: Variables) -> str:
        """Return a text.

        Raises:
            SettingsInvalid: The template asks for what there is not; the error names its file and line.
        """
        values = {each.name: getattr(variables, each.name) for each in fields(variables)}
        try:
            return self._environment.get_template(variables.template).render(values)
        except Exception as error:  # a template may fail in any way that Python can
            raise self._invalid(variables.template, error) from error

    def check(self, *, dnsmasq: bool) -> None:
        """Try each override with samples of what it will be given.

        Args:
            dnsmasq: Whether dnsmasq is here to be asked what it thinks of its configuration.

        Raises:
            SettingsInvalid: One cannot be used; the error names its file, the line and the cause.
        """
        for name in self._overrides:
            # A part is tried with those that it is part of.
            for sample in SAMPLES if name in _PARTS else (s for s in SAMPLES if s.template == name):
                text = self.render(sample)
                for test in _TESTS.get(sample.template, ()):
                    if problem := test(text):
                        raise SettingsInvalid(
                            f"template {self._overrides[name]}: {problem}", next_step=_NEXT_STEP
                        )
                if dnsmasq and isinstance(sample, DhcpServer) and (problem := _dnsmasq_says(text)):
                    raise SettingsInvalid(
                        f"template {self._overrides[name]}: {problem}", next_step=_NEXT_STEP
                    )

    def _invalid(self, template: str, error: Exception) -> SettingsInvalid:
        """Return the error for a template, with file and line, which may be those of one that it includes."""
        names = {str(file) for file in {**self._own, **self._overrides}.values()}
        file, line = str(({**self._own, **self._overrides})[template]), None
        if isinstance(error, TemplateSyntaxError):
            file, line = error.filename or file, error.lineno
        else:
            for frame in traceback.extract_tb(error.__traceback__):
                if frame.filename in names:
                    file, line = frame.filename, frame.lineno
        where = f"template {file}" + (f", line {line}" if line else "")
        what = error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        return SettingsInvalid(f"{where}: {what}", next_step=_NEXT_STEP)


class _Once(BaseLoader):
    """Templates as they were when the service started."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._sources = {name: (_read(file), str(file)) for name, file in files.items()}

    def get_source(self, environment: Any, template: str) -> tuple[str, str, Callable[[], bool]]:
        if template not in self._sources:
            raise TemplateNotFound(template)
        return *self._sources[template], lambda: True


def quoted(value: Path | str) -> str:
    """Return a value as dnsmasq takes it whatever is in it but the end of a line."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _yaml(value: object) -> str:
    """Return a value on one line of YAML."""
    if isinstance(value, tuple):
        value = list(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _found(folder: Path, own: Mapping[str, Path]) -> dict[str, Path]:
    """Return the overrides in a folder, none of which but its owner and root may write.

    What is in them is read by dnsmasq, which can be told to run programs.
    """
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        for each in (folder, *files):
            found = each.stat()
            if found.st_uid not in (0, geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise SettingsInvalid(
                    f"setting boot.templates: others than root can write {each}",
                    next_step=f"chown root {each}; chmod go-w {each}",
                )
    except OSError as error:
        raise SettingsInvalid(
            f"setting boot.templates: {folder} cannot be read: {error.strerror}",
            next_step="correct it, or make the folder",
        ) from error
    for file in files:
        if file.name not in own:
            raise SettingsInvalid(
                f"setting boot.templates: {file} replaces no template of BMI",
                next_step=f"call it one of {', '.join(own)}; or move it elsewhere",
            )
    return {file.name: file for file in files}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as content:
            data = content.read(_SIZE + 1)
        if len(data) > _SIZE:
            raise SettingsInvalid(f"template {file} has more than {_SIZE} bytes", next_step=_NEXT_STEP)
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"template {file} cannot be read: {error}", next_step=_NEXT_STEP) from error


# --- what a text must be ---------------------------------------------------------------------------------


def _begins(words: str) -> Callable[[str], str | None]:
    def test(text: str) -> str | None:
        return None if text.startswith(f"{words}\n") else f"line 1: it does not begin with {words}"

    return test


def _is_yaml(*needed: str) -> Callable[[str], str | None]:
    def test(text: str) -> str | None:
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            return _of_rendered(
                text, mark.line + 1 if mark else 1, getattr(error, "problem", None) or "no YAML"
            )
        missing = [name for name in needed if not isinstance(found, dict) or name not in found]
        return f"it has no {missing[0]}" if missing else None

    return test


def _mentions(what: Iterable[str]) -> Callable[[str], str | None]:
    needed = tuple(what)

    def test(text: str) -> str | None:
        missing = [line for line in needed if line not in text.splitlines()]
        return f"BMI cannot do without the line {missing[0]}" if missing else None

    return test


def _dnsmasq_says(text: str) -> str | None:
    """Ask dnsmasq what is wrong with a configuration."""
    with tempfile.NamedTemporaryFile("w", prefix="bmi-dnsmasq-") as file:
        file.write(text)
        file.flush()
        try:
            run(["dnsmasq", "--test", f"--conf-file={file.name}"])
        except CommandFailed as error:
            said, _, place = error.message[-_SAID:].strip().partition(f" of {file.name}")
            words, _, number = said.rpartition(" at line ")
            if not place.strip() and number.isdigit():
                return _of_rendered(text, int(number), words.rpartition("dnsmasq: ")[2])
            return said
    return None


def _of_rendered(text: str, line: int, problem: str) -> str:
    """Say where a text is wrong: its lines are not the template's where that has loops."""
    lines = text.splitlines()
    shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return f"line {line} of what it gives, {shown!r}: {problem}"


_NEXT_STEP = "correct it, docs/templates.md says what it is given; or remove it, and BMI's own is used"
_PARTS = {part.template for part in PARTS}
_TESTS: dict[str, tuple[Callable[[str], str | None], ...]] = {
    "boot.ipxe.j2": (_begins("#!ipxe"),),
    "wait.ipxe.j2": (_begins("#!ipxe"),),
    "exit.ipxe.j2": (_begins("#!ipxe"),),
    "discovery.ipxe.j2": (_begins("#!ipxe"),),
    "dnsmasq.conf.j2": (
        _mentions(
            f'{directive}="/run/bmi/sample/{name}"'
            for directive, name in (
                ("dhcp-hostsfile", "hosts"),
                ("dhcp-optsfile", "options"),
                ("dhcp-leasefile", "leases"),
                ("log-facility", "log"),
            )
        ),
    ),
    "meta-data.j2": (_is_yaml("instance-id", "local-hostname"),),
    "network-config.j2": (_is_yaml("version"),),
    "vendor-data.j2": (_begins("#cloud-config"), _is_yaml("phone_home")),
    "forget-keys.j2": (_begins("#cloud-boothook"),),
}

OWN_TEXTS = Texts()
"""BMI's own, without overrides."""
