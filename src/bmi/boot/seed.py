"""The small volume beside a node's disk that tells it who it is.

An ISO 9660 file system labelled `cidata`, as cloud-init's data source NoCloud looks for it:

    meta-data, user-data, vendor-data, network-config    for cloud-init
    bmi/hostname, bmi/authorized_keys,                   the same for images without cloud-init, which read it
    bmi/phone-home-url, bmi/instance-id                  with a few lines of shell
    bmi/cleaning                                         how local disks are to be wiped, if they are

The texts for cloud-init are in `templates/`.

Source: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from ipaddress import IPv4Address, IPv4Interface

import pycdlib

from bmi.boot.checks import check_hostname, check_mac, check_url
from bmi.boot.iso_dates import fix_dates
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.boot.variables import ForgetKeys, MetaData, NetworkConfig, VendorData
from bmi.errors import BadRequest

_LABEL = "cidata"
_KEYS_AT_MOST = 64
_KEY_LENGTH = 4096  # characters; an RSA key of 16,384 bits has 2,800
_USER_DATA_SIZE = 256 * 1024  # bytes
_PHONE_HOME_TRIES = 10  # cloud-init waits longer and longer between them

_BOUNDARY = "===== next part of the vendor data ====="

_INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_KEY_TYPE = re.compile(
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com",
    re.ASCII,
)


@dataclass(frozen=True)
class Wiring:
    """What the card is told about its network beside what DHCP says, or in place of it."""

    address: IPv4Interface | None = None
    """The card's address where it is not to ask for one."""
    router: IPv4Address | None = None
    """The default route that goes with the address."""
    mtu: int | None = None
    """Bytes of a packet."""
    dns_servers: tuple[IPv4Address, ...] = ()
    domain: str | None = None
    """Where names without a dot are looked for."""


@dataclass(frozen=True)
class SeedContent:
    """What a node is told."""

    instance_id: str
    """When it differs from the last one seen, cloud-init sets the system up anew."""
    hostname: str
    ssh_keys: tuple[str, ...]
    """Public keys, each as in a line of authorized_keys without options."""
    user_data: str | None = field(repr=False)
    """What the tenant has for cloud-init, as it is."""
    phone_home_url: str = field(repr=False)
    mac: str
    """Of the card that the node boots over, and that carries its disk."""
    wiring: Wiring = Wiring()
    cleaning: str | None = None
    """How local disks are to be wiped, by an image that can; never if None."""


def build_seed(content: SeedContent, texts: Texts = OWN_TEXTS) -> bytes:
    """Return the volume: the same bytes for the same content and templates.

    Raises:
        BadRequest: A value cannot be used.
        SettingsInvalid: A template of this site's own cannot be used.
    """
    user_data = _check_user_data(content.user_data)
    keys = [_check_key(number, key) for number, key in enumerate(_check_count(content.ssh_keys), 1)]
    hostname, url, mac = (
        check_hostname(content.hostname),
        check_url(content.phone_home_url),
        check_mac(content.mac),
    )
    instance_id = _check_instance_id(content.instance_id)
    vendor_data = _vendor_data(texts, VendorData(phone_home_url=url, phone_home_tries=_PHONE_HOME_TRIES))
    return _iso(
        {
            "meta-data": texts.render(MetaData(instance_id, hostname, tuple(keys))).encode(),
            "user-data": user_data,
            "vendor-data": vendor_data,
            "network-config": texts.render(_network(mac, content.wiring)).encode(),
        },
        {
            "hostname": f"{hostname}\n".encode(),
            "authorized_keys": "".join(f"{key}\n" for key in keys).encode(),
            "phone-home-url": f"{url}\n".encode(),
            "instance-id": f"{instance_id}\n".encode(),
            **({"cleaning": f"{content.cleaning}\n".encode()} if content.cleaning else {}),
        },
    )


def _network(mac: str, wiring: Wiring) -> NetworkConfig:
    domain = None if wiring.domain is None else check_hostname(wiring.domain)
    return NetworkConfig(mac, wiring.address, wiring.router, wiring.mtu, wiring.dns_servers, domain)


def _vendor_data(texts: Texts, config: VendorData) -> bytes:
    """Return BMI's own part, so that the tenant's stays as it is: what the tenant says in it wins.

    In two parts: a script cannot be replaced by what the tenant says, as a command in a cloud-config would be.
    """
    parts = {"cloud-boothook": texts.render(ForgetKeys()), "cloud-config": texts.render(config)}
    message = MIMEMultipart(boundary=_BOUNDARY)  # always the same, as are the seed's bytes
    for kind, text in parts.items():
        message.attach(MIMEText(text, kind, "us-ascii" if text.isascii() else "utf-8"))
    return message.as_bytes()


def _check_user_data(text: str | None) -> bytes:
    try:
        data = b"#cloud-config\n{}\n" if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest("user data is no Unicode text", next_step="send it as UTF-8") from error
    if len(data) > _USER_DATA_SIZE:
        raise BadRequest(
            f"user data has {len(data)} bytes",
            next_step=f"keep it below {_USER_DATA_SIZE}: let it fetch what is large",
        )
    return data


def _check_count(keys: tuple[str, ...]) -> tuple[str, ...]:
    if len(keys) > _KEYS_AT_MOST:
        raise BadRequest(f"{len(keys)} SSH keys are too many", next_step=f"give at most {_KEYS_AT_MOST}")
    return keys


def _check_key(number: int, key: str) -> str:
    """Return a public key on one line. The error does not repeat it: it may be a private one."""
    words = key.strip().split(" ", 2)
    if (
        len(key) <= _KEY_LENGTH
        and key.strip().isprintable()
        and len(words) >= 2
        and _KEY_TYPE.fullmatch(words[0])
        and _names_itself(words[1], words[0])
    ):
        return key.strip()
    raise BadRequest(
        f"SSH key number {number} is no public key",
        next_step='give one line of a .pub file, which begins like "ssh-ed25519 AAAA"',
    )


def _names_itself(blob: str, type: str) -> bool:
    """Say whether a key's body begins with its type, as RFC 4253, section 6.6 has it."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    return data.startswith(len(type).to_bytes(4, "big") + type.encode())


def _check_instance_id(id: str) -> str:
    if not _INSTANCE_ID.fullmatch(id):
        raise BadRequest(f"{id[:64]!r} is no instance id", next_step="use letters, digits, dots and hyphens")
    return id


def _iso(files: Mapping[str, bytes], bmi_files: Mapping[str, bytes]) -> bytes:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=_LABEL, joliet=3, rock_ridge="1.09")
    iso.add_directory("/BMI", rr_name="bmi", joliet_path="/bmi")
    paths = {name: f"/{name}" for name in files} | {name: f"/bmi/{name}" for name in bmi_files}
    for number, (name, data) in enumerate({**files, **bmi_files}.items()):
        # Only readers that know neither Rock Ridge nor Joliet see the short name.
        short = f"{paths[name].removesuffix(name).upper()}FILE{number}.;1"
        iso.add_fp(io.BytesIO(data), len(data), short, rr_name=name, joliet_path=paths[name])
    output = io.BytesIO()
    iso.write_fp(output)
    iso.close()
    return fix_dates(output.getvalue())
