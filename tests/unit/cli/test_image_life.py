"""What the commands of an image's life ask of the service, and what they print."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from bmi.ids import new_id
from tests.unit.client.fake_service import DISK, ID, IMAGE, PROJECT, WHEN, Answer, Service, operation, page

Bmi = Callable[..., tuple[int, str, str]]

OURS = {**IMAGE, "project": "blue", "visibility": "private"}
OTHER = "0199c5d2-0000-7000-8000-0000000000bb"
SHARE = {"project": "red", "project_id": OTHER, "created_at": WHEN}
QUEUED = Answer(operation("queued"), status=202)


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query", "body"),
    [
        (["set", "d", "--name", "e"], "PATCH", "/images/d", {}, {"name": "e"}),
        (
            ["set", "d", "--label", "a=1=2", "--label", "b=", "--unlabel", "c", "-p", "blue"],
            "PATCH",
            "/images/d",
            {"project": "blue"},
            {"labels": {"c": None, "a": "1=2", "b": ""}},
        ),
        (
            ["set", "d", "--description", "", "--visibility", "public"],
            "PATCH",
            "/images/d",
            {},
            {"description": "", "visibility": "public"},
        ),
        (["deprecate", "d", "old"], "PATCH", "/images/d", {}, {"deprecated": "old"}),
        (["deprecate", "d", "--undo"], "PATCH", "/images/d", {}, {"deprecated": None}),
        (
            ["move", "blue:d", "red", "--name", "e"],
            "POST",
            "/images/blue%3Ad/move",
            {},
            {"project": "red", "everybody": False, "name": "e"},
        ),
        (["move", "d", "--everybody"], "POST", "/images/d/move", {}, {"everybody": True}),
        (["delete", "d"], "DELETE", "/images/d", {}, None),
        (["undelete", "d", "--name", "e"], "POST", "/images/d/undelete", {}, {"name": "e"}),
    ],
)
def test_what_is_done_at_once_is_told_in_a_line(
    service: Service, bmi: Bmi, arguments: list[str], method: str, path: str, query: Any, body: Any
) -> None:
    service.on(method, path, Answer(OURS))

    status, out, err = bmi("image", *arguments)

    assert (status, err, len(out.splitlines())) == (0, "", 1)
    assert "debian" in out
    assert [(one.query, one.body) for one in service.asked] == [(query, body)]
    assert json.loads(bmi("image", *arguments, "--json")[1]) == OURS


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (
            ["copy", "blue:d", "e"],
            "/images/blue%3Ad/copy",
            {"name": "e", "everybody": False, "project": "own"},
        ),
        (
            ["copy", "d", "e", "--to", "red"],
            "/images/d/copy",
            {"name": "e", "everybody": False, "project": "red"},
        ),
        (["copy", "d", "e", "--everybody"], "/images/d/copy", {"name": "e", "everybody": True}),
        (["promote", "d", "--name", "e", "--public"], "/images/d/promote", {"name": "e", "public": True}),
        (["delete", "d", "--now"], "/images/d/purge", None),
    ],
)
def test_what_takes_an_operation_can_be_left_alone(
    service: Service, bmi: Bmi, arguments: list[str], path: str, body: Any
) -> None:
    service.on("POST", path, QUEUED)

    assert bmi("image", *arguments, "-p", "own", "--no-wait") == (0, f"{ID}\n", "")

    assert [(one.query, one.body) for one in service.asked] == [({"project": "own"}, body)]


def test_sharing_is_said_and_shown_and_taken_back(service: Service, bmi: Bmi) -> None:
    service.on("PUT", f"/images/d/shares/{OTHER}", Answer(SHARE))
    service.on("GET", "/images/d/shares", page(SHARE))
    service.on("DELETE", "/images/d/shares/red", Answer(status=204, raw=b""))

    assert bmi("image", "share", "d", OTHER) == (0, "image d is shared with project red\n", "")
    assert bmi("image", "shares", "d")[1].splitlines()[1].split()[:2] == ["red", OTHER]
    assert bmi("image", "unshare", "d", "red") == (0, "image d is not shared with red any more\n", "")
    assert json.loads(bmi("image", "shares", "d", "--json")[1]) == [SHARE]


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "d"],
        ["set", "d", "--label", "novalue"],
        ["set", "d", "--label", "UPPER=x"],
        ["deprecate", "d"],
        ["deprecate", "d", "why", "--undo"],
        ["move", "d"],
        ["move", "d", "red", "--everybody"],
    ],
)
def test_what_makes_no_sense_is_not_asked(service: Service, bmi: Bmi, arguments: list[str]) -> None:
    status, out, err = bmi("image", *arguments)

    assert (status, out, service.asked) == (2, "", [])
    assert err.startswith("bmi: ")


def test_lists_and_show_say_what_a_person_should_know(service: Service, bmi: Bmi) -> None:
    gone = {**OURS, "deleted_at": WHEN}
    old = {**OURS, "deprecated": "use e", "labels": {"os": "debian", "tier": "front"}, "description": "nginx"}
    service.on("GET", "/images", lambda asked: page(gone if asked.query.get("deleted") else old))
    service.on("GET", "/images/d", Answer(old))

    assert bmi("image", "list")[1].splitlines()[1].endswith("deprecated: use e")
    assert "in the trash since" in bmi("image", "list", "--deleted")[1]
    shown = [" ".join(line.split()) for line in bmi("image", "show", "d")[1].splitlines()]
    for line in ("kind golden image", "for private", "about nginx", "labels os=debian", "tier=front"):
        assert line in shown


def test_the_quota_is_set_by_numbers_and_sizes(service: Service, bmi: Bmi) -> None:
    service.on("PATCH", "/projects/blue/quota", Answer(PROJECT))
    service.on("GET", "/projects/blue", Answer(PROJECT))

    given = [
        "--nodes",
        "8",
        "--images",
        "20",
        "--disks",
        "none",
        "--image-bytes",
        "none",
        "--disk-bytes",
        "2T",
    ]
    status, out, _ = bmi("project", "quota", "blue", *given)

    assert (status, service.asked[0].body) == (
        0,
        {"nodes": 8, "images": 20, "disks": None, "image_bytes": None, "disk_bytes": 2 << 40},
    )
    assert "3 of 20, 1 in the trash" in out
    assert bmi("project", "quota", "blue")[1] == out
    assert bmi("project", "quota", "blue", "--images", "many")[0] == 2


# --- the tree --------------------------------------------------------------------------------------------


def family() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the images, the trash and the disks of a family of five generations, and one image beside it."""

    def image(name: str, parent: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
        above = {"parent": parent["id"], "parent_name": parent["name"]} if parent else {}
        return {**OURS, **above, "id": str(new_id()), "name": name, **more}

    golden = image("debian", None, project=None)
    first = image("first", golden, golden=False, origin="snapshot")
    second = image("second", first, golden=False, origin="snapshot", deleted_at=WHEN)
    third = image("third", second, golden=False, origin="copy", deprecated="slow")
    fourth = image("fourth", third, origin="snapshot", state="creating")
    fifth = image("fifth", fourth, golden=False, origin="snapshot")
    beside = image("beside", None)
    disks = [
        {**DISK, "id": str(new_id()), "name": "web", "image": first["id"]},
        {**DISK, "id": str(new_id()), "name": "alone", "image": None, "node": None},
    ]
    return [golden, first, third, fourth, fifth, beside], [second], disks


@pytest.fixture
def grown(service: Service) -> Service:
    images, trash, disks = family()

    def pages(asked: Any) -> Answer:
        wanted = trash if asked.query.get("deleted") else images
        at = int(asked.query.get("cursor", 0))
        return page(*wanted[at : at + 2], next=str(at + 2) if at + 2 < len(wanted) else None)

    service.on("GET", "/images", pages)
    service.on("GET", "/disks", page(*disks))
    for image in images:
        service.on("GET", f"/images/{image['name']}", Answer(image))
    return service


def test_five_generations_are_a_tree(grown: Service, bmi: Bmi) -> None:
    status, out, err = bmi("image", "tree")

    assert (status, err) == (0, "")
    since = out.split("in the trash since ")[1].split("\n")[0]
    assert out.splitlines() == [
        "debian  golden image, everybody's",
        "└─ first  snapshot, project blue",
        f"   ├─ second  snapshot, in the trash since {since}",
        "   │  └─ third  copy, deprecated: slow",
        "   │     └─ fourth  golden image, creating",
        "   │        └─ fifth  snapshot",
        "   └─ web  disk, boots node n1",
        "beside  golden image, project blue",
        "alone  disk, project blue",
    ]


def test_the_tree_of_one_image_has_its_ancestors_and_what_was_made_of_it(grown: Service, bmi: Bmi) -> None:
    out = bmi("image", "tree", "third")[1]

    assert [line.lstrip("└─ ").split()[0] for line in out.splitlines()] == [
        "debian",
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
    ]


def test_the_tree_as_json_is_nested(grown: Service, bmi: Bmi) -> None:
    roots = json.loads(bmi("image", "tree", "first", "--json")[1])

    assert [root["name"] for root in roots] == ["debian"]
    below = roots[0]["made_of_it"][0]["made_of_it"]
    assert [(one["kind"], one["name"]) for one in below] == [("image", "second"), ("disk", "web")]


def test_without_images_there_is_no_tree(service: Service, bmi: Bmi) -> None:
    for path in ("/images", "/disks"):
        service.on("GET", path, page())
    assert bmi("image", "tree")[:2] == (0, "")
