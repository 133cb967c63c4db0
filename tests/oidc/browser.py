"""Starts the provider, and does what a person with a browser does there."""

import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx2

from bmi.settings import Oidc
from bmi.wait import wait_until
from tests.databases import free_port

_UV = Path(__file__).parents[2] / ".tools" / "bin" / "uv"
_SCRIPT = Path(__file__).with_name("provider.py")
_PAGES = 12  # that a log-in has at the most
START = 180.0  # seconds; the first start fetches its packages


@dataclass(frozen=True)
class Running:
    """A provider that runs."""

    settings: Oidc
    redirect_uri: str
    password: str
    process: "subprocess.Popen[bytes]"

    def visit(self, url: str, person: str, *, password: str | None = None) -> dict[str, str]:
        """Log in there as a person, allow what is asked for, and return the query of the redirect URI.

        Raises:
            AssertionError: It does not send the browser back.
        """
        time.sleep(1)  # what it gives to one person twice within a second is the same, and then it fails
        answers = {"login": person, "password": password or self.password}
        with httpx2.Client(trust_env=False, timeout=30) as browser:
            page = browser.get(url)
            for _ in range(_PAGES):
                if page.has_redirect_location:
                    to = urljoin(str(page.url), page.headers["location"])
                    if to.startswith(self.redirect_uri):
                        return dict(parse_qsl(urlsplit(to).query))
                    page = browser.get(to)
                    continue
                page = browser.post(page.url, data=_filled(page.text, answers))
        raise AssertionError(f"the provider does not let {person} in:\n{_text(page.text)}")


@contextmanager
def provider(port: int | None = None) -> Iterator[Running]:
    """Run a provider with BMI as a client.

    Args:
        port: Where; a free one if None.
    """
    port, back = port or free_port(), f"http://127.0.0.1:{free_port()}/"
    folder = Path(tempfile.mkdtemp(prefix="bmi-oidc-"))
    password = secrets.token_urlsafe(12)
    try:
        (folder / "password").write_text(password)
        (folder / "secret").write_text(secrets.token_urlsafe(24))
        words = [_UV, "run", "--quiet", "--script", "--locked", "--python", sys.executable, _SCRIPT]
        log = folder / "log"
        with (
            log.open("wb") as out,
            subprocess.Popen([*words, str(port), str(folder), back], stdout=out, stderr=out) as process,
        ):
            try:
                wait_until(
                    lambda: process.poll() is not None or _answers(port),
                    deadline=START,
                    what="the provider to start",
                    next_step="see its output",
                )
                assert process.poll() is None, log.read_text()
                yield Running(_settings(port, folder), back, password, process)
            finally:
                process.terminate()
    finally:
        shutil.rmtree(folder)


def _settings(port: int, folder: Path) -> Oidc:
    return Oidc.model_validate(
        {
            "issuer": f"http://localhost:{port}",
            "client_id": "bmi-client",
            "client_secret_file": folder / "secret",
            "groups": {
                "operators": {"admin": True},
                "red-team": {"projects": {"red": "member"}},
            },
        }
    )


def _answers(port: int) -> bool:
    try:
        url = f"http://localhost:{port}/.well-known/openid-configuration"
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def _filled(html: str, answers: dict[str, str]) -> dict[str, str]:
    """Return what a person sends from a page: hidden fields, what he is asked for, and the button that agrees."""
    sent: dict[str, str] = {}
    for tag in re.findall(r"<(?:input|button)\b[^>]*>", html):
        found = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', tag)}
        name = found.get("name")
        if name in answers:
            sent[name] = answers[name]
            continue
        agrees = name == "answer" and found.get("value") in (None, "", "accept")
        if name is not None and (agrees or found.get("type") == "hidden"):
            sent[name] = found.get("value", "")
    return sent


def _text(html: str) -> str:
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"<[^>]*>", "", html))
