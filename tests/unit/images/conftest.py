"""Projects red and blue, with an API for each of those who may ask for something."""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from bmi.ids import new_id
from bmi.images.models import Image
from tests.service import IMAGE_SIZE

PROJECTS = ("red", "blue")


@dataclass
class Tenants:
    """Who asks, and what they make."""

    admin: TestClient
    site: Any
    by_token: dict[str, TestClient]
    ids: dict[str, str]

    def __getitem__(self, token: str) -> TestClient:
        """Return the API as somebody sees it, such as `red-member`."""
        if token not in self.by_token:
            project, role = token.split("-")
            body = {"name": token, "role": role, "project": project}
            secret = self.admin.post("/v1/tokens", json=body).json()["secret"]
            self.by_token[token] = TestClient(self.admin.app, headers={"Authorization": f"Bearer {secret}"})
        return self.by_token[token]

    def image(self, name: str, project: str = "blue", parent: str = "golden") -> str:
        """Put a snapshot of a project into the store and the inventory."""
        id, origin = new_id(), UUID(self.ids[parent])
        self.site.storage.copy(origin, id)
        with self.site.parts.db.write() as session:
            row = Image(id=id, name=name, project_id=UUID(self.ids[project]), parent_id=origin)
            row.state, row.origin, row.size = "ready", "snapshot", IMAGE_SIZE
            session.add(row)
        self.ids[name] = str(id)
        return str(id)

    def done(self, answer: Any) -> dict[str, Any]:
        """Wait for an operation that must succeed."""
        operation = cast("dict[str, Any]", self.site.ended(answer))
        assert operation["state"] == "succeeded", operation
        return operation

    def names(self, token: str, *, deleted: bool = False) -> set[str]:
        """Return the names of the images that somebody sees."""
        answer = self[token].get("/v1/images", params={"deleted": deleted})
        return {image["name"] for image in answer.json()["items"]}


@pytest.fixture
def tenants(api: TestClient, site: Any) -> Tenants:
    golden: UUID = site.image("golden")
    made = Tenants(api, site, {"admin": api}, {"golden": str(golden)})
    for project in PROJECTS:
        site.project(project)
        made.ids[project] = api.get(f"/v1/projects/{project}").json()["id"]
    return made
