"""A provider that lies, or whose answers somebody else made, lets nobody in."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from bmi.access.oidc import HANDLE_SECONDS, Begun, Identity, Provider
from bmi.api.access import Role
from bmi.errors import BadRequest, LoginRefused, ProviderUnavailable, SettingsInvalid
from bmi.settings import Oidc
from bmi.vault import Vault

REDIRECT = "http://127.0.0.1:7/"
CLIENT = "bmi"
KEY, STRANGE = (RSAKey.generate_key(2048, {"kid": "one"}) for _ in range(2))


@dataclass
class Liar:
    """A provider that answers as a test says."""

    url: str
    key: RSAKey = field(default_factory=lambda: KEY)
    metadata: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    token: Callable[[dict[str, Any]], str] | None = None
    userinfo: dict[str, Any] | None = None
    raw: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if path in self.raw:
            return self.raw[path]
        return 200, json.dumps(self._answer(path)).encode()

    def _answer(self, path: str) -> dict[str, Any]:
        match path:
            case "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "auth", "token_endpoint": "token", "jwks_uri": "keys"}
                if self.userinfo is not None:
                    names["userinfo_endpoint"] = "me"
                urls = {name: f"{self.url}/{end}" for name, end in names.items()}
                return {"issuer": self.url, **urls, **self.metadata}
            case "/keys":
                return KeySet([*(self.keys or [self.key])]).as_dict(private=False)
            case "/token":
                sign = self.token or (
                    lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
                )
                return {"access_token": "a", "token_type": "Bearer", "id_token": sign(self.claims)}
            case "/me":
                return self.userinfo or {}
            case _:
                raise AssertionError(path)


@pytest.fixture
def liar() -> Iterator[Liar]:
    class Handler(BaseHTTPRequestHandler):
        provider: ClassVar[Liar]

        def do_GET(self) -> None:
            status, content = self.provider.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.provider = found = Liar(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def provider(liar: Liar, tmp_path: Path) -> Provider:
    settings = Oidc(issuer=liar.url, client_id=CLIENT, groups={"g": {"projects": {"red": "viewer"}}})  # type: ignore[dict-item]
    return Provider(settings, Vault(tmp_path / "key"))


def asked_for(begun: Begun) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(begun.url).query).items()}


def tried(liar: Liar, provider: Provider, **claims: Any) -> Identity:
    """Log in, with claims that are otherwise; those that are None are left out."""
    begun = provider.begin(REDIRECT)
    query = asked_for(begun)
    now = int(time.time())
    good = {
        "iss": liar.url,
        "aud": CLIENT,
        "sub": "1",
        "exp": now + 60,
        "iat": now,
        "nonce": query["nonce"],
        "preferred_username": "ann",
        "groups": ["g"],
    }
    liar.claims = {name: value for name, value in (good | claims).items() if value is not None}
    return provider.finish(begun.handle, code="c", state=query["state"])


def test_what_is_true_is_believed(liar: Liar, provider: Provider) -> None:
    assert tried(liar, provider) == Identity(liar.url, "1", "ann", ("g",))
    assert tried(liar, provider, aud=[CLIENT, "other"], azp=CLIENT).subject == "1"
    assert tried(liar, provider, groups="g").groups == ("g",)
    liar.userinfo = {"sub": "1", "groups": ["g", "h"], "preferred_username": "mallory"}
    provider._asked_metadata = float("-inf")
    found = tried(liar, provider, groups=None)
    assert (found.name, found.groups) == ("ann", ("g", "h"))  # what the token says comes first


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://other.example"}, "claim iss"),
        ({"aud": "other"}, "claim aud"),
        ({"aud": None}, "claim aud"),
        ({"aud": [CLIENT, "other"]}, "another client"),
        ({"azp": "other"}, "another client"),
        ({"exp": 1}, "claim exp"),
        ({"exp": None}, "claim exp"),
        ({"iat": 1 << 40}, "claim iat"),
        ({"nonce": "other"}, "claim nonce"),
        ({"nonce": None}, "claim nonce"),
        ({"sub": None}, "claim sub"),
        ({"sub": "x" * 256}, "no subject"),
        ({"preferred_username": None}, "preferred_username"),
        ({"preferred_username": 7}, "preferred_username"),
        ({"groups": {"g": 1}}, "claim groups"),
    ],
    ids=str,
)
def test_what_is_not_true_is_refused(
    liar: Liar, provider: Provider, claims: dict[str, Any], why: str
) -> None:
    with pytest.raises(LoginRefused, match=why):
        tried(liar, provider, **claims)


def by_hand(header: dict[str, str], claims: dict[str, Any], key: bytes | None) -> str:
    """Sign as no library would."""

    def encoded(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{text}.{encoded(hmac.digest(key, text.encode(), 'sha256')) if key else ''}"


def test_only_the_keys_of_the_provider_sign(liar: Liar, provider: Provider) -> None:
    public = liar.key.as_pem(private=False)
    forged: list[Callable[[dict[str, Any]], str]] = [
        lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, STRANGE),
        lambda claims: jwt.encode({"alg": "RS256", "kid": "two"}, claims, STRANGE),
        # The public key as a shared secret: what anybody has would sign.
        lambda claims: by_hand({"alg": "HS256", "kid": "one"}, claims, public),
        lambda claims: by_hand({"alg": "none", "kid": "one"}, claims, None),
        lambda claims: by_hand({"alg": "none"}, claims, None),
        lambda claims: "not.a.token",
        lambda claims: "",
    ]
    for sign in forged:
        liar.token = sign
        with pytest.raises(LoginRefused, match="cannot be believed"):
            tried(liar, provider)


def test_new_keys_are_fetched_but_not_for_every_strange_token(liar: Liar, provider: Provider) -> None:
    tried(liar, provider)
    new = ECKey.generate_key("P-256", {"kid": "new"})
    liar.keys = [new]
    liar.token = lambda claims: jwt.encode({"alg": "ES256", "kid": "new"}, claims, new)
    for _ in range(3):
        with pytest.raises(LoginRefused):
            tried(liar, provider)
    assert liar.asked.count("/keys") == 1  # it asked a moment ago
    provider._asked_keys -= 31
    assert tried(liar, provider).subject == "1"
    assert liar.asked.count("/keys") == 2


def test_userinfo_about_somebody_else_is_refused(liar: Liar, provider: Provider) -> None:
    liar.userinfo = {"sub": "2", "groups": ["g"]}
    with pytest.raises(LoginRefused, match="somebody else"):
        tried(liar, provider, groups=None)


@pytest.mark.parametrize("handle", ["", "x", "gAAAAABm", "{}"])
def test_handles_are_not_made_elsewhere(provider: Provider, handle: str) -> None:
    with pytest.raises(LoginRefused, match="begun here"):
        provider.finish(handle, code="c", state="s")


def test_sealed_things_that_are_no_handles_are_refused(provider: Provider) -> None:
    for secret in ("a CHAP secret", "[]", "{}", "null", '{"state": 1}'):
        with pytest.raises(LoginRefused, match="begun here"):
            provider.finish(provider._vault.seal(secret), code="c", state="s")


def test_a_log_in_that_waited_too_long_is_refused(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = provider.begin(REDIRECT)
    later = time.time() + HANDLE_SECONDS + 1
    monkeypatch.setattr("bmi.access.oidc.time.time", lambda: later)
    with pytest.raises(LoginRefused, match="took longer"):
        provider.finish(begun.handle, code="c", state=asked_for(begun)["state"])


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/",
        "http://evil.example:1/",
        "http://127.0.0.1/",
        "http://127.0.0.1:1/?x=1",
        "http://127.0.0.1:1/#x",
        "http://u@127.0.0.1:1/",
        "http://127.0.0.1.evil.example:1/",
        "http://[::1",
        "http://localhost:99999/",
        "javascript:alert(1)",
        "",
    ],
)
def test_browsers_are_sent_nowhere_else(provider: Provider, uri: str) -> None:
    with pytest.raises(BadRequest, match="loopback"):
        provider.begin(uri)


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/.well-known/openid-configuration", (500, b""), "status 500"),
        ("/.well-known/openid-configuration", (200, b"<html>"), "status 200"),
        ("/.well-known/openid-configuration", (200, b"[]"), "status 200"),
        ("/.well-known/openid-configuration", (200, b" " * (2 << 20)), "does not end"),
        ("/.well-known/openid-configuration", (302, b""), "status 302"),
        ("/keys", (200, b"{}"), "keys cannot be read"),
        ("/keys", (200, b'{"keys": [{"kty": "RSA"}]}'), "keys cannot be read"),
        ("/token", (502, b"{}"), "status 502"),
    ],
)
def test_a_provider_that_is_broken_is_named(
    liar: Liar, provider: Provider, path: str, answer: tuple[int, bytes], why: str
) -> None:
    liar.raw[path] = answer
    with pytest.raises(ProviderUnavailable, match=why) as found:
        tried(liar, provider)
    assert liar.url in str(found.value)


def test_what_the_provider_says_of_its_refusal_is_not_shown(liar: Liar, provider: Provider) -> None:
    liar.raw["/token"] = (400, b'{"error": "<script>", "error_description": "s3cret"}')
    with pytest.raises(LoginRefused, match=r"refuses the log-in: error;") as found:
        tried(liar, provider)
    assert "s3cret" not in str(found.value)


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
def test_endpoints_are_not_read_by_others_on_the_way(liar: Liar, provider: Provider, name: str) -> None:
    liar.metadata[name] = "http://sso.example/x"
    with pytest.raises(ProviderUnavailable, match=name):
        provider.begin(REDIRECT)


def test_a_provider_that_is_not_there_is_named(liar: Liar, tmp_path: Path) -> None:
    settings = Oidc(issuer="http://127.0.0.1:9", client_id=CLIENT)
    with pytest.raises(ProviderUnavailable, match=r"127\.0\.0\.1:9: ConnectError"):
        Provider(settings, Vault(tmp_path / "key")).begin(REDIRECT)


def test_the_highest_role_of_all_groups_counts(tmp_path: Path) -> None:
    settings = Oidc.model_validate(
        {
            "issuer": "https://sso.example",
            "client_id": CLIENT,
            "groups": {
                "a": {"projects": {"red": "viewer", "blue": "manager"}},
                "b": {"projects": {"red": "member"}},
                "c": {"admin": True},
            },
        }
    )
    provider = Provider(settings, Vault(tmp_path / "key"))
    rights = provider.rights(Identity("i", "1", "ann", ("a", "b", "unknown")))
    assert (rights.admin, rights.roles) == (False, {"red": Role.MEMBER, "blue": Role.MANAGER})
    assert provider.rights(Identity("i", "1", "ann", ("c",))).admin
    with pytest.raises(LoginRefused, match="ann is in no group"):
        provider.rights(Identity("i", "1", "ann", ("unknown",)))


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for name in ("client_secret_file", "ca_file"):
        settings = Oidc.model_validate(
            {"issuer": "https://sso.example", "client_id": "x", name: tmp_path / "none"}
        )
        with pytest.raises(SettingsInvalid, match=name):
            Provider(settings, Vault(tmp_path / "key"))


@pytest.mark.parametrize(
    "issuer", ["http://sso.example", "ftp://sso.example", "https://sso.example/?x=1", ""]
)
def test_issuers_are_https(issuer: str) -> None:
    with pytest.raises(ValueError, match="issuer"):
        Oidc(issuer=issuer, client_id="x")
