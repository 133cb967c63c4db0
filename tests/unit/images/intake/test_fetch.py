"""Fetching from a real HTTP server that misbehaves in every way that one does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

import pytest

from bmi.errors import FetchFailed, FetchRefused, StorageFull
from bmi.images.intake import fetch
from bmi.images.intake.space import Room

DATA = bytes(range(256)) * 4096
LOCAL = [ip_network("127.0.0.0/8")]


class Server(ThreadingHTTPServer):
    """Answers each request with the next of what it was told."""

    def __init__(self, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/disk.raw"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append({name.lower(): value for name, value in self.headers.items()})
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "content_length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return send


def broken(count: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Promise everything and break off."""
    return answer(200, DATA[:count], content_length=str(len(DATA)), **headers)


def rest(handler: BaseHTTPRequestHandler) -> None:
    start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    answer(206, DATA[start:], Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")(handler)


@contextmanager
def serving(*answers: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Server]:
    with Server(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PAUSE", 0.01)


def got(url: str, folder: Path, *, networks: object = LOCAL, most: int = 1 << 30, reserve: int = 0) -> bytes:
    bounds = fetch.Bounds(most, 30, Room(folder, reserve), networks)  # type: ignore[arg-type]
    destination = folder / "source"
    assert fetch.fetch(url, destination, bounds, lambda done, total: None) == destination.stat().st_size
    return destination.read_bytes()


def test_a_file_is_fetched(tmp_path: Path) -> None:
    with serving(answer(200, DATA)) as server:
        assert got(server.url, tmp_path) == DATA
        assert server.asked[0]["host"] == f"127.0.0.1:{server.server_port}"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_broken_connection_is_gone_on_with(tmp_path: Path) -> None:
    with serving(broken(300_000, ETag='"v1"'), rest) as server:
        assert got(server.url, tmp_path) == DATA
        again = server.asked[1]
        assert again["if-range"] == '"v1"'
        assert again["range"].startswith("bytes=")


def test_a_file_that_changed_is_fetched_anew(tmp_path: Path) -> None:
    with serving(broken(300_000, ETag='"v1"'), answer(200, DATA[::-1], ETag='"v2"')) as server:
        assert got(server.url, tmp_path) == DATA[::-1]


def test_without_a_version_nothing_is_stuck_together(tmp_path: Path) -> None:
    with serving(broken(300_000), answer(200, DATA)) as server:
        assert got(server.url, tmp_path) == DATA
        assert "range" not in server.asked[1]


def test_a_part_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    other = answer(206, DATA[5:], Content_Range=f"bytes 5-{len(DATA) - 1}/{len(DATA)}")
    with (
        serving(broken(300_000, ETag='"v1"'), other) as server,
        pytest.raises(FetchRefused, match="another part"),
    ):
        got(server.url, tmp_path)


def test_redirects_are_followed_and_checked(tmp_path: Path) -> None:
    with serving(answer(302, Location="/elsewhere"), answer(200, DATA)) as server:
        assert got(server.url, tmp_path) == DATA
    with (
        serving(answer(302, Location="http://10.255.255.1/metadata")) as server,
        pytest.raises(FetchRefused, match=r"10.255.255.1 leads to an address that is not public"),
    ):
        got(server.url, tmp_path)
    with (
        serving(answer(302, Location="file:///etc/passwd")) as server,
        pytest.raises(FetchRefused, match="not a URL of http or https"),
    ):
        got(server.url, tmp_path)
    with (
        serving(answer(302, Location="/again")) as server,
        pytest.raises(FetchRefused, match="redirects more than 5 times"),
    ):
        got(server.url, tmp_path)


def test_what_is_not_public_is_refused(tmp_path: Path) -> None:
    with serving(answer(200, DATA)) as server, pytest.raises(FetchRefused, match="not public"):
        got(server.url, tmp_path, networks=())
        assert server.asked == []


def test_too_much_is_refused_whether_it_is_told_or_not(tmp_path: Path) -> None:
    with serving(answer(200, DATA)) as server, pytest.raises(FetchRefused, match="are allowed"):
        got(server.url, tmp_path, most=1000)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA)

    with serving(endless) as server, pytest.raises(FetchRefused, match="are allowed"):
        got(server.url, tmp_path, most=len(DATA) - 1)
    with serving(answer(200, DATA)) as server, pytest.raises(StorageFull):
        got(server.url, tmp_path, reserve=1 << 60)


@pytest.mark.parametrize(
    ("status", "error"), [(404, FetchRefused), (401, FetchRefused), (503, FetchFailed), (500, FetchFailed)]
)
def test_refusals_of_the_server_are_told(tmp_path: Path, status: int, error: type[Exception]) -> None:
    with serving(answer(status)) as server, pytest.raises(error, match=str(status)):
        got(server.url + "?key=secret", tmp_path)


def test_a_server_that_breaks_off_again_and_again_is_given_up(tmp_path: Path) -> None:
    with serving(broken(0)) as server, pytest.raises(FetchFailed, match="does not give the file"):
        got(server.url, tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", "not a URL of http or https"),
        ("ftp://host/x", "not a URL of http or https"),
        ("https://", "not a URL of http or https"),
        ("https://me:secret@host/x", "a user or a password in it"),
        ("http://[::1/x", "no URL"),
    ],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(FetchRefused, match=said) as failure:
        fetch.checked(url)
    assert "secret" not in str(failure.value)


def test_keys_in_urls_are_not_shown() -> None:
    assert fetch.shown("https://host/x?signature=abc#y") == "https://host/x"
