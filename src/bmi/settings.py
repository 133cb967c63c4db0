"""Configuration: defaults, then one TOML file, then `BMI_*` environment variables."""

import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bmi.api.common import DOMAIN, DOMAIN_LENGTH
from bmi.errors import SettingsInvalid

EXPORT_PORTS = 4096
"""Ports from `boot.iscsi_port` on that exports use; so no network has more addresses than that."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that nobody else can listen to."""

DEFAULT_FILE = Path("/etc/bmi/bmi.toml")
TEMPLATES = Path("/etc/bmi/templates")


def _plain_path(path: str) -> str:
    names = path.removeprefix("/").split("/")
    if path and not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name, re.ASCII) for name in names):
        raise ValueError(
            "must be a path of letters, digits, dots, hyphens and underscores, none of them hidden"
        )
    return path


LoaderFile = Annotated[str, Field(max_length=200), AfterValidator(_plain_path)]
"""A file's path that is safe in dnsmasq's configuration and in a URL, and does not lead upwards; or nothing."""


class Section(BaseModel):
    """Base of the settings' sections: a misspelled name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Driver(Section):
    """Which driver to use, and what only that driver knows."""

    driver: str
    options: dict[str, Any] = {}


class SwitchDriver(Driver):
    """A switch that nodes are plugged into."""

    lldp_name: str | None = None
    """What it calls itself by LLDP: its system name, with or without the domain, or its chassis id. As it is called
    here, if absent."""


class Api(Section):
    """Where the tenants' API listens. Never on a provisioning network."""

    host: str = "127.0.0.1"
    port: int = Field(6230, ge=1, le=65535)
    trusted_proxies: list[IPv4Network | IPv6Network] = []
    """Networks of proxies in front of the API: from these alone X-Forwarded-For is taken for who asks."""
    certificate: Path | None = None
    """PEM file of a certificate, followed by those between it and the authority; without, the API speaks HTTP."""
    certificate_key: Path | None = None
    """PEM file of its private key, without a passphrase."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key are needed both, or none of them")
        return self


class Access(Section):
    """How long people stay logged in, and how often they may mistype."""

    session_idle: float = Field(8 * 3600, ge=60)
    """Seconds after which a session ends that is not used."""
    session_limit: float = Field(7 * 86400, ge=60)
    """Seconds after which a session ends."""
    attempts: int = Field(10, ge=1)
    """Log-ins under one name from one address that may fail in a row."""
    name_attempts: int = Field(100, ge=1)
    """The same from all addresses together."""
    address_attempts: int = Field(50, ge=1)
    """Log-ins from one address that may fail in a row; and wrong tokens, in each process of the API."""
    pause: float = Field(30, gt=0)
    """Seconds after which each of them is forgotten, one after the other."""


class Database(Section):
    """Where the state is kept."""

    url: str | None = None
    """SQLAlchemy URL; an SQLite file in the state folder if absent."""


class Networks(Section):
    """What new networks are made from."""

    first_vlan: int = Field(100, ge=1, le=4094)
    last_vlan: int = Field(199, ge=1, le=4094)
    subnets: IPv4Network = IPv4Network("10.64.0.0/12")
    """Every network gets a part of this."""
    prefix: int = Field(24, ge=20, le=28)
    """Length of a network's own prefix."""
    gateways: int = Field(4, ge=1, le=8)
    """Addresses at the end of each network that are kept for gateways."""
    domain: str = Field("bmi.internal", pattern=rf"^{DOMAIN}$", max_length=DOMAIN_LENGTH)
    """What nodes' names end with, NODE.PROJECT.DOMAIN, on networks that have no domain of their own."""


class Gateway(Section):
    """This host as a gateway."""

    name: str | None = None
    """What it is called; the host's name if absent."""


class Worker(Section):
    """This host as a worker."""

    name: str | None = None
    """What it is called; the host's name if absent. No two workers have the same."""


class Helper(Section):
    """The process that does what takes root's rights, so that the others need none."""

    socket: Path | None = None
    """Where it is asked; without, a gateway has to be root and does all of it itself."""
    state_dir: Path = Path("/var/lib/bmi-helper")
    """Its own folder, which nobody but root may write."""
    user: str = "bmi"
    """Who may ask: the user, by name or number, that the other processes run as."""


class Cleaning(Section):
    """How local disks of nodes are wiped between two tenants."""

    image: str | None = None
    """Image that wipes them, made with `bmi image build debian --cleaner`; without, nothing is wiped."""
    project: str = "cleaning"
    """Project that the image boots in, and whose network it is."""
    network: str = "cleaning"
    """Network of that project."""
    automatic: bool = True
    """Whether each node that a tenant had is cleaned; else only those for which an admin asks."""
    method: Literal["full", "quick"] = "full"
    """`full` writes zeros to the whole of each disk, and looks whether they are there; `quick` discards, and
    overwrites what tells of partitions and file systems."""
    deadline: float = Field(6 * 3600, gt=0)
    """Seconds until a node must have reported."""


class InventorySettings(Section):
    """The site's own inventory, which says whose a node is; see docs/hil.md."""

    driver: str
    options: dict[str, Any] = {}
    projects: dict[str, str] = {}
    """The inventory's name of a project, by BMI's; the same if it is not here."""
    switch: str = "hil"
    """Name of the switch in the settings that the ports of imported nodes belong to."""
    power: str = "hil"
    """Power driver of imported nodes."""
    boot_nic: str | None = None
    """Label of the network card that nodes boot from; the first that the inventory lists if None."""


class Discovery(Section):
    """How machines are found that nobody has registered."""

    enabled: bool = False
    """Whether they are answered on the network below, and only there."""
    project: str = "discovery"
    """Project whose network it is."""
    network: str = "discovery"
    """Network of that project; its DHCP has to be `full`."""
    inspector: Path | None = None
    """Folder with the inspection system, `vmlinuz` and `initrd.img`; `inspector` in the cache folder if absent."""
    afterwards: Literal["wait", "off"] = "wait"
    """Whether a machine that has reported stays on, or switches itself off."""
    lldp_seconds: int = Field(32, ge=0, le=120)
    """For how long it listens to its switches at the most; they speak every 30 s by default (IEEE 802.1AB)."""
    pending: int = Field(200, ge=1, le=1000)
    """Machines that are kept until somebody enrols them; of more, those go that were not heard of for longest."""
    keep_days: float = Field(30, gt=0, le=3650)
    """For how many days one is kept that reports no more."""
    reports_per_minute: int = Field(60, ge=1, le=6000)
    """That are taken, of all machines together, by each gateway."""


class Images(Section):
    """What snapshots may become."""

    max_depth: int = Field(10, ge=1, le=100)
    """How many images and disks, one behind the other, an image may depend on; deeper ones are refused.

    Each one makes reading slower. In stores of files none depends on another.
    """
    trash_days: float = Field(7, ge=0, le=3650)
    """For how many days an image that was deleted can be taken back; then it is removed for good."""


class Intake(Section):
    """What may come in as an image, and where it lies until it is one."""

    spool: Path | None = None
    """Folder of uploads, of files on their way in and of exports; `spool` in the state folder if None.

    Where the API and workers run on different hosts, a folder that they share.
    """
    max_size: ByteSize = Field(ByteSize(1 << 40), ge=1 << 20)
    """Bytes that a file, and the disk in it, may have."""
    reserve: ByteSize = Field(ByteSize(1 << 30), ge=0)
    """Bytes that stay free on the spool's file system."""
    uploads: int = Field(20, ge=1)
    """Unfinished uploads that a project may have."""
    keep: float = Field(86400, gt=0)
    """Seconds that an upload is kept to which nothing comes any more, and that an export can be fetched."""
    deadline: float = Field(7200, gt=0)
    """Seconds that fetching, and that reading or converting one file, may take."""
    networks: list[IPv4Network | IPv6Network] = []
    """Networks that are not public and that URLs may lead to all the same."""


class ApplianceLimits(Section):
    """The small virtual machine that looks into disks and changes them."""

    enabled: bool = True
    """Whether there is one; without it images cannot be checked, prepared or given keys from outside."""
    memory: int = Field(1024, ge=512, le=65536)
    """MiB."""
    seconds: float = Field(1800, ge=60)
    """For one disk; without KVM a preparation takes minutes."""
    kvm: bool = False
    """Whether it uses /dev/kvm, which makes it some five times faster where that works."""


class GroupRights(Section):
    """What the members of a provider's group may do."""

    admin: bool = False
    """Everything, in every project."""
    projects: dict[str, Literal["viewer", "member", "manager"]] = {}
    """Roles, by the project's name."""


class Oidc(Section):
    """An OpenID Connect provider that people log in by."""

    issuer: str = Field(pattern=r"^https?://[^\s?#]+$")
    """Its issuer, exactly as it calls itself; https, except on the loopback interface."""
    client_id: str = Field(min_length=1)
    """What BMI is registered as there, with redirect URIs http://127.0.0.1 and http://localhost, any port."""
    client_secret_file: Path | None = None
    """File with the client's secret; none for a public client."""
    ca_file: Path | None = None
    """PEM file of the authorities that sign the provider's certificate; the host's own if absent."""
    scopes: list[str] = ["openid", "profile", "email", "groups"]
    name_claim: str = "preferred_username"
    """Claim with what a person is called."""
    groups_claim: str = "groups"
    """Claim with the names of a person's groups, in the ID token or the answer of the userinfo endpoint."""
    groups: dict[str, GroupRights] = {}
    """What the members of groups may do; whoever is in none of them cannot log in."""
    timeout: float = Field(10, gt=0, le=60)
    """Seconds that the provider may take for an answer."""

    @field_validator("issuer")
    @classmethod
    def _secret_on_its_way(cls, issuer: str) -> str:
        url = urlsplit(issuer)
        if url.scheme != "https" and url.hostname not in LOOPBACK:
            raise ValueError("must begin with https://")
        return issuer


class Loaders(Section):
    """What firmware loads first: iPXE, or what leads to it.

    Files in `boot.tftp_root`, or absolute paths. An empty one means that such firmware is told of nothing to load.
    """

    bios: LoaderFile = "undionly.kpxe"
    """By TFTP, as the next two: these lie within `boot.tftp_root`."""
    uefi_x64: LoaderFile = "snponly.efi"
    uefi_arm64: LoaderFile = ""
    """Debian 12 has none; later ones have ipxe-arm64.efi in their package ipxe."""
    http_x64: LoaderFile = "snponly.efi"
    """By UEFI HTTP boot, as the next one."""
    http_arm64: LoaderFile = ""
    beside: list[LoaderFile] = []
    """What a loader asks for, over HTTP, where it came from itself, such as a shim for iPXE."""


class Boot(Section):
    """What nodes are served while they boot."""

    http_port: int = Field(8080, ge=1, le=65535)
    """Port of the boot scripts, on the gateway's leg of each network."""
    iscsi_port: int = Field(3260, ge=1, le=61439)
    """First of 4096 ports: each export has its own, counted by the node's place in its network."""
    tftp_root: Path = Path("/usr/lib/ipxe")
    """Folder with iPXE's loaders; whatever is in it can be fetched by every node, over TFTP."""
    loaders: Loaders = Loaders()
    leases: Path | None = None
    """Folder of the files of DHCP leases, which a reboot empties if absent."""
    templates: Path | None = None
    """Folder with templates that replace BMI's own; /etc/bmi/templates where that exists if absent."""
    iqn_prefix: str = Field("iqn.2026-01.internal.bmi", pattern=r"^iqn\.\d{4}-\d{2}\.[a-z0-9.-]+$")

    @model_validator(mode="after")
    def _loaders_can_be_served(self) -> Self:
        for name in ("bios", "uefi_x64", "uefi_arm64"):
            file = Path(getattr(self.loaders, name))
            if file.is_absolute() and not file.is_relative_to(self.tftp_root):
                raise ValueError(
                    f"loaders.{name} is not within tftp_root {self.tftp_root}, all that TFTP serves"
                )
        named: dict[str, Path] = {}
        for file in map(Path, (self.loaders.http_x64, self.loaders.http_arm64, *self.loaders.beside)):
            if file.name and named.setdefault(file.name, self.tftp_root / file) != self.tftp_root / file:
                raise ValueError(
                    f"loaders has two files with the name {file.name}, which HTTP cannot tell apart"
                )
        return self


class Console(Section):
    """What is kept of what nodes say on their serial consoles."""

    enabled: bool = True
    """Whether workers listen to the consoles of nodes in use."""
    boot_size: ByteSize = Field(ByteSize(1 << 20), ge=1 << 16, le=1 << 26)
    """Bytes that are kept of one start of a node; of more, the latest."""
    boots: int = Field(10, ge=1, le=100)
    """How many starts of a node are kept."""


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        env_prefix="BMI_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state_dir: Path = Path("/var/lib/bmi")
    cache_dir: Path = Path("/var/cache/bmi")
    """What can be made again: built images, packages."""
    api: Api = Api()
    access: Access = Access()
    database: Database = Database()
    storage: Driver = Driver(driver="local")
    target: Driver = Driver(driver="tgt")
    leg: Driver = Driver(driver="ovs")
    power: dict[str, dict[str, Any]] = {"redfish": {}}
    """Options of each power driver that nodes may use, by the driver's name."""
    switches: dict[str, SwitchDriver] = {}
    inventory: InventorySettings | None = None
    networks: Networks = Networks()
    images: Images = Images()
    cleaning: Cleaning = Cleaning()
    discovery: Discovery = Discovery()
    intake: Intake = Intake()
    boot: Boot = Boot()
    console: Console = Console()
    appliance: ApplianceLimits = ApplianceLimits()
    oidc: Oidc | None = None
    gateway: Gateway = Gateway()
    worker: Worker = Worker()
    helper: Helper = Helper()
    key_file: Path | None = None
    """What secrets in the database are sealed with, the same for all processes; `secret.key` in the state folder
    if absent."""
    convergence_interval: float = Field(60, gt=0)
    """Seconds between two comparisons of the database with what really exists."""

    @field_validator("boot")
    @classmethod
    def _apart(cls, boot: Boot) -> Boot:
        if boot.http_port in range(boot.iscsi_port, boot.iscsi_port + EXPORT_PORTS):
            raise ValueError(
                f"http_port {boot.http_port} is one of the {EXPORT_PORTS} ports from iscsi_port on"
            )
        return boot

    @field_validator("state_dir", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @property
    def spool(self) -> Path:
        """Folder of uploads, of files on their way in and of exports."""
        return self.intake.spool or self.state_dir / "spool"

    @property
    def inspector(self) -> Path:
        """Folder with the inspection system's kernel and initramfs."""
        return self.discovery.inspector or self.cache_dir / "inspector"

    @property
    def template_folder(self) -> Path | None:
        """Folder with templates that replace BMI's own, if there is one."""
        return self.boot.templates or (TEMPLATES if TEMPLATES.exists() else None)

    @property
    def vault_file(self) -> Path:
        """File of the keys that secrets in the database are sealed with."""
        return self.key_file or self.state_dir / "secret.key"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database in use."""
        return self.database.url or f"sqlite:///{self.state_dir / 'bmi.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which is passed as arguments."""
        return (env_settings, init_settings)


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        file: The TOML file; `$BMI_CONFIG` if None, then /etc/bmi/bmi.toml where that exists.

    Raises:
        SettingsInvalid: The file cannot be read, or a value cannot be used; the error names it.
    """
    named = file or (Path(os.environ["BMI_CONFIG"]) if "BMI_CONFIG" in os.environ else None)
    path = named or DEFAULT_FILE
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        if named:
            raise SettingsInvalid(
                f"settings file {path} does not exist", next_step="name another file, or make it"
            ) from error
        values = {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"settings file {path} cannot be read: {error}", next_step="check its owner and mode"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(
            f"settings file {path} is not TOML: {error}", next_step="correct that line"
        ) from error
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SettingsInvalid(
            f"setting {name}: {first['msg']}",
            next_step=f"correct it in {path} or in the environment (BMI_{name.upper().replace('.', '__')})",
        ) from error
