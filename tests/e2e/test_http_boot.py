"""A node whose firmware boots by UEFI HTTP, and by nothing else, runs from a clone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab.node import NetworkBoot
from tests.e2e.conftest import IMAGE, NETWORK, Site, with_ipmi

pytestmark = pytest.mark.timeout(600)

NODE = "n2"


@pytest.fixture
def http_node(site: Site, tmp_path: Path) -> Iterator[None]:
    with with_ipmi(site, NODE, tmp_path, network_boot=NetworkBoot.HTTP):
        yield


def test_a_node_boots_by_uefi_http(site: Site, http_node: None) -> None:
    site.must("node", "provision", NODE, "--image", IMAGE, "--network", NETWORK, timeout=500)
    assert site.ask("node", "show", NODE)["state"] == "active"
    told = [(event["kind"], event["message"]) for event in site.ask("node", "events", NODE)]
    assert ("dhcp.discover", "UEFI firmware, HTTP boot") in told
    assert ("http.sent", "snponly.efi") in told
    assert ("dhcp.discover", "iPXE") in told
    assert not [message for kind, message in told if kind == "tftp.sent"]
    site.must("node", "deprovision", NODE)
