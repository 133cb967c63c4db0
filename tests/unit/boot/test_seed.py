import base64
import email
import io
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import cast

import pycdlib
import pytest
import yaml

from bmi.boot.seed import SeedContent, Wiring, build_seed
from bmi.errors import BadRequest
from bmi.run import run


def key(type: str = "ssh-ed25519", comment: str = " me@desk") -> str:
    body = len(type).to_bytes(4, "big") + type.encode() + bytes(36)
    return f"{type} {base64.b64encode(body).decode()}{comment}"


CONTENT = SeedContent(
    instance_id="01a20484-2c4b-7065-bb52-1c1c701d8cc9",
    hostname="web-1.example.org",
    ssh_keys=(key(), key("ecdsa-sha2-nistp256", "")),
    user_data=None,
    phone_home_url="http://10.66.0.254:8080/boot/7/t0ken/phone-home",
    mac="52:54:00:AB:CD:EF",
)


def files(seed: bytes, *, joliet: bool = False) -> dict[str, bytes]:
    """Return what a system sees when it mounts the volume."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed))
    kind = "joliet_path" if joliet else "rr_path"
    found = {}
    for folder, _, names in iso.walk(**{kind: "/"}):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, **{kind: path})
            found[path] = content.getvalue()
    iso.close()
    return found


def test_the_volume_is_found_by_its_label() -> None:
    seed = build_seed(CONTENT)
    assert seed[16 * 2048 + 1 : 16 * 2048 + 6] == b"CD001"
    assert seed[16 * 2048 + 40 : 16 * 2048 + 72].rstrip() == b"cidata"
    assert len(seed) % 2048 == 0


@pytest.mark.parametrize("joliet", [False, True])
def test_every_reader_sees_the_same_files(joliet: bool) -> None:
    assert set(files(build_seed(CONTENT), joliet=joliet)) == {
        "/meta-data",
        "/user-data",
        "/vendor-data",
        "/network-config",
        "/bmi/hostname",
        "/bmi/authorized_keys",
        "/bmi/phone-home-url",
        "/bmi/instance-id",
    }


def test_cloud_init_is_told_who_the_node_is() -> None:
    found = files(build_seed(CONTENT))
    assert yaml.safe_load(found["/meta-data"]) == {
        "instance-id": CONTENT.instance_id,
        "local-hostname": CONTENT.hostname,
        "public-keys": list(CONTENT.ssh_keys),
    }


def test_the_report_is_asked_for_in_the_vendors_part() -> None:
    config = vendor_parts()["text/cloud-config"]
    assert config.startswith("#cloud-config\n")
    assert yaml.safe_load(config)["phone_home"]["url"] == CONTENT.phone_home_url


def test_keys_that_are_there_already_are_removed_once_for_each_instance(tmp_path: Path) -> None:
    script = tmp_path / "script"
    state, homes = tmp_path / "state" / "instance-id", [tmp_path / "root", tmp_path / "first"]
    text = vendor_parts()["text/cloud-boothook"].removeprefix("#cloud-boothook\n")
    script.write_text(text.replace("/var/lib/bmi/instance-id", str(state)))
    getent = tmp_path / "getent"
    getent.write_text(
        f'#!/bin/sh\necho "x:x:$2:$2::{tmp_path}/$([ $2 = 0 ] && echo root || echo first):/bin/sh"\n'
    )
    getent.chmod(0o755)
    keys = [home / ".ssh" / "authorized_keys" for home in homes]

    def boot(instance: str) -> list[bool]:
        """Boot as an instance, and say which accounts kept the keys that they had."""
        for key in keys:
            key.parent.mkdir(parents=True, exist_ok=True)
            key.write_text("ssh-ed25519 AAAA former\n")
        run(["sh", script], env={"INSTANCE_ID": instance, "PATH": f"{tmp_path}:/usr/bin:/bin"})
        return [key.exists() for key in keys]

    assert boot("one") == [False, False]
    assert boot("one") == [True, True]
    assert boot("two") == [False, False]


def vendor_parts() -> dict[str, str]:
    message = email.message_from_bytes(files(build_seed(CONTENT))["/vendor-data"])
    return {
        part.get_content_type(): str(part.get_payload()) for part in message.walk() if not part.is_multipart()
    }


def test_the_card_that_carries_the_disk_is_kept_up() -> None:
    (card,) = yaml.safe_load(files(build_seed(CONTENT))["/network-config"])["ethernets"].values()
    assert card == {"match": {"macaddress": "52:54:00:ab:cd:ef"}, "dhcp4": True, "critical": True}


def test_images_without_cloud_init_read_plain_lines() -> None:
    found = files(build_seed(CONTENT))
    assert found["/bmi/hostname"] == b"web-1.example.org\n"
    assert found["/bmi/authorized_keys"].decode().splitlines() == list(CONTENT.ssh_keys)
    assert found["/bmi/phone-home-url"].decode() == f"{CONTENT.phone_home_url}\n"
    assert found["/bmi/instance-id"].decode() == f"{CONTENT.instance_id}\n"


def test_user_data_is_the_tenants_own_to_the_byte() -> None:
    script = "#!/bin/sh\r\necho 'ä' \t\n\n"
    assert files(build_seed(replace(CONTENT, user_data=script)))["/user-data"] == script.encode()


def test_without_user_data_there_is_an_empty_one() -> None:
    found = files(build_seed(CONTENT))["/user-data"]
    assert found.startswith(b"#cloud-config\n")
    assert not yaml.safe_load(found)


def test_the_same_content_makes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(CONTENT, user_data="x" * 5000)
    before = build_seed(long)
    later = time.time() + 400 * 86400 + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert build_seed(long) == before
    finally:
        monkeypatch.undo()
        time.tzset()


def test_other_content_makes_other_bytes() -> None:
    assert build_seed(replace(CONTENT, hostname="web-2.example.org")) != build_seed(CONTENT)


@pytest.mark.parametrize(
    "bad", ["", "-a", "a-", "a b", "a_b", "a\nb", "ä", "a..b", "x" * 64, "a." * 130 + "a", "10.0.0.1"]
)
def test_host_names_follow_rfc_1123(bad: str) -> None:
    with pytest.raises(BadRequest, match="host name"):
        build_seed(replace(CONTENT, hostname=bad))


@pytest.mark.parametrize("good", ["a", "42", "x" * 63, "Web-1", "a.b.c"])
def test_host_names_may_be_short_long_or_qualified(good: str) -> None:
    assert files(build_seed(replace(CONTENT, hostname=good)))["/bmi/hostname"].decode() == f"{good}\n"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 not/base64!",
        key() + "\nssh-ed25519 AAAA",
        key() + "\rx",
        key("ssh-dss"),
        key().replace("ssh-ed25519", "ssh-rsa", 1),
        'command="reboot" ' + key(),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        key() + "x" * 5000,
    ],
)
def test_what_is_no_public_key_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(BadRequest, match="SSH key number 2") as error:
        build_seed(replace(CONTENT, ssh_keys=(key(), bad)))
    assert "PRIVATE" not in str(error.value)


def test_a_key_may_end_with_the_newline_of_its_file() -> None:
    found = files(build_seed(replace(CONTENT, ssh_keys=(key() + "\n",))))
    assert found["/bmi/authorized_keys"].decode() == key() + "\n"


@pytest.mark.parametrize(
    "bad",
    [
        {"ssh_keys": (key(),) * 65},
        {"user_data": "x" * (256 * 1024 + 1)},
        {"user_data": "\ud800"},
        {"instance_id": "a\nb"},
        {"phone_home_url": "http://x/ y"},
        {"mac": "52:54:00:ab:cd"},
    ],
)
def test_hostile_values_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        build_seed(replace(CONTENT, **bad))  # type: ignore[arg-type]


def test_secrets_are_not_in_what_a_log_would_show() -> None:
    assert "t0ken" not in repr(replace(CONTENT, user_data="s3cret"))
    assert "s3cret" not in repr(replace(CONTENT, user_data="s3cret"))


def card(wiring: Wiring) -> dict[str, object]:
    found = files(build_seed(replace(CONTENT, wiring=wiring)))["/network-config"]
    (card,) = yaml.safe_load(found)["ethernets"].values()
    return cast("dict[str, object]", card)


def test_the_card_is_told_what_its_network_is_like() -> None:
    told = card(Wiring(mtu=9000, domain="blue.bmi.internal", dns_servers=(IPv4Address("10.66.0.2"),)))
    assert told == {
        "match": {"macaddress": "52:54:00:ab:cd:ef"},
        "dhcp4": True,
        "mtu": 9000,
        "nameservers": {"addresses": ["10.66.0.2"], "search": ["blue.bmi.internal"]},
        "critical": True,
    }


def test_a_card_that_nobody_gives_an_address_has_its_own() -> None:
    told = card(Wiring(IPv4Interface("10.66.0.5/24"), router=IPv4Address("10.66.0.1")))
    assert told == {
        "match": {"macaddress": "52:54:00:ab:cd:ef"},
        "addresses": ["10.66.0.5/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "10.66.0.1"}],
        "critical": True,
    }


def test_a_domain_is_one_line() -> None:
    with pytest.raises(BadRequest, match="host name"):
        card(Wiring(domain="a\nevil: true"))
