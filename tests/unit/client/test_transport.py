import socket
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from bmi.api.access import ProjectCreate, Role, TokenCreate
from bmi.api.nodes import BmcCreate, Nic, NodeCreate, Provision
from bmi.client import (
    AnswerInvalid,
    ApiError,
    Client,
    ConnectionLost,
    NameInvalid,
    ProfileInvalid,
    Unreachable,
)
from tests.unit.client.fake_service import NAMED, Answer, Service, node, operation, page, problem


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> Client:
    return Client("http://bmi.example", "sesame", transport=httpx2.MockTransport(answer))


def test_sends_token_and_body_and_returns_typed_answer(service: Service) -> None:
    service.on("POST", "/projects", Answer(NAMED, status=201))
    with Client(service.url, "sesame") as bmi:
        made = bmi.projects.create(ProjectCreate(name="blue"))
    assert made.name == "blue"
    assert service.asked[0].token == "sesame"
    assert service.asked[0].body == {"name": "blue"}


def test_proxy_of_the_environment_is_not_asked_for_this_host(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    service.on("GET", "/version", Answer({"version": "9.9"}))
    with Client(service.url) as bmi:
        assert bmi.version().version == "9.9"
    # Elsewhere it is, so that the test says something.
    with Client("http://bmi.invalid") as bmi, pytest.raises(Unreachable, match="connection refused"):
        bmi.version()


def test_version_needs_no_token(service: Service) -> None:
    service.on("GET", "/version", Answer({"version": "9.9"}))
    with Client(service.url) as bmi:
        assert bmi.version().version == "9.9"
    assert service.asked[0].token is None


def test_newer_fields_of_the_answer_are_ignored() -> None:
    bmi = client(lambda _: httpx2.Response(200, json={**NAMED, "colour": "blue"}))
    assert bmi.projects.get("blue").name == "blue"


def test_only_fields_that_were_set_are_sent(service: Service) -> None:
    service.on("POST", "/nodes/n1/provision", Answer(operation("queued"), status=202))
    with Client(service.url, "sesame", project="blue") as bmi:
        bmi.nodes.provision("n1", Provision(image="debian", disk=None, network="lan"))
    # A service of an older release refuses fields that it does not know.
    assert service.asked[0].body == {"image": "debian", "network": "lan", "project": "blue"}


def test_project_named_in_request_wins_over_the_clients(service: Service) -> None:
    service.on("POST", "/nodes/n1/provision", Answer(operation("queued"), status=202))
    with Client(service.url, "sesame", project="blue") as bmi:
        bmi.nodes.provision("n1", Provision(image="debian", network="lan", project="red"))
    assert service.asked[0].body["project"] == "red"


def test_password_reaches_the_service_unmasked(service: Service) -> None:
    service.on("POST", "/nodes", Answer(node(), status=201))
    request = NodeCreate.model_validate(
        {
            "name": "n1",
            "bmc": BmcCreate.model_validate({"address": "https://10.0.0.11", "password": "geheim"}),
            "nics": [Nic(mac="52:54:00:00:00:01", switch="tor1", port="7")],
        }
    )
    with Client(service.url, "sesame") as bmi:
        bmi.nodes.register(request)
    assert service.asked[0].body["bmc"]["password"] == "geheim"


def test_moments_are_sent_with_their_zone(service: Service) -> None:
    service.on("POST", "/tokens", problem(409, "already-exists", "token ci exists"))
    request = TokenCreate.model_validate(
        {"name": "ci", "role": Role.MEMBER, "expires_at": "2027-01-31T00:00:00Z"}
    )
    with Client(service.url, "sesame") as bmi, pytest.raises(ApiError):
        bmi.tokens.create(request)
    assert service.asked[0].body == {
        "name": "ci",
        "role": "member",
        "expires_at": "2027-01-31T00:00:00+00:00",
    }


def test_problem_becomes_one_line(service: Service) -> None:
    service.on(
        "GET", "/images/nix", problem(404, "not-found", "there is no image\nnix", "see `bmi image list`")
    )
    with Client(service.url, "sesame", project="blue") as bmi, pytest.raises(ApiError) as caught:
        bmi.images.get("nix")
    assert str(caught.value) == "there is no image nix; see `bmi image list`"
    assert caught.value.code == "not-found"
    assert caught.value.status == 404
    assert service.asked[0].query == {"project": "blue"}


def test_error_that_is_no_problem_document_is_not_bmi() -> None:
    bmi = client(lambda _: httpx2.Response(404, html="<h1>nginx</h1>"))
    with pytest.raises(AnswerInvalid, match=r"does not answer as BMI does: 404 Not Found"):
        bmi.whoami()


def test_proxy_without_service_behind_it_is_unavailable() -> None:
    bmi = client(lambda _: httpx2.Response(502, html="<h1>Bad Gateway</h1>"))
    with pytest.raises(ApiError, match="answers 502 Bad Gateway; try again") as caught:
        bmi.whoami()
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"token": 1}'])
def test_answer_that_is_not_understood_is_not_bmi(content: bytes) -> None:
    bmi = client(lambda _: httpx2.Response(200, content=content))
    with pytest.raises(AnswerInvalid, match="check BMI_URL"):
        bmi.whoami()


def test_redirect_is_not_followed_with_the_token() -> None:
    bmi = client(lambda _: httpx2.Response(307, headers={"Location": "http://evil.example/"}))
    with pytest.raises(AnswerInvalid, match="307"):
        bmi.whoami()


def test_refused_connection_names_url_cause_and_next_step() -> None:
    with socket.socket() as taken:
        # Bound, but not listening: the port is ours, and refuses.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, "sesame") as bmi, pytest.raises(Unreachable) as caught:
            bmi.whoami()
    assert str(caught.value) == (
        f"{url} does not answer: connection refused; start the service with `bmi serve`, or check BMI_URL"
    )


def test_unknown_certificate_says_what_to_do() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", request=request
        )

    with pytest.raises(Unreachable, match="SSL_CERT_FILE"):
        client(refuse).whoami()


def test_lost_connection_after_a_change_warns_that_it_may_be_done(service: Service) -> None:
    def cut(asked: Any) -> Answer:
        raise ConnectionResetError

    service.on("POST", "/projects", cut)
    service.on("GET", "/whoami", cut)
    with Client(service.url, "sesame") as bmi:
        with pytest.raises(ConnectionLost, match="look before you try again"):
            bmi.projects.create(ProjectCreate(name="blue"))
        with pytest.raises(ConnectionLost, match=r"; try again$"):
            bmi.whoami()


def test_lists_go_from_page_to_page(service: Service) -> None:
    pages = {None: page(node("n1"), node("n2"), next="c1"), "c1": page(node("n3"), next="c2"), "c2": page()}
    service.on("GET", "/nodes", lambda asked: pages[asked.query.get("cursor")])
    with Client(service.url, "sesame") as bmi:
        assert [one.name for one in bmi.nodes.list()] == ["n1", "n2", "n3"]
    assert len(service.asked) == 3


def test_limit_ends_the_list_without_further_pages(service: Service) -> None:
    service.on("GET", "/nodes", page(node("n1"), node("n2"), node("n3"), next="c1"))
    with Client(service.url, "sesame") as bmi:
        assert [one.name for one in bmi.nodes.list(limit=2)] == ["n1", "n2"]
    assert [one.query for one in service.asked] == [{"limit": "2"}]


def test_list_that_goes_in_circles_is_an_error(service: Service) -> None:
    service.on("GET", "/nodes", page(node(), next="same"))
    with Client(service.url, "sesame") as bmi, pytest.raises(AnswerInvalid, match="no end"):
        list(bmi.nodes.list())


def test_name_cannot_lead_to_another_resource() -> None:
    paths: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.raw_path)
        return httpx2.Response(204)

    client(answer).nodes.delete("../projects/blue?x=1#y")
    assert paths == [b"/v1/nodes/..%2Fprojects%2Fblue%3Fx%3D1%23y"]


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_path_words_are_no_names(name: str) -> None:
    with pytest.raises(NameInvalid, match="is not a name"):
        client(lambda _: httpx2.Response(204)).nodes.delete(name)


@pytest.mark.parametrize(
    "url", ["bmi.example", "ftp://bmi.example", "http://", "http://bmi.example:port", ""]
)
def test_url_that_cannot_be_one_is_refused_at_once(url: str) -> None:
    with pytest.raises(ProfileInvalid):
        Client(url, "sesame")


def test_token_that_cannot_be_one_is_refused_without_showing_it() -> None:
    with pytest.raises(ProfileInvalid) as caught:
        Client("http://bmi.example", "sesame\nX-Evil: 1")
    assert "sesame" not in str(caught.value)


def test_token_is_not_in_the_clients_representation() -> None:
    assert "sesame" not in repr(Client("http://bmi.example", "sesame"))
