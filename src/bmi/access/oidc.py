"""Log-in by an OpenID Connect provider, with the authorization code flow and PKCE.

The person's browser goes to the provider and comes back to a redirect URI with a code; the service exchanges the
code for an ID token and verifies that. Between the two requests the service remembers nothing: what it needs is in
a sealed handle that the client keeps.

Sources: OpenID Connect Core 1.0 (3.1), OpenID Connect Discovery 1.0, RFC 7636 (PKCE), RFC 8252 (7.3, redirects to
the loopback interface), RFC 9207 (issuer in the answer).
"""

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from bmi.api.access import Role
from bmi.errors import BadRequest, LoginRefused, ProviderUnavailable, SettingsInvalid
from bmi.settings import LOOPBACK, Oidc
from bmi.vault import Vault

HANDLE_SECONDS = 600
"""How long a log-in that was begun can be finished."""

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEPT = 3600.0  # seconds that the provider's metadata and keys are used for
_KEYS_AGAIN = 30.0  # seconds between two requests for keys, whatever key ids come in
_LEEWAY = 60  # seconds that the clocks may differ by
_MOST_BYTES = 1 << 20  # of an answer
_MOST_GROUPS = 10_000
_RANKS = (Role.VIEWER, Role.MEMBER, Role.MANAGER)
_AGAIN = "log in again: bmi login --sso"


@dataclass(frozen=True)
class Begun:
    """A log-in that waits for the person."""

    url: str
    """Where the browser goes."""
    handle: str
    """What is needed to finish; sealed."""


@dataclass(frozen=True)
class Identity:
    """Whom the provider has recognised."""

    issuer: str
    subject: str
    """Never changes and is never given to another one, unlike names."""
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Rights:
    """What somebody may do by his groups."""

    admin: bool
    roles: Mapping[str, Role]
    """By the name of the project."""


class Provider:
    """An OpenID Connect provider. May be used from many threads."""

    def __init__(self, settings: Oidc, vault: Vault) -> None:
        """Take the settings; nothing is asked yet.

        Args:
            settings: The provider's.
            vault: Seals handles.

        Raises:
            SettingsInvalid: A file that the settings name cannot be read.
        """
        self._settings = settings
        self._vault = vault
        self._secret = _secret(settings)
        self._context = _context(settings)
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys = KeySet([])
        self._asked_metadata = self._asked_keys = float("-inf")

    def begin(self, redirect_uri: str) -> Begun:
        """Begin a log-in.

        Args:
            redirect_uri: Where the provider sends the browser afterwards: a server of the client's own on the
                loopback interface.

        Raises:
            BadRequest: The redirect URI leads elsewhere.
            ProviderUnavailable: The provider does not answer as it should.
        """
        _require_loopback(redirect_uri)
        metadata = self._known_metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = metadata["authorization_endpoint"]
        remembered = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "redirect_uri": redirect_uri,
            "until": time.time() + HANDLE_SECONDS,
        }
        return Begun(
            url=f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}",
            handle=self._vault.seal(json.dumps(remembered)),
        )

    def finish(self, handle: str, *, code: str, state: str, issuer: str | None = None) -> Identity:
        """Finish a log-in, with what the provider gave the browser.

        Args:
            handle: From `begin`.
            code: The code.
            state: The state.
            issuer: The parameter `iss`, where there was one.

        Raises:
            LoginRefused: This is not the answer to what was begun, it came too late, or the provider refuses the
                code or says something that is not true.
            ProviderUnavailable: The provider does not answer as it should.
        """
        remembered = self._opened(handle)
        if not hmac.compare_digest(remembered["state"].encode(), state.encode()):
            raise LoginRefused("this is the answer to another log-in", next_step=_AGAIN)
        if issuer is not None and issuer != self._settings.issuer:
            raise LoginRefused("another provider has answered", next_step=_AGAIN)
        tokens = self._exchanged(code, remembered)
        claims = self._verified(str(tokens.get("id_token", "")), nonce=remembered["nonce"])
        if self._settings.groups_claim not in claims or self._settings.name_claim not in claims:
            claims = self._userinfo(str(tokens.get("access_token", "")), str(claims["sub"])) | claims
        return self._identity(claims)

    def rights(self, identity: Identity) -> Rights:
        """Return what somebody may do.

        Raises:
            LoginRefused: None of the groups may do anything.
        """
        granted = [
            self._settings.groups[group] for group in identity.groups if group in self._settings.groups
        ]
        if not granted:
            raise LoginRefused(
                f"{identity.name} is in no group that may use this service",
                next_step="ask an administrator for a group of the setting oidc.groups",
            )
        pairs = [(project, Role(role)) for each in granted for project, role in each.projects.items()]
        return Rights(
            admin=any(each.admin for each in granted),
            roles={project: max(_of(project, pairs), key=_RANKS.index) for project, _ in pairs},
        )

    def _opened(self, handle: str) -> dict[str, Any]:
        try:
            remembered: dict[str, Any] = json.loads(self._vault.open(handle))
        except (SettingsInvalid, ValueError):
            raise LoginRefused("that is no log-in that was begun here", next_step=_AGAIN) from None
        if (
            not isinstance(remembered, dict)
            or not {"state", "nonce", "verifier", "until"} <= remembered.keys()
        ):
            raise LoginRefused("that is no log-in that was begun here", next_step=_AGAIN)
        if remembered["until"] < time.time():
            raise LoginRefused(f"the log-in took longer than {HANDLE_SECONDS} s", next_step=_AGAIN)
        return remembered

    def _exchanged(self, code: str, remembered: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tokens for a code."""
        metadata = self._known_metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": remembered["redirect_uri"],
            "code_verifier": remembered["verifier"],
            "client_id": self._settings.client_id,
        }
        auth = None
        if self._secret is not None:
            methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
            if "client_secret_basic" in methods:
                auth = httpx2.BasicAuth(
                    quote(self._settings.client_id, safe=""), quote(self._secret, safe="")
                )
            else:
                form["client_secret"] = self._secret
        return self._asked("POST", metadata["token_endpoint"], form=form, auth=auth)

    def _verified(self, id_token: str, *, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token (OpenID Connect Core 1.0, 3.1.3.7)."""
        try:
            token = self._decoded(id_token)
            jwt.JWTClaimsRegistry(
                leeway=_LEEWAY,
                iss={"essential": True, "value": self._settings.issuer},
                aud={"essential": True, "value": self._settings.client_id},
                sub={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            ).validate(token)
        except (JoseError, ValueError) as error:
            # The name of the error and no more: its text may quote the token.
            claim = getattr(error, "claim", None)  # a name that is asked for above
            raise self._untrue(type(error).__name__ + (f", claim {claim}" if claim else "")) from None
        audience = token["aud"]
        several = isinstance(audience, list) and len(audience) > 1
        if token.get("azp", None if several else self._settings.client_id) != self._settings.client_id:
            raise self._untrue("it was made for another client")
        return token

    def _decoded(self, id_token: str) -> dict[str, Any]:
        try:
            return jwt.decode(id_token, self._known_keys(), algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError):  # keys change now and then
            return jwt.decode(id_token, self._known_keys(again=True), algorithms=_ALGORITHMS).claims

    def _userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        endpoint = self._known_metadata().get("userinfo_endpoint")
        if not isinstance(endpoint, str):
            return {}
        claims = self._asked("GET", endpoint, headers={"Authorization": f"Bearer {access_token}"})
        if claims.get("sub") != subject:  # OpenID Connect Core 1.0, 5.3.2
            raise self._untrue("its userinfo is about somebody else")
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject, name = claims.get("sub"), claims.get(self._settings.name_claim)
        groups = claims.get(self._settings.groups_claim, [])
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise self._untrue("it has no subject that can be kept")
        if not isinstance(name, str):
            raise self._untrue(f"claim {self._settings.name_claim} is missing or no text")
        if isinstance(groups, str):
            groups = [groups]
        if not isinstance(groups, list) or len(groups) > _MOST_GROUPS:
            raise self._untrue(f"claim {self._settings.groups_claim} is no list of names")
        named = tuple(group for group in groups if isinstance(group, str))
        return Identity(self._settings.issuer, subject, name, named)

    def _known_metadata(self) -> dict[str, Any]:
        """Return what the provider says of itself (OpenID Connect Discovery 1.0, 4)."""
        with self._lock:
            if time.monotonic() - self._asked_metadata < _KEPT:
                return self._metadata
            url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = self._asked("GET", url)
            if found.get("issuer") != self._settings.issuer:
                raise self._unavailable(
                    "it calls itself otherwise",
                    "correct oidc.issuer: it must be the same to the last character",
                )
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
                if name != "userinfo_endpoint" or name in found:
                    self._require_safe(name, found.get(name))
            self._metadata, self._asked_metadata = found, time.monotonic()
            return found

    def _known_keys(self, *, again: bool = False) -> KeySet:
        url = self._known_metadata()["jwks_uri"]
        with self._lock:
            age = time.monotonic() - self._asked_keys
            if age < (_KEYS_AGAIN if again else _KEPT):
                return self._keys
            found = self._asked("GET", url)
            try:
                # Only what this can verify with: others may have kinds of keys that it does not know.
                known = [key for key in found["keys"] if key.get("kty") in ("RSA", "EC", "OKP")]
                self._keys = KeySet.import_key_set({"keys": known})
            except (JoseError, LookupError, TypeError, ValueError, AttributeError):
                raise self._unavailable("its keys cannot be read", "ask whoever runs it") from None
            self._asked_keys = time.monotonic()
            return self._keys

    def _require_safe(self, name: str, url: object) -> None:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or not (parts.scheme == "https" or parts.hostname in LOOPBACK):
            raise self._unavailable(f"its {name} is no https URL", "ask whoever runs it")

    def _asked(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx2.BasicAuth | None = None,
    ) -> dict[str, Any]:
        """Return the provider's answer in JSON."""
        timeout = self._settings.timeout
        end = time.monotonic() + timeout
        content = bytearray()
        try:
            with (
                httpx2.Client(verify=self._context, timeout=timeout, trust_env=False) as client,
                client.stream(method, url, data=form, headers=headers, auth=auth) as answer,
            ):
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > _MOST_BYTES or time.monotonic() > end:
                        raise self._unavailable("its answer does not end", "ask whoever runs it")
        except httpx2.HTTPError as error:
            why = f"{urlsplit(url).netloc}: {type(error).__name__}"
            raise self._unavailable(why, "check oidc.issuer, its network and its certificate") from error
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if method == "POST" and answer.status_code in (400, 401) and isinstance(found, dict):
            # RFC 6749, 5.2; the description may hold anything and is left out
            raise LoginRefused(
                f"the provider refuses the log-in: {_word(found.get('error'))}", next_step=_AGAIN
            )
        if answer.status_code != 200 or not isinstance(found, dict):
            raise self._unavailable(
                f"{urlsplit(url).path} answers with status {answer.status_code}", "ask whoever runs it"
            )
        return found

    def _unavailable(self, why: str, next_step: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"the OpenID Connect provider {self._settings.issuer} cannot be used: {why}", next_step=next_step
        )

    def _untrue(self, why: str) -> LoginRefused:
        return LoginRefused(f"the provider's answer cannot be believed: {why}", next_step=_AGAIN)


def _require_loopback(redirect_uri: str) -> None:
    try:
        url = urlsplit(redirect_uri)
        fits = url.scheme == "http" and url.hostname in LOOPBACK and url.port is not None and not url.username
    except ValueError:
        fits = False
    if not fits or url.query or url.fragment:
        raise BadRequest(
            "that redirect URI is not on the loopback interface", next_step="give http://127.0.0.1:PORT/"
        )


def _of(project: str, pairs: Iterable[tuple[str, Role]]) -> list[Role]:
    return [role for name, role in pairs if name == project]


def _word(value: object) -> str:
    """Return an error code as it may be shown."""
    return (
        value if isinstance(value, str) and value.replace("_", "").isalnum() and len(value) < 60 else "error"
    )


def _secret(settings: Oidc) -> str | None:
    if settings.client_secret_file is None:
        return None
    try:
        return settings.client_secret_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"oidc.client_secret_file {settings.client_secret_file} cannot be read: {type(error).__name__}",
            next_step="check that it is there, its owner and its mode",
        ) from None


def _context(settings: Oidc) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsInvalid(
            f"oidc.ca_file {settings.ca_file} cannot be used: {type(error).__name__}",
            next_step="name a PEM file of certificates",
        ) from None
