"""Calls about tokens."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.access import Token, TokenCreate, TokenSecret
from bmi.client.transport import Transport


class Tokens:
    """API keys."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: TokenCreate) -> TokenSecret:
        """Make a token; its secret is in the answer and cannot be had again."""
        return self._transport.call("POST", ["tokens"], TokenSecret, body=request)

    def list(self, *, limit: int | None = None) -> Iterator[Token]:
        """Go through the tokens, without their secrets."""
        return self._transport.items(["tokens"], Token, limit=limit)

    def revoke(self, token: str | UUID) -> None:
        """Make a token, by name or id, useless from now on."""
        self._transport.done("DELETE", ["tokens", token])
