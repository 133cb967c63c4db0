"""Walks every route as every role; what should come is read from the policy and the routes' rules."""

from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

from fastapi import FastAPI
from fastapi.testclient import TestClient

from bmi.access.policy import LEAST_ROLE
from bmi.access.rules import Rule, rules
from bmi.api.access import Role
from bmi.api.hardware import Hardware
from bmi.db import now
from bmi.discovery.models import Discovered
from bmi.provisioning.engine import Engine

RANK = (Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN)
TENANTS = RANK[:3]
PASSWORD = "a long and secret word"
NOTHING = "00000000-0000-7000-8000-000000000000"

_N, _K = {"name": "walk"}, {"name": "walk", "image": "{image}", "project": "{project}"}

HARDWARE: dict[str, Any] = {
    "firmware": "uefi",
    "vendor": "walk",
    "product": "walk",
    "uuid": None,
    "cpu": "walk",
    "cpus": 1,
    "memory": 1 << 30,
    "disks": [],
    "cards": [],
}

REQUESTS: dict[tuple[str, str], Any] = {
    ("GET", "/openapi.json"): None,
    ("GET", "/v1/version"): None,
    ("GET", "/v1/whoami"): None,
    ("POST", "/v1/login"): {},
    ("POST", "/v1/login/provider"): {},
    ("POST", "/v1/login/provider/finish"): {},
    ("POST", "/v1/logout"): None,
    ("PUT", "/v1/password"): {"old": "wrong", "new": "long enough to be one"},
    ("POST", "/v1/users"): {"name": "walk", "password": "long enough to be one"},
    ("GET", "/v1/users"): None,
    ("GET", "/v1/users/{user}"): None,
    ("PATCH", "/v1/users/{user}"): {},
    ("DELETE", "/v1/users/{user}"): None,
    ("PUT", "/v1/users/{user}/password"): {"password": "long enough to be one"},
    ("GET", "/v1/projects/{project}/members"): None,
    ("PUT", "/v1/projects/{project}/members/{user}"): {"role": "viewer"},
    ("DELETE", "/v1/projects/{project}/members/{user}"): None,
    ("POST", "/v1/projects"): _N,
    ("GET", "/v1/projects"): None,
    ("GET", "/v1/projects/{project}"): None,
    ("PATCH", "/v1/projects/{project}/quota"): {},
    ("DELETE", "/v1/projects/{project}"): None,
    ("POST", "/v1/tokens"): {"name": "walk", "role": "viewer", "project": "{project}"},
    ("GET", "/v1/tokens"): None,
    ("DELETE", "/v1/tokens/{token}"): None,
    ("POST", "/v1/nodes"): {
        "name": "walk",
        "bmc": {"driver": "memory", "address": "bmc"},
        "nics": [{"mac": "52:54:00:00:ff:01", "switch": "sw1", "port": "port99"}],
    },
    ("POST", "/v1/nodes/import"): {"project": "{project}"},
    ("POST", "/v1/nodes/batch"): {
        "nodes": [
            {
                "name": "walk",
                "bmc": {"driver": "memory", "address": "bmc"},
                "nics": [{"mac": "52:54:00:00:ff:01", "switch": "sw1", "port": "port99"}],
            }
        ]
    },
    ("PATCH", "/v1/nodes/{node}"): {},
    ("GET", "/v1/discovered"): None,
    ("GET", "/v1/discovered/{machine}"): None,
    ("POST", "/v1/discovered/{machine}/enrol"): {"name": "walk", "bmc": {"address": "bmc"}},
    ("DELETE", "/v1/discovered/{machine}"): None,
    ("GET", "/v1/nodes"): None,
    ("GET", "/v1/nodes/{node}"): None,
    ("DELETE", "/v1/nodes/{node}"): None,
    ("POST", "/v1/nodes/{node}/provision"): {
        "image": "{image}",
        "network": "{network}",
        "project": "{project}",
    },
    ("POST", "/v1/nodes/{node}/deprovision"): {},
    ("POST", "/v1/nodes/{node}/allocate"): {"project": "{project}"},
    ("POST", "/v1/nodes/{node}/release"): None,
    ("POST", "/v1/nodes/{node}/attach"): {"network": "{network}"},
    ("POST", "/v1/nodes/{node}/detach"): {"network": "{network}"},
    ("POST", "/v1/nodes/{node}/clean"): {},
    ("POST", "/v1/nodes/{node}/reset"): {},
    ("POST", "/v1/nodes/{node}/power"): {"action": "on"},
    ("GET", "/v1/nodes/{node}/power"): None,
    ("POST", "/v1/nodes/{node}/power/said"): {"state": "off"},
    ("GET", "/v1/nodes/{node}/events"): None,
    ("GET", "/v1/nodes/{node}/console"): None,
    ("GET", "/v1/nodes/{node}/console/recordings/{number}"): None,
    ("GET", "/v1/nodes/{node}/console/stream"): None,
    ("POST", "/v1/nodes/{node}/console/input"): {"data": "aGVsbG8="},
    ("POST", "/v1/networks"): {"name": "walk", "project": "{project}"},
    ("GET", "/v1/networks"): None,
    ("GET", "/v1/networks/{network}"): None,
    ("PATCH", "/v1/networks/{network}"): {"mtu": 1400},
    ("DELETE", "/v1/networks/{network}"): None,
    ("GET", "/v1/networks/{network}/shares"): None,
    ("PUT", "/v1/networks/{network}/shares/{other}"): None,
    ("DELETE", "/v1/networks/{network}/shares/{other}"): None,
    ("PUT", "/v1/networks/{network}/public"): None,
    ("DELETE", "/v1/networks/{network}/public"): None,
    ("POST", "/v1/images/import"): {"name": "walk", "upload": NOTHING, "project": "{project}"},
    ("POST", "/v1/images/{image}/export"): {},
    ("GET", "/v1/exports/{operation}"): None,
    ("DELETE", "/v1/exports/{operation}"): None,
    ("POST", "/v1/images/build"): _N,
    ("POST", "/v1/images/adopt"): {"name": "walk", "source": "none"},
    ("POST", "/v1/images/adopt-legacy"): None,
    ("GET", "/v1/images"): None,
    ("GET", "/v1/images/{image}"): None,
    ("POST", "/v1/images/{image}/flatten"): None,
    ("PATCH", "/v1/images/{image}"): {},
    ("GET", "/v1/images/{image}/shares"): None,
    ("PUT", "/v1/images/{image}/shares/{other}"): None,
    ("DELETE", "/v1/images/{image}/shares/{other}"): None,
    ("POST", "/v1/images/{image}/copy"): {"name": "walk", "project": "{project}"},
    ("POST", "/v1/images/{image}/move"): {"project": "{project}"},
    ("POST", "/v1/images/{image}/promote"): {},
    ("DELETE", "/v1/images/{image}"): None,
    ("POST", "/v1/images/{image}/undelete"): {},
    ("POST", "/v1/images/{image}/purge"): None,
    ("POST", "/v1/images/{image}/check"): None,
    ("POST", "/v1/images/{image}/prepare"): _N,
    ("GET", "/v1/images/{image}/readiness"): None,
    ("POST", "/v1/uploads"): {"project": "{project}"},
    ("GET", "/v1/uploads"): None,
    ("GET", "/v1/uploads/{upload}"): None,
    ("PATCH", "/v1/uploads/{upload}"): None,
    ("DELETE", "/v1/uploads/{upload}"): None,
    ("POST", "/v1/disks"): _K,
    ("POST", "/v1/disks/adopt"): {"name": "walk", "source": "none", "project": "{project}"},
    ("GET", "/v1/disks"): None,
    ("GET", "/v1/disks/{disk}"): None,
    ("POST", "/v1/disks/{disk}/flatten"): None,
    ("POST", "/v1/disks/{disk}/rollback"): {},
    ("POST", "/v1/disks/{disk}/grow"): {"size": 1 << 30},
    ("POST", "/v1/disks/{disk}/move"): {"to": "free"},
    ("DELETE", "/v1/disks/{disk}"): None,
    ("POST", "/v1/disks/{disk}/snapshot"): _N,
    ("POST", "/v1/images/commit"): {"node": "{node}", "name": "walk"},
    ("POST", "/v1/images/discard"): {"node": "{node}"},
    ("POST", "/v1/images/{image}/edit"): {"node": "free", "network": "{network}"},
    ("GET", "/v1/operations"): None,
    ("GET", "/v1/operations/{operation}"): None,
    ("GET", "/v1/operations/{operation}/events"): None,
    ("GET", "/v1/operations/{operation}/history"): None,
    ("POST", "/v1/operations/{operation}/cancel"): None,
    ("POST", "/v1/operations/{operation}/retry"): None,
    ("GET", "/v1/members"): None,
    ("GET", "/v1/audit"): None,
    ("GET", "/v1/doctor"): None,
    ("POST", "/v1/doctor/repair"): {},
}
"""A request for every route. What stands in braces is a thing of the project in question."""


_OF_THE_SYSTEM = ("/v1/users", "/v1/discovered")  # whose things belong to no project
_OWN_TOKENS = {("GET", "/v1/tokens"), ("POST", "/v1/tokens")}
_ENDS_THE_SESSION = ("POST", "/v1/logout")


@dataclass(frozen=True)
class Somebody:
    """Who asks."""

    label: str
    secret: str = field(repr=False)
    roles: dict[str, Role]
    """By project; an admin has the role in both."""
    session: bool = False

    @property
    def admin(self) -> bool:
        """Whether everything is allowed."""
        return Role.ADMIN in self.roles.values()


@dataclass
class Things:
    """A thing of every kind for two projects, and everybody who asks."""

    of: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[Role, str] = field(default_factory=dict)
    """Of services, in red."""
    people: list[Somebody] = field(default_factory=list)


def make_things(api: TestClient, site: Any) -> Things:
    """Make projects red and blue with a node, network, image, disk, upload, token and operation each."""
    made = Things()
    site.node("free", 9)
    site.image("golden")
    for number, name in enumerate(("red", "blue"), start=1):
        site.project(name)
        network = site.network("net", name)
        node = site.node(f"n{number}", number)
        body = {"image": "golden", "network": "net", "project": name, "until": "power"}
        operation = site.ended(api.post(f"/v1/nodes/n{number}/provision", json=body))
        disk = api.get("/v1/disks", params={"project": name}).json()["items"][0]
        snapshot = site.ended(api.post(f"/v1/disks/{disk['id']}/snapshot", json={"name": "own"}))
        upload = api.post("/v1/uploads", json={"project": name})
        with site.parts.db.write() as session:
            facts = Hardware.model_validate(HARDWARE | {"serial": name}).model_dump(mode="json")
            machine = Discovered(
                mac=f"52:54:00:00:fe:{number:02x}", address="10.64.0.9", facts=facts, seen_at=now()
            )
            session.add(machine)
        token = api.post("/v1/tokens", json={"name": f"t-{name}", "role": "viewer", "project": name}).json()
        export = site.ended(api.post(f"/v1/images/{snapshot['result']['image_id']}/export", json={}))
        assert export["state"] == "succeeded", export
        made.of[name] = {
            "export": export["id"],
            "project": api.get(f"/v1/projects/{name}").json()["id"],
            "network": network["id"],
            "node": node["id"],
            "number": "1",
            "disk": disk["id"],
            "image": snapshot["result"]["image_id"],
            "operation": operation["id"],
            "upload": upload.json()["id"],
            "token": token["id"],
            "machine": str(machine.id),
        }
    for name, other in (("red", "blue"), ("blue", "red")):
        made.of[name]["other"] = made.of[other]["project"]
    for role in TENANTS:
        body = {"name": role.value, "role": role.value, "project": "red"}
        made.tokens[role] = api.post("/v1/tokens", json=body).json()["secret"]
    made.tokens[Role.ADMIN] = api.headers["Authorization"].removeprefix("Bearer ")
    made.people = [
        Somebody(
            f"token of a {role}", secret, {"red": role, "blue": role} if role is Role.ADMIN else {"red": role}
        )
        for role, secret in made.tokens.items()
    ]
    for role in TENANTS:
        made.people.append(_person(api, role.value, {"red": role}))
    made.people.append(_person(api, "both", {"red": Role.MANAGER, "blue": Role.VIEWER}))
    made.people.append(_person(api, "stranger", {}))
    for name in ("red", "blue"):
        user = api.post("/v1/users", json={"name": f"u-{name}", "password": PASSWORD}).json()
        api.put(f"/v1/projects/{name}/members/{user['id']}", json={"role": "viewer"})
        made.of[name]["user"] = user["id"]
    return made


def _person(api: TestClient, name: str, roles: dict[str, Role]) -> Somebody:
    """Make a user, and log in."""
    assert api.post("/v1/users", json={"name": name, "password": PASSWORD}).status_code == 201
    for project, role in roles.items():
        given = api.put(f"/v1/projects/{project}/members/{name}", json={"role": role.value})
        assert given.status_code == 200, given.text
    begun = api.post("/v1/login", json={"name": name, "password": PASSWORD}, headers={"Authorization": ""})
    assert begun.status_code == 201, begun.text
    return Somebody(f"session of {name}", begun.json()["secret"], roles, session=True)


def allowed(rule: Rule, role: Role) -> bool:
    """Say whether a role is enough for all that a route always asks for."""
    return all(RANK.index(role) >= RANK.index(LEAST_ROLE[action]) for action in rule.always)


def expected(rule: Rule, key: tuple[str, str], who: Somebody | None, project: str) -> int | None:
    """Return the status of the refusal that must come; None if none may come."""
    path = key[1]
    if rule.public:
        return None
    if who is None:
        return 401
    if who.admin or not rule.always or (who.session and key in _OWN_TOKENS and project in who.roles):
        return None
    if who.session and key == ("GET", "/v1/tokens"):
        return None
    # What only admins do to the system is refused before anything is looked for, so that it tells nothing.
    nobodys = "{" not in path or path.startswith(_OF_THE_SYSTEM)
    if nobodys and LEAST_ROLE[rule.always[0]] is Role.ADMIN:
        return 403
    role = who.roles.get(project)
    if role is None:
        return _for_a_stranger(rule, key, who)
    return None if allowed(rule, role) else 403


def _for_a_stranger(rule: Rule, key: tuple[str, str], who: Somebody) -> int | None:
    """Return the status for one who does not belong to the project in question."""
    if _names_a_thing(key):
        return 404
    highest = max(who.roles.values(), key=RANK.index, default=None)
    if highest is not None:
        return None if allowed(rule, highest) else 403
    # One who belongs to no project sees empty lists of what everybody may see in his own.
    least = max((LEAST_ROLE[action] for action in rule.always), key=RANK.index)
    return None if least is Role.VIEWER else 403


def walk(api: TestClient, things: Things) -> tuple[list[str], int]:
    """Send every request as everybody, refusals first, and return what was wrong and how many checks were made.

    What is allowed is accepted and not carried out: a node that is given back meanwhile would be nobody's.
    """
    with patch.object(Engine, "begin", lambda self, operation: None):
        return _walk(api, things)


def _walk(api: TestClient, things: Things) -> tuple[list[str], int]:
    table = rules(cast("FastAPI", api.app).routes)
    wrong: list[str] = []
    checks = 0
    nobodies: list[tuple[str, str, Somebody | None]] = [
        ("nobody", "", None),
        ("a wrong token", "bmi_wrong", None),
    ]
    cells = [
        (key, label, secret, who, project)
        for key in REQUESTS
        for label, secret, who in [*nobodies, *((who.label, who.secret, who) for who in things.people)]
        for project in ("red", "blue")
        if (project == "red" or _names_a_thing(key))
        and not (who is not None and who.session and key == _ENDS_THE_SESSION)
    ]

    def order(cell: Any) -> tuple[bool, bool, bool]:
        """Put what changes things after what does not."""
        key, _, _, who, project = cell
        refused = expected(table[key], key, who, project) is not None
        return (not refused, key[0] != "GET", key[0] == "DELETE")

    for key, label, secret, who, project in sorted(cells, key=order):
        method, path = key
        should = expected(table[key], key, who, project)
        if should is None and who is not None and who.admin and method != "GET":
            continue  # whatever an admin asks for is allowed; other tests do it
        got = _send(api, method, path, things.of[project], secret)
        checks += 1
        if should is not None:
            good = got == should
        else:
            good = got not in (401, 403, 500)
            if method == "GET":
                good = got == 200
        if not good:
            wrong.append(f"{method} {path} as {label}, {project}: {got}, not {should or 'allowed'}")
    return wrong, checks


def _names_a_thing(key: tuple[str, str]) -> bool:
    values = (REQUESTS[key] or {}).values()
    return "{" in key[1] or any(isinstance(value, str) and "{" in value for value in values)


def _send(api: TestClient, method: str, path: str, names: dict[str, str], token: str | None) -> int:
    body = REQUESTS[method, path]
    if isinstance(body, dict):
        body = {
            key: value.format(**names) if isinstance(value, str) else value for key, value in body.items()
        }
    headers = {"Authorization": f"Bearer {token}" if token else ""}
    params: dict[str, Any] = {"offset": 0} if (method, path) == ("PATCH", "/v1/uploads/{upload}") else {}
    if path.endswith("/console/stream"):  # it would go on for an hour
        params = {"seconds": 0.1}
    if path.endswith("/prepare"):  # who belongs to several has to say for which
        params = {"project": names["project"]}
    if path.startswith("/v1/exports/"):
        names = {**names, "operation": names["export"]}
    answer = api.request(method, path.format(**names), json=body, headers=headers, params=params)
    return answer.status_code
