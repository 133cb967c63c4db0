import pytest

from bmi.access.policy import LEAST_ROLE, READABLE_BY_ALL, USABLE_BY_ALL, Action, Caller, authorize
from bmi.api.access import Role
from bmi.errors import NotAllowed, NotFound
from bmi.ids import new_id

MINE, FOREIGN = new_id(), new_id()
RANK = [Role.VIEWER, Role.MEMBER, Role.MANAGER]


def test_every_action_has_a_rule() -> None:
    assert set(LEAST_ROLE) == set(Action)


@pytest.mark.parametrize("action", Action)
def test_an_admin_may_do_everything_everywhere(action: Action) -> None:
    authorize(Caller("t", admin=True), action, FOREIGN, thing="x")
    authorize(Caller("t", admin=True), action, None, thing="x")


@pytest.mark.parametrize("role", RANK)
@pytest.mark.parametrize("action", Action)
def test_in_the_own_project_the_role_decides(action: Action, role: Role) -> None:
    least = LEAST_ROLE[action]
    caller = Caller("t", roles={MINE: role})
    if least is not Role.ADMIN and RANK.index(role) >= RANK.index(least):
        authorize(caller, action, MINE, thing="x")
    else:
        with pytest.raises(NotAllowed, match=least):
            authorize(caller, action, MINE, thing="x")


@pytest.mark.parametrize("role", RANK)
@pytest.mark.parametrize("action", Action)
def test_what_is_in_a_foreign_project_does_not_exist(action: Action, role: Role) -> None:
    with pytest.raises(NotFound):
        authorize(Caller("t", roles={MINE: role}), action, FOREIGN, thing="x")


@pytest.mark.parametrize("action", Action)
def test_what_belongs_to_nobody_is_hidden_unless_it_is_meant_for_all(action: Action) -> None:
    caller = Caller("t", roles={MINE: Role.MANAGER})
    if action in READABLE_BY_ALL | USABLE_BY_ALL:
        authorize(caller, action, None, thing="x")
        return
    # That admins do something to the system is no secret, so it is refused and not hidden.
    refusal = NotAllowed if LEAST_ROLE[action] is Role.ADMIN else NotFound
    with pytest.raises(refusal):
        authorize(caller, action, None, thing="x")
