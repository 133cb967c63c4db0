"""Who may do what to images that are private, shared, public, or everybody's: all of the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import LEAST_ROLE, OFFERED, READABLE_BY_ALL, USABLE_BY_ALL, Action, Caller, authorize
from bmi.access.service import find_owned, select_visible
from bmi.api.access import Role
from bmi.db import now
from bmi.errors import BadRequest, NotAllowed, NotFound
from bmi.ids import new_id
from bmi.images.models import Image, ImageShare
from bmi.parts import Parts

RANK = [Role.VIEWER, Role.MEMBER, Role.MANAGER]
MINE, FOREIGN = new_id(), new_id()


@pytest.mark.parametrize("role", RANK)
@pytest.mark.parametrize("action", Action)
def test_what_a_foreign_project_offers_can_be_read_and_nothing_else(action: Action, role: Role) -> None:
    caller = Caller("t", roles={MINE: role})
    if action in OFFERED:
        authorize(caller, action, FOREIGN, thing="x", offered=True)
    else:
        with pytest.raises(NotFound):
            authorize(caller, action, FOREIGN, thing="x", offered=True)


@dataclass
class World:
    """Images of two projects and of nobody; the caller belongs to red."""

    session: Session
    red: UUID
    blue: UUID
    images: dict[str, UUID]

    def caller(self, role: Role) -> Caller:
        return Caller("t", admin=True) if role is Role.ADMIN else Caller("t", roles={self.red: role})

    def listed(self, role: Role, project: str | None = None) -> set[str]:
        query = select_visible(self.session, self.caller(role), Image, Action.IMAGE_READ, project)
        return {row.name for row in self.session.scalars(query)}


VISIBLE = {"own", "site", "blue-shared", "blue-public"}
HIDDEN = {"blue-private", "blue-was-shared", "blue-shared-elsewhere", "blue-trashed"}
OWN_ACTIONS = [action for action in Action if action.startswith("image.")]


@pytest.fixture
def world(parts: Parts) -> Iterator[World]:
    with parts.db.write() as session:
        red, blue, green = (Project(id=new_id(), name=name) for name in ("red", "blue", "green"))
        session.add_all([red, blue, green])
        session.flush()
        made = World(session, red.id, blue.id, {})

        def image(name: str, project: Project | None, visibility: str, share: Project | None = None) -> Image:
            row = Image(
                id=new_id(),
                name=name,
                project_id=project.id if project else None,
                visibility=visibility,
                state="ready",
                origin="build",
                size=1,
            )
            session.add(row)
            session.flush()
            if share is not None:
                session.add(ImageShare(image_id=row.id, project_id=share.id))
            made.images[name] = row.id
            return row

        image("own", red, "private")
        image("site", None, "public")
        image("blue-private", blue, "private")
        image("blue-shared", blue, "shared", red)
        image("blue-public", blue, "public")
        image("blue-was-shared", blue, "private", red)
        image("blue-shared-elsewhere", blue, "shared", green)
        image("blue-trashed", blue, "public").deleted_at = now()
        session.flush()
        yield made


@pytest.mark.parametrize("role", RANK)
def test_lists_have_what_is_own_offered_or_everybodys(world: World, role: Role) -> None:
    assert world.listed(role) == VISIBLE
    assert world.listed(role, "red") == VISIBLE


def test_an_admin_sees_everything_and_in_a_project_what_it_sees(world: World) -> None:
    assert world.listed(Role.ADMIN) == VISIBLE | HIDDEN
    assert world.listed(Role.ADMIN, "red") == VISIBLE
    assert world.listed(Role.ADMIN, "green") == {"site", "blue-public", "blue-shared-elsewhere"}


@pytest.mark.parametrize("role", RANK)
def test_every_action_on_every_image(world: World, role: Role) -> None:
    def attempt(name: str, action: Action) -> str:
        id = str(world.images[name])
        try:
            find_owned(world.session, world.caller(role), Image, id, action, project=None)
        except (NotFound, NotAllowed) as refused:
            return refused.code
        return "allowed"

    def expected(name: str, action: Action) -> str:
        readable = action in READABLE_BY_ALL | USABLE_BY_ALL
        offered = action in OFFERED and name in ("blue-shared", "blue-public")
        if not (name == "own" or (name == "site" and readable) or offered):
            return "not-found"
        least = LEAST_ROLE[action]
        enough = least in RANK and RANK.index(role) >= RANK.index(least)
        return "allowed" if enough else "not-allowed"

    cells = [(name, action) for name in sorted(VISIBLE | HIDDEN) for action in OWN_ACTIONS]
    assert {cell: attempt(*cell) for cell in cells} == {cell: expected(*cell) for cell in cells}


def test_what_others_offer_needs_their_name(world: World) -> None:
    """A name alone never means another project's image: nobody can push one under a name that red uses."""
    caller = world.caller(Role.MEMBER)

    def found(ref: str) -> str:
        return find_owned(world.session, caller, Image, ref, Action.IMAGE_READ, project=None).name

    for ref in ("blue-shared", "blue-public", "blue:blue-private", "green:blue-public", "nobody:site"):
        with pytest.raises(NotFound, match=ref):
            found(ref)
    assert found("blue:blue-shared") == "blue-shared"
    assert found(f"{world.blue}:blue-public") == "blue-public"
    assert found("red:own") == found("own") == "own"


def test_the_own_image_comes_before_everybodys_of_the_same_name(world: World) -> None:
    twin = Image(id=new_id(), name="site", project_id=world.red, state="ready", origin="build", size=1)
    world.session.add(twin)
    world.session.flush()

    for role, project in ((Role.VIEWER, None), (Role.ADMIN, "red")):
        caller = world.caller(role)
        found = find_owned(world.session, caller, Image, "site", Action.IMAGE_READ, project=project)
        assert found.id == twin.id
    with pytest.raises(BadRequest, match="several"):
        find_owned(world.session, world.caller(Role.ADMIN), Image, "site", Action.IMAGE_READ, project=None)


def test_a_name_means_nothing_in_the_trash(world: World) -> None:
    caller = world.caller(Role.MEMBER)
    own = world.session.get_one(Image, world.images["own"])
    own.deleted_at = now()
    world.session.flush()

    with pytest.raises(NotFound):
        find_owned(world.session, caller, Image, "own", Action.IMAGE_READ, project=None)
    found = find_owned(world.session, caller, Image, "own", Action.IMAGE_WRITE, project=None, trashed=True)
    assert found is own
