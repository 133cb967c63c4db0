"""Secrets of tokens and sessions: made here, and kept as digests only."""

import hashlib
import secrets

TOKEN = "bmi_"  # noqa: S105 - how a token begins
SESSION = "bmis_"
"""How the secret of a session begins."""


def new_secret(kind: str = TOKEN) -> str:
    """Return a secret that nobody can guess: 256 random bits."""
    return kind + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Return what is kept of a secret. It is random, so there is nothing to gain from a slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
