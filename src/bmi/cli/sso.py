"""The part of a log-in by an OpenID Connect provider that happens on the person's own computer (RFC 8252, 7.3)."""

import threading
import time
import webbrowser
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

from bmi.api.access import LogInBegin, LogInFinish, Session
from bmi.cli import output
from bmi.cli.failures import Failure
from bmi.client import Client

PATIENCE = 600.0  # seconds that a person has; the service's own limit
_PAGE = (
    b"<!doctype html><meta charset=utf-8><title>BMI</title>"
    b"<p>The command line goes on from here. You can close this page."
)


def log_in(bmi: Client, *, port: int = 0, browser: bool = True) -> Session:
    """Let a person log in at the provider, in a browser on this computer.

    Args:
        bmi: Client of the service.
        port: Where the browser comes back to on the loopback interface; any free one if 0.
        browser: Whether to open one; else the person goes to the address that is shown.

    Raises:
        Failure: The person did not come back in time, or the provider refused, or the port is taken.
        ClientError: The service refuses.
    """
    came: dict[str, str] = {}

    class Back(BaseHTTPRequestHandler):
        """Takes what the browser brings back."""

        timeout = 10

        def do_GET(self) -> None:
            """Take the answer, and say that the page is not needed any more."""
            url = urlsplit(self.path)
            answer = dict(parse_qsl(url.query))
            ours = url.path == "/" and {"code", "error"} & answer.keys() and "state" in answer
            if ours:
                came.update(answer)
            self.send_response(200 if ours else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(_PAGE if ours else b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the address has the code in it."""

    try:
        server = HTTPServer(("127.0.0.1", port), Back)
    except OSError as error:
        raise Failure(
            f"port {port} of this computer cannot be used: {error.strerror}", next_step="give another --port"
        ) from error
    with server:
        begun = bmi.begin_log_in(LogInBegin(redirect_uri=f"http://127.0.0.1:{server.server_port}/"))
        output.note(f"log in with your browser, on this computer:\n  {begun.url}")
        if browser:
            threading.Thread(target=webbrowser.open, args=(begun.url,), daemon=True).start()
        end = time.monotonic() + PATIENCE
        while not came:
            server.timeout = end - time.monotonic()
            if server.timeout <= 0:
                raise Failure(f"nobody logged in within {PATIENCE:g} s", next_step="try again")
            server.handle_request()
    if "code" not in came:
        raise Failure(
            f"the provider refuses the log-in: {came['error']!r}", next_step="try again, or ask an admin"
        )
    return bmi.finish_log_in(
        LogInFinish(handle=begun.handle, code=came["code"], state=came["state"], iss=came.get("iss"))
    )
