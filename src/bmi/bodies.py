"""Bounds what a request's body may be, before anything of it is looked at."""

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Takes a request's body in before the application sees the request, or refuses it."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        refusal: Callable[[], Response],
        *,
        spared: Callable[[Scope], bool] = lambda scope: False,
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            limit: Bytes of a body.
            refusal: Makes the answer to a request with a larger one.
            spared: Says whether a request's body goes to the application as it comes, however large it is.
        """
        self._app = app
        self._limit = limit
        self._refusal = refusal
        self._spared = spared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or self._spared(scope):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # whoever asked went away
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                refusal = self._refusal()
                refusal.headers["connection"] = "close"  # the rest is not read
                await refusal(scope, receive, send)
                return
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            message, whole = whole, None
            return message or await receive()

        await self._app(scope, replay, send)
