"""What holds for every request and every answer."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from bmi.http import LARGEST_BODY, SAFE_HEADERS


@pytest.mark.parametrize("path", ["/v1/version", "/v1/nodes", "/v1/nodes/none", "/nowhere", "/openapi.json"])
def test_every_answer_says_how_to_take_it(api: TestClient, path: str) -> None:
    answer = api.get(path)
    assert {name: answer.headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused_before_anything_is_looked_at(
    api: TestClient, announced: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"name": "'
        yield b"x" * LARGEST_BODY
        yield b'"}'

    content = pieces() if not announced else b"".join(pieces())
    answer = api.post("/v1/projects", content=content, headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "too-large"
    assert "1 MiB" in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_up_to_the_limit_is_read(api: TestClient) -> None:
    padded = b'{"name": "red"}'.ljust(LARGEST_BODY)
    headers = {"Content-Type": "application/json"}
    assert api.post("/v1/projects", content=padded, headers=headers).status_code == 201


def test_a_piece_of_an_upload_may_be_larger(api: TestClient) -> None:
    assert api.post("/v1/projects", json={"name": "red"}).status_code == 201
    upload = api.post("/v1/uploads", json={"project": "red"}).json()["id"]
    content = bytes(LARGEST_BODY + 1)
    answer = api.patch(f"/v1/uploads/{upload}", params={"offset": 0}, content=content)
    assert answer.status_code == 200
    assert answer.json()["received"] == len(content)
