"""Uploads, imports and exports on memory drivers: what the API promises, and what is left when it fails."""

import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from bmi.db import now
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.memory import MemoryStorage
from bmi.errors import StorageError
from bmi.images.models import Image, Upload
from bmi.provisioning.models import Operation
from bmi.provisioning.spool import sweep
from tests.service import Site

DISK = (os.urandom(510) + b"\x55\xaa").ljust(1 << 20, b"\0")
DIGEST = f"sha256:{hashlib.sha256(DISK).hexdigest()}"


def upload(site: Site, data: bytes = DISK, **more: Any) -> str:
    answer = site.api.post("/v1/uploads", json=more)
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    sent = site.api.patch(f"/v1/uploads/{id}?offset=0", content=data)
    assert sent.status_code == 200, sent.text
    assert sent.json()["received"] == len(data)
    return id


def imported(site: Site, name: str = "in", **more: Any) -> dict[str, Any]:
    body = {"name": name, **({} if "upload" in more or "url" in more else {"upload": upload(site)}), **more}
    return site.ended(site.api.post("/v1/images/import", json=body))


def spool(site: Site) -> list[str]:
    root = site.parts.settings.spool
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.parent != root)


def caller(site: Site, project: str, role: str = "member") -> dict[str, str]:
    body = {"name": f"{project}-{role}", "role": role, "project": project}
    secret = site.api.post("/v1/tokens", json=body).json()["secret"]
    return {"Authorization": f"Bearer {secret}"}


# --- uploads -----------------------------------------------------------------------------------------------


def test_pieces_are_counted_once_they_are_on_the_disk(site: Site) -> None:
    id = site.api.post("/v1/uploads", json={"size": 10}).json()["id"]
    assert site.api.patch(f"/v1/uploads/{id}?offset=0", content=b"01234").json()["received"] == 5
    assert site.api.get(f"/v1/uploads/{id}").json()["received"] == 5
    wrong = site.api.patch(f"/v1/uploads/{id}?offset=3", content=b"345")
    assert wrong.status_code == 409
    assert wrong.json()["next_step"] == "go on at offset=5"
    assert site.api.patch(f"/v1/uploads/{id}?offset=5", content=b"56789").json()["received"] == 10
    assert (site.parts.settings.spool / "uploads" / id).read_bytes() == b"0123456789"
    more = site.api.patch(f"/v1/uploads/{id}?offset=10", content=b"x")
    assert (more.status_code, more.json()["code"]) == (400, "bad-request")
    assert site.api.get(f"/v1/uploads/{id}").json()["received"] == 10
    assert site.api.delete(f"/v1/uploads/{id}").status_code == 204
    assert spool(site) == []


def test_uploads_are_limited(site: Site) -> None:
    assert site.api.post("/v1/uploads", json={"size": 1 << 50}).status_code == 400
    for _ in range(site.parts.settings.intake.uploads):
        assert site.api.post("/v1/uploads", json={}).status_code == 201
    assert "unfinished uploads" in site.api.post("/v1/uploads", json={}).json()["detail"]


def test_uploads_of_others_do_not_exist(site: Site) -> None:
    site.project("red")
    site.project("blue")
    red, blue = caller(site, "red"), caller(site, "blue")
    id = site.api.post("/v1/uploads", json={}, headers=red).json()["id"]
    assert site.api.patch(f"/v1/uploads/{id}?offset=0", content=DISK, headers=red).status_code == 200
    for answer in (
        site.api.get(f"/v1/uploads/{id}", headers=blue),
        site.api.patch(f"/v1/uploads/{id}?offset=0", content=b"x", headers=blue),
        site.api.delete(f"/v1/uploads/{id}", headers=blue),
        site.api.post("/v1/images/import", json={"name": "x", "upload": id}, headers=blue),
    ):
        assert answer.status_code == 404
    assert site.api.get("/v1/uploads", headers=blue).json()["items"] == []
    viewer = caller(site, "red", "viewer")
    assert site.api.post("/v1/uploads", json={}, headers=viewer).status_code == 403
    assert (
        site.ended(site.api.post("/v1/images/import", json={"name": "x", "upload": id}, headers=red))[
            "project"
        ]
        == "red"
    )


def test_a_piece_that_breaks_off_counts_as_far_as_it_came(site: Site) -> None:
    from bmi.access.policy import Caller
    from bmi.images.uploads import Receiving

    id = UUID(site.api.post("/v1/uploads", json={}).json()["id"])
    admin = Caller("t", admin=True)
    receiving = Receiving(site.parts, admin, id, 0)
    receiving.take(b"abc")
    busy = site.api.patch(f"/v1/uploads/{id}?offset=0", content=b"x")
    assert (busy.status_code, busy.json()["code"]) == (409, "in-use")
    receiving.close()  # as when the process is killed: nothing was written down
    assert site.api.patch(f"/v1/uploads/{id}?offset=0", content=b"xy").json()["received"] == 2
    assert (site.parts.settings.spool / "uploads" / str(id)).read_bytes() == b"xy"


def test_bytes_that_are_lost_are_sent_again_and_not_made_up(site: Site) -> None:
    id = upload(site)
    (site.parts.settings.spool / "uploads" / id).unlink()
    answer = site.api.patch(f"/v1/uploads/{id}?offset={len(DISK)}", content=b"more")
    assert (answer.status_code, answer.json()["next_step"]) == (409, "go on at offset=0")
    assert site.api.get(f"/v1/uploads/{id}").json()["received"] == 0
    assert site.api.patch(f"/v1/uploads/{id}?offset=0", content=DISK).status_code == 200
    assert imported(site, upload=id)["state"] == "succeeded"


# --- imports -----------------------------------------------------------------------------------------------


def test_an_upload_becomes_an_image(site: Site) -> None:
    done = imported(site)
    assert done["state"] == "succeeded", done
    assert [step["name"] for step in done["steps"]] == [
        "fetch",
        "look",
        "unpack",
        "convert",
        "import",
        "tidy",
    ]
    assert done["result"] | {"digest": DIGEST, "source_digest": DIGEST, "size": len(DISK)} == done["result"]
    with site.parts.db.read() as session:
        image = session.scalars(select(Image)).one()
        assert (image.state, image.visibility, image.digest) == ("ready", "public", DIGEST)
    assert Path(site.storage.backing(Volume(Kind.IMAGE, image.id)).path).read_bytes() == DISK
    assert site.api.get("/v1/uploads").json()["items"] == []
    assert spool(site) == []


def test_a_failed_import_keeps_the_upload_to_be_tried_again(site: Site) -> None:
    id = upload(site, bytes(4096))
    failed = imported(site, upload=id)
    assert (failed["state"], failed["ending"]) == ("failed", "undone")
    assert failed["error"]["next_step"] == "if it is a raw disk all the same, say so: --format raw"
    assert spool(site) == [f"uploads/{id}"]
    assert site.api.get("/v1/images").json()["items"] == []
    assert imported(site, upload=id, format="raw")["state"] == "succeeded"
    assert spool(site) == []


def test_an_upload_that_is_not_whole_is_no_image(site: Site) -> None:
    id = site.api.post("/v1/uploads", json={"size": 1024}).json()["id"]
    site.api.patch(f"/v1/uploads/{id}?offset=0", content=bytes(512))
    answer = site.api.post("/v1/images/import", json={"name": "x", "upload": id})
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong-state")
    assert "512 bytes have arrived, of 1024" in answer.json()["detail"]


def test_an_upload_whose_bytes_are_lost_is_told(site: Site) -> None:
    id = upload(site)
    (site.parts.settings.spool / "uploads" / id).unlink()
    failed = imported(site, upload=id)
    assert failed["error"]["code"] == "not-found"
    assert "share intake.spool" in failed["error"]["next_step"]


def test_the_digest_is_checked(site: Site) -> None:
    failed = imported(site, digest="0" * 64)
    assert "has the digest" in failed["error"]["detail"]
    assert imported(site, digest=DIGEST)["state"] == "succeeded"
    assert imported(site, name="other", digest=DIGEST.upper()[7:], again=True)["state"] == "succeeded"


def test_nobody_learns_what_others_have(site: Site) -> None:
    site.project("red")
    site.project("blue")
    assert imported(site, name="secret", project="red")["state"] == "succeeded"
    blue = caller(site, "blue")
    body = {"name": "x", "url": "http://198.51.100.1/x", "digest": DIGEST}
    site.ended(site.api.post("/v1/images/import", json=body, headers=blue))  # accepted: nothing is known
    red = caller(site, "red")
    known = site.api.post("/v1/images/import", json=body, headers=red)
    assert known.status_code == 409
    assert known.json()["detail"] == "image secret has this content already"


def test_what_may_be_asked_for(site: Site) -> None:
    def status(**body: Any) -> int:
        return site.api.post("/v1/images/import", json={"name": "x", **body}).status_code

    assert status() == 422
    assert status(url="http://host/x", upload=str(UUID(int=1))) == 422
    assert status(url="file:///etc/passwd") == 422
    assert status(url="http://me:secret@host/x") == 422
    assert status(upload=str(UUID(int=1))) == 404
    assert status(url="http://host/x", digest="123") == 422
    assert status(url="http://host/x", format="vhd") == 422


def test_a_url_of_this_host_is_refused_and_its_key_is_not_shown(site: Site) -> None:
    failed = imported(site, url="http://127.0.0.1:1/x?key=secret")
    assert failed["error"]["code"] == "fetch-refused"
    with site.parts.db.read() as session:
        row = session.scalars(select(Operation).where(Operation.verb == "image.import")).one()
        assert "secret" not in f"{row.request} {row.asked} {row.error} {row.result} {row.subject}"
    again = site.ended(site.api.post(f"/v1/operations/{failed['id']}/retry"))
    assert again["error"]["code"] == "fetch-refused"


def test_a_store_that_fails_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise StorageError("no", next_step="-")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStorage, "import_image", fail)
        failed = imported(site)
    assert failed["ending"] == "undone"
    assert list(site.storage.volumes()) == []
    retried = site.ended(site.api.post(f"/v1/operations/{failed['id']}/retry"))
    assert retried["state"] == "succeeded", retried
    assert spool(site) == []


def test_an_import_can_be_cancelled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def slow(path: Path, progress: Callable[[int, int], None]) -> str:
        reached.append(path)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            progress(1, 2)
            time.sleep(0.02)
        return "sha256:"

    monkeypatch.setattr("bmi.images.intake.digest.digest", slow)
    id = upload(site)
    answer = site.api.post("/v1/images/import", json={"name": "x", "upload": id})
    while not reached:
        time.sleep(0.02)
    for busy in (
        site.api.patch(f"/v1/uploads/{id}?offset={len(DISK)}", content=b"x"),
        site.api.delete(f"/v1/uploads/{id}"),
        site.api.post("/v1/images/import", json={"name": "y", "upload": id}),
    ):
        assert (busy.status_code, busy.json()["code"]) == (409, "in-use")
    site.api.post(f"/v1/operations/{answer.json()['id']}/cancel")
    done = site.ended(answer)
    assert (done["state"], done["ending"]) == ("cancelled", "undone")
    assert spool(site) == [f"uploads/{id}"]


# --- exports -----------------------------------------------------------------------------------------------


def exported(site: Site, **body: Any) -> dict[str, Any]:
    return site.ended(site.api.post("/v1/images/in/export", json=body))


def test_an_image_can_be_fetched_in_parts(site: Site) -> None:
    imported(site)
    done = exported(site)
    assert done["state"] == "succeeded", done
    assert done["result"] == {"image": "in", "format": "raw", "size": len(DISK), "digest": DIGEST}
    path = f"/v1/exports/{done['id']}"
    whole = site.api.get(path)
    assert whole.content == DISK
    assert whole.headers["repr-digest"].startswith("sha-256=:")
    part = site.api.get(path, headers={"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, DISK[1000:])
    assert site.api.delete(path).status_code == 204
    assert site.api.get(path).status_code == 404
    assert spool(site) == []


def test_exports_of_others_do_not_exist(site: Site) -> None:
    site.project("red")
    site.project("blue")
    imported(site)
    red, blue = caller(site, "red"), caller(site, "blue")
    done = site.ended(site.api.post("/v1/images/in/export", json={}, headers=red))
    path = f"/v1/exports/{done['id']}"
    assert site.api.get(path, headers=blue).status_code == 404
    assert site.api.delete(path, headers=blue).status_code == 404
    assert site.api.get(path, headers=red).content == DISK
    assert (
        site.api.post("/v1/images/in/export", json={}, headers=caller(site, "red", "viewer")).status_code
        == 403
    )


def test_a_failed_export_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(site)

    def fail(*args: object) -> None:
        raise StorageError("no", next_step="-")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStorage, "export_image", fail)
        failed = exported(site)
    assert failed["ending"] == "undone"
    assert spool(site) == []
    assert site.api.get(f"/v1/exports/{failed['id']}").status_code == 404
    assert site.ended(site.api.post(f"/v1/operations/{failed['id']}/retry"))["state"] == "succeeded"


# --- what nobody waits for ---------------------------------------------------------------------------------


def test_the_spool_is_swept(site: Site) -> None:
    kept, stale = upload(site), upload(site)
    imported(site)
    export = exported(site)["id"]
    root = site.parts.settings.spool
    (root / "uploads" / str(UUID(int=1))).write_bytes(b"x")
    (root / "work" / str(UUID(int=2))).mkdir()
    (root / "work" / str(UUID(int=2)) / "raw").write_bytes(b"x")
    (root / "exports" / str(UUID(int=3))).mkdir()
    (root / "exports" / "README").write_text("a person's")
    with site.parts.db.write() as session:
        session.get_one(Upload, UUID(stale)).touched_at = now() - timedelta(days=2)
    sweep(site.parts)
    assert spool(site) == [
        f"exports/{export}",
        f"exports/{export}/digest",
        f"exports/{export}/image",
        "exports/README",
        f"uploads/{kept}",
    ]
    assert [row["id"] for row in site.api.get("/v1/uploads").json()["items"]] == [kept]
    with site.parts.db.write() as session:
        session.get_one(Operation, UUID(export)).ended_at = now() - timedelta(days=2)
    sweep(site.parts)
    assert spool(site) == ["exports/README", f"uploads/{kept}"]
