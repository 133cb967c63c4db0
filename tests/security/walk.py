"""Walks every route as every role; what should come is read from the policy and the routes' rules."""

from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI
from fastapi.testclient import TestClient

from bmi.access.policy import LEAST_ROLE
from bmi.access.rules import Rule, rules
from bmi.api.access import Role

RANK = (Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN)
TENANTS = RANK[:3]
NOTHING = "00000000-0000-7000-8000-000000000000"

_N, _K = {"name": "walk"}, {"name": "walk", "image": "{image}", "project": "{project}"}

REQUESTS: dict[tuple[str, str], Any] = {
    ("GET", "/openapi.json"): None,
    ("GET", "/v1/version"): None,
    ("GET", "/v1/whoami"): None,
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
    ("GET", "/v1/nodes"): None,
    ("GET", "/v1/nodes/{node}"): None,
    ("DELETE", "/v1/nodes/{node}"): None,
    ("POST", "/v1/nodes/{node}/provision"): {
        "image": "{image}",
        "network": "{network}",
        "project": "{project}",
    },
    ("POST", "/v1/nodes/{node}/deprovision"): {},
    ("POST", "/v1/nodes/{node}/reset"): {},
    ("POST", "/v1/nodes/{node}/power"): {"action": "on"},
    ("GET", "/v1/nodes/{node}/power"): None,
    ("GET", "/v1/nodes/{node}/events"): None,
    ("POST", "/v1/networks"): {"name": "walk", "project": "{project}"},
    ("GET", "/v1/networks"): None,
    ("GET", "/v1/networks/{network}"): None,
    ("DELETE", "/v1/networks/{network}"): None,
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
    ("POST", "/v1/images/{image}/copy"): _N,
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


@dataclass
class Things:
    """A thing of every kind for two projects, and the tokens of red."""

    of: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[Role, str] = field(default_factory=dict)


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
        token = api.post("/v1/tokens", json={"name": f"t-{name}", "role": "viewer", "project": name}).json()
        export = site.ended(api.post(f"/v1/images/{snapshot['result']['image_id']}/export", json={}))
        assert export["state"] == "succeeded", export
        made.of[name] = {
            "export": export["id"],
            "project": api.get(f"/v1/projects/{name}").json()["id"],
            "network": network["id"],
            "node": node["id"],
            "disk": disk["id"],
            "image": snapshot["result"]["image_id"],
            "operation": operation["id"],
            "upload": upload.json()["id"],
            "token": token["id"],
        }
    for name, other in (("red", "blue"), ("blue", "red")):
        made.of[name]["other"] = made.of[other]["project"]
    for role in TENANTS:
        body = {"name": role.value, "role": role.value, "project": "red"}
        made.tokens[role] = api.post("/v1/tokens", json=body).json()["secret"]
    made.tokens[Role.ADMIN] = api.headers["Authorization"].removeprefix("Bearer ")
    return made


def allowed(rule: Rule, role: Role) -> bool:
    """Say whether a role is enough for all that a route always asks for."""
    return all(RANK.index(role) >= RANK.index(LEAST_ROLE[action]) for action in rule.always)


def expected(rule: Rule, path: str, role: Role | None, whose: str) -> int | None:
    """Return the status of the refusal that must come; None if none may come."""
    if rule.public:
        return None
    if role is None:
        return 401
    if role is Role.ADMIN:
        return None
    # What only admins do to the system is refused before anything is looked for, so that it tells nothing.
    of_the_system = "{" not in path and LEAST_ROLE[rule.always[0]] is Role.ADMIN if rule.always else False
    if whose == "foreign" and not of_the_system:
        return 404
    return None if allowed(rule, role) else 403


def walk(api: TestClient, things: Things) -> tuple[list[str], int]:
    """Send every request as everybody, refusals first, and return what was wrong and how many checks were made."""
    table = rules(cast("FastAPI", api.app).routes)
    wrong: list[str] = []
    checks = 0
    cells = [
        (key, role, token, whose)
        for key in REQUESTS
        for role, token in [(None, None), (None, "bmi_wrong"), *things.tokens.items()]
        for whose in ("own", "foreign")
        if whose == "own" or _names_a_thing(key)
    ]

    def order(cell: Any) -> tuple[bool, bool, bool]:
        """Put what changes things after what does not."""
        (method, path), role, _, whose = cell
        refused = expected(table[cell[0]], path, role, whose) is not None
        return (not refused, method != "GET", method == "DELETE")

    for (method, path), role, token, whose in sorted(cells, key=order):
        rule = table[method, path]
        should = expected(rule, path, role, whose)
        if should is None and role is Role.ADMIN and method != "GET":
            continue  # whatever an admin asks for is allowed; other tests do it
        names = things.of["red" if whose == "own" else "blue"]
        got = _send(api, method, path, names, token)
        checks += 1
        if should is not None:
            good = got == should
        else:
            good = got not in (401, 403, 500)
            if method == "GET":
                good = got == 200
        if not good:
            wrong.append(f"{method} {path} as {role or token}, {whose}: {got}, not {should or 'allowed'}")
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
    params = {"offset": 0} if (method, path) == ("PATCH", "/v1/uploads/{upload}") else {}
    if path.startswith("/v1/exports/"):
        names = {**names, "operation": names["export"]}
    answer = api.request(method, path.format(**names), json=body, headers=headers, params=params)
    return answer.status_code
