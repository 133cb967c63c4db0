"""A node whose controller speaks IPMI boots from a clone, and is given back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import IMAGE, Site, with_ipmi

pytestmark = pytest.mark.timeout(600)

NODE = "n3"


@pytest.fixture
def ipmi(site: Site, tmp_path: Path) -> Iterator[None]:
    with with_ipmi(site, NODE, tmp_path):
        yield


def test_a_node_with_ipmi_boots_from_a_clone(site: Site, ipmi: None) -> None:
    shown = site.must("node", "provision", NODE, "--image", IMAGE, "--network", "red-net", timeout=500)
    assert "on, confirmed by the BMC" in shown
    assert site.ask("node", "show", NODE)["state"] == "active"
    assert "off, confirmed by the BMC" in site.must("node", "deprovision", NODE)
    assert not site.lab.machine(NODE).is_on()
