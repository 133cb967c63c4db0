"""What goes wrong in real life: one clear line with thing, cause and next step, and nothing left behind."""

import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import IMAGE, Site

PROVISION = ("node", "provision", "n1", "--network", "red-net", "--until", "power")


def failed(site: Site, *words: str) -> str:
    """Run a command that must fail, and return the line that it says."""
    done = site.bmi(*words)
    assert done.status == 1, done
    lines = done.err.strip().splitlines()
    assert lines[-1].startswith("bmi: "), done.err
    assert "Traceback" not in done.err
    return lines[-1]


def test_a_wrong_image_name(site: Site) -> None:
    line = failed(site, *PROVISION, "--image", "debain-12")
    assert line.startswith("bmi: there is no image debain-12; check the name")


def test_an_unknown_node(site: Site) -> None:
    line = failed(site, "node", "provision", "n9", "--network", "red-net", "--image", IMAGE)
    assert line.startswith("bmi: there is no node n9; check the name")


def test_a_node_already_in_use(site: Site) -> None:
    site.must(*PROVISION, "--image", IMAGE)
    line = failed(site, *PROVISION, "--image", IMAGE)
    assert line == (
        "bmi: node n1 is in use: it is active for project red; "
        "take another node, or give it back first: bmi node deprovision n1"
    )


def test_an_unreachable_bmc(site: Site) -> None:
    layout = site.lab.require()
    site.lab._controllers(layout).stop()
    try:
        line = failed(site, *PROVISION, "--image", IMAGE)
    finally:
        site.lab._controllers(layout).start()
    assert f"127.0.0.1:{layout.nodes[0].bmc_port}" in line
    assert site.ask("node", "show", "n1")["state"] == "available"
    assert site.leftovers() == {}


def test_a_full_disk(site: Site) -> None:
    """The store's folder is filled until less than its reserve is free."""
    pool = next(
        Path(line.split()[1])
        for line in Path("/proc/mounts").read_text().splitlines()
        if str(site.lab.folder) in line
    )
    filler = pool / "filler"
    try:
        fill(filler, leave=16 << 20)
        line = failed(site, *PROVISION, "--image", IMAGE)
    finally:
        filler.unlink(missing_ok=True)
    assert "free" in line
    assert site.ask("node", "show", "n1")["state"] == "available"


def test_a_port_already_taken(site: Site) -> None:
    """Somebody else listens where the target has to."""
    site.must("network", "create", "second-net")
    network = site.ask("network", "show", "second-net")
    namespace = site.lab.leg_namespaces()[network["id"]]
    from bmi.netns import socket_inside

    try:
        with socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM) as squatter:
            squatter.bind((network["gateway"], 3261))  # of the first node on the network
            squatter.listen()
            line = failed(
                site,
                *("node", "provision", "n1", "--network", "second-net", "--until", "power", "--image", IMAGE),
            )
        assert "3261" in line
        assert site.ask("node", "show", "n1")["state"] == "available"
    finally:
        site.must("network", "delete", "second-net")


@pytest.mark.parametrize("words", [("serve", "--config", "{folder}/service.toml")])
def test_the_services_own_port_is_taken(site: Site, words: tuple[str, ...]) -> None:
    line = failed(site, *(word.format(folder=site.lab.folder) for word in words))
    assert f"127.0.0.1:{site.lab.require().api_port}" in line
    assert "BMI_API__PORT" in line


def fill(file: Path, leave: int) -> None:
    """Write a file until only so many bytes are free."""
    import os

    with file.open("wb") as out:
        stat = os.statvfs(file)
        os.posix_fallocate(out.fileno(), 0, stat.f_bavail * stat.f_frsize - leave)
