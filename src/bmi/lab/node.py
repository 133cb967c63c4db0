"""One node of the lab: a QEMU machine without disks that stands for a physical server."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from bmi.drivers import Outcome
from bmi.drivers.power import BootDevice
from bmi.errors import CommandFailed, SettingsInvalid, WrongState
from bmi.lab import qmp
from bmi.processes import Process, recorded, start
from bmi.run import run
from bmi.wait import wait_until

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
IPXE_FOR_UEFI = Path("/usr/lib/ipxe/qemu/efi-virtio.rom")

# KVM is never used: where it is nested, firmware runs and Linux hangs. Without a bound the translated code of
# one node grows to 1 GiB; 128 MiB costs 3 % more processor time and a third of the memory.
_ACCELERATOR = "tcg,thread=multi,tb-size=128"
# Every feature that TCG can do, since distributions ask for x86-64-v2 and v3; five-level page tables cost 6 %.
_PROCESSOR = "max,la57=off"
# The services that boot the nodes come first: a DHCP answer that is late is lost.
_NICENESS = "5"

_OVMF = (
    "opt/org.tianocore"  # where OVMF looks for settings that QEMU hands it (edk2, OvmfPkg/RUNTIME_CONFIG.md)
)

_START_DEADLINE = 15.0  # seconds until QEMU takes orders; 0.03 s on an idle host
_END_DEADLINE = 5.0  # seconds until a QEMU that was told to quit is gone
_POLL = 0.002  # seconds between two looks at a QEMU that starts
_LOG_KEPT = 2000  # bytes of QEMU's output that are worth a reader's time
_SOCKET_PATH_MAX = 107  # bytes of a Unix socket's path (unix(7))

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"


class NetworkBoot(StrEnum):
    """Who asks for the boot program."""

    IPXE = "ipxe"
    """iPXE in the NIC's option ROM."""
    FIRMWARE = "firmware"
    """The PXE client of the UEFI firmware, as in most servers: DHCP, then a boot program over TFTP."""
    HTTP = "http"
    """The HTTP client of the UEFI firmware alone: DHCP, then a boot program from the URL in the answer."""


@dataclass(frozen=True)
class VirtualNic:
    """A network card and the tap that is its cable."""

    mac: str
    tap: str
    """Name of a tap interface that exists already."""


@dataclass(frozen=True)
class NodeSpec:
    """What a node is like.

    Raises:
        SettingsInvalid: A value cannot be used.
    """

    name: str
    id: UUID
    """The system's UUID, in Redfish and in what the operating system reads from SMBIOS."""
    nics: tuple[VirtualNic, ...] = ()
    """The first one boots from the network."""
    namespace: str | None = None
    """Network namespace of all taps; the host's own if None."""
    firmware: Firmware = Firmware.BIOS
    network_boot: NetworkBoot = NetworkBoot.IPXE
    memory: int = 512
    """MiB."""
    scratch: int = 0
    """Bytes of a disk of its own; it has none if 0."""
    cpus: int = 1

    def __post_init__(self) -> None:
        for value, pattern in [
            (self.name, _NAME),
            *((nic.mac, _MAC) for nic in self.nics),
            *((nic.tap, _INTERFACE) for nic in self.nics),
        ]:
            if not pattern.fullmatch(value):
                raise SettingsInvalid(
                    f"lab node {self.name!r}: {value!r} does not match {pattern.pattern}",
                    next_step="correct the lab's description",
                )
        if self.network_boot is not NetworkBoot.IPXE and self.firmware is Firmware.BIOS:
            raise SettingsInvalid(
                f"lab node {self.name!r}: a BIOS has no network boot of its own",
                next_step="take firmware uefi or network boot ipxe",
            )


class VirtualNode:
    """A node and its power button.

    What it does is read from the folder, so that any process can make an object for the same node. QEMU outlives
    the process that started it.

    Args:
        spec: What the node is like.
        folder: The node's own folder; made when needed.

    Raises:
        SettingsInvalid: The folder's path is too long for the sockets in it.
    """

    def __init__(self, spec: NodeSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder.absolute()
        self._lock = threading.RLock()
        if len(bytes(self.console)) > _SOCKET_PATH_MAX:
            raise SettingsInvalid(
                f"the path {self.console} is longer than the {_SOCKET_PATH_MAX} bytes of a Unix socket",
                next_step="put the lab into a folder with a shorter path",
            )

    @property
    def console(self) -> Path:
        """Unix socket of the serial line; one reader at a time."""
        return self.folder / "console.sock"

    @property
    def console_log(self) -> Path:
        """What the serial line said since power on, whether somebody listened or not."""
        return self.folder / "console.log"

    @property
    def previous_console_log(self) -> Path:
        """What the serial line said the time before."""
        return self.folder / "console.log.1"

    @property
    def process(self) -> Process | None:
        """The QEMU process, if the node is on."""
        return recorded(self._record)

    def is_on(self) -> bool:
        """Say whether the node has power."""
        # A starter that was killed between start and record leaves a QEMU that only its socket tells of.
        return self.process is not None or qmp.listens(self._monitor)

    def power_on(self) -> Outcome:
        """Switch on and wait until QEMU has really taken up its work. A node that is on stays on.

        Raises:
            CommandFailed: A tap does not exist, or QEMU ended at once; the message has its last words.
        """
        with self._lock:
            if self.is_on():
                return Outcome.ALREADY
            self._check_cables()
            self._lay_out()
            device = self.boot_device()
            self._booted.write_text(device)
            said = self._log.stat().st_size if self._log.exists() else 0
            process = start(
                ["nice", "-n", _NICENESS, *qemu_command(self.spec, self.folder, device)],
                record=self._record,
                log=self._log,
                namespace=self.spec.namespace,
            )
            process.on_exit(lambda: None)  # reaps it, when it ends while this process lives
            wait_until(
                lambda: qmp.greets(self._monitor) or not process.alive(),
                deadline=_START_DEADLINE,
                what=f"QEMU of node {self.spec.name} to start",
                next_step=f"look at the host's load and at {self._log}",
                poll=_POLL,
            )
            if not process.alive():
                raise CommandFailed(
                    f"QEMU of node {self.spec.name} ended at once: {self._last_words(said)}",
                    next_step="mend what it complains about and switch the node on again",
                )
            return Outcome.DONE

    def power_off(self) -> Outcome:
        """Take the power away at once, and wait until nothing of the node runs."""
        with self._lock:
            if not self.is_on():
                return Outcome.ALREADY
            # A starter that was killed between start and record leaves a QEMU that only its socket tells of.
            for process in (self.process, qmp.owner(self._monitor)):
                if process:
                    process.stop(kill=True)
            wait_until(
                lambda: not self.is_on(),
                deadline=_END_DEADLINE,
                what=f"QEMU of node {self.spec.name} to end",
                next_step="look for its process and end it",
            )
            return Outcome.DONE

    def shut_down(self) -> None:
        """Press the power button shortly: an operating system that listens (ACPI) shuts down and powers off.

        Raises:
            CommandFailed: QEMU does not answer.
        """
        if self.is_on():
            qmp.execute(self._monitor, "system_powerdown")

    def reset(self) -> None:
        """Press the reset button.

        Raises:
            WrongState: The node is off.
            CommandFailed: QEMU does not answer, or does not start again.
        """
        with self._lock:
            if not self.is_on():
                raise WrongState(f"node {self.spec.name} is off", next_step="switch it on instead")
            if self._booted.read_text() == self.boot_device():
                qmp.execute(self._monitor, "system_reset")
            else:  # QEMU reads the boot order when it starts, firmware at each reset
                self.power_off()
                self.power_on()

    def boot_device(self) -> BootDevice:
        """Say what the firmware starts from: the disk that is not there, until somebody chooses otherwise."""
        try:
            return BootDevice(self._device.read_text())
        except FileNotFoundError:
            return BootDevice.DISK

    def boot_override(self) -> BootDevice | None:
        """Say what somebody chose to start from; None if nobody did."""
        return self.boot_device() if self._device.exists() else None

    def forget_boot_device(self) -> None:
        """Start from what the firmware is set to itself."""
        with self._lock:
            self._device.unlink(missing_ok=True)

    def set_boot_device(self, device: BootDevice) -> None:
        """Choose what the firmware starts from; it holds until it is chosen anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock, _replacing(self._device) as part:
            part.write_text(device)

    @property
    def _record(self) -> Path:
        return self.folder / "qemu.json"

    @property
    def _log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def _monitor(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def _device(self) -> Path:
        return self.folder / "boot-device"

    @property
    def _booted(self) -> Path:
        """Remembers what the running QEMU was told to boot from."""
        return self.folder / "booted-from"

    def _check_cables(self) -> None:
        """Make sure that the taps exist: QEMU would make those that do not, without a switch behind them."""
        taps = {nic.tap for nic in self.spec.nics}
        if not taps:
            return
        links = json.loads(run(["ip", "-json", "link", "show", "type", "tun"], namespace=self.spec.namespace))
        if missing := taps - {link.get("ifname") for link in links}:
            where = f"namespace {self.spec.namespace}" if self.spec.namespace else "the host"
            raise CommandFailed(
                f"node {self.spec.name} has no cable: {where} has no tap {', '.join(sorted(missing))}",
                next_step="make the taps, then switch the node on again",
            )

    def _lay_out(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.console_log.exists():
            self.console_log.rename(self.previous_console_log)
        variables = _variables(self.folder)
        if self.spec.firmware is Firmware.UEFI and not variables.exists():
            with _replacing(variables) as part:
                shutil.copyfile(OVMF_VARIABLES, part)
        disk = scratch(self.folder)
        if self.spec.scratch and not disk.exists():
            with _replacing(disk) as part, part.open("wb") as file:
                file.truncate(self.spec.scratch)

    def _last_words(self, since: int) -> str:
        with self._log.open("rb") as log:
            log.seek(since)
            words = log.read().decode(errors="replace").strip()
        return words[-_LOG_KEPT:] or "it said nothing"


def qemu_command(spec: NodeSpec, folder: Path, device: BootDevice) -> list[str]:
    """Return the QEMU command of a node.

    Args:
        spec: What the node is like.
        folder: The node's own folder.
        device: What the firmware starts from.
    """
    command = ["qemu-system-x86_64", "-name", spec.name, "-uuid", str(spec.id)]
    command += ["-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"]
    # graphics=off lets SeaBIOS and with it iPXE speak on the serial line.
    command += ["-machine", "q35,graphics=off", "-accel", _ACCELERATOR, "-cpu", _PROCESSOR]
    command += ["-m", str(spec.memory), "-smp", str(spec.cpus), "-device", "virtio-rng-pci"]
    command += ["-qmp", f"unix:{_word(folder / 'qmp.sock')},server=on,wait=off"]
    socket, log = _word(folder / "console.sock"), _word(folder / "console.log")
    command += ["-chardev", f"socket,id=serial,path={socket},server=on,wait=off,logfile={log}"]
    command += ["-device", "isa-serial,chardev=serial"]
    if spec.firmware is Firmware.UEFI:
        code, variables = _word(OVMF_CODE), _word(_variables(folder))
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    for number, nic in enumerate(spec.nics):
        # vnet_hdr=off: the switch would pass on packets whose checksum only the host's kernel could complete.
        tap = f"tap,id=net{number},ifname={nic.tap},script=no,downscript=no,vnet_hdr=off"
        boots = device is BootDevice.NETWORK and number == 0
        rom = _boot_rom(spec) if boots else ",romfile="
        command += ["-netdev", tap, "-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac}{rom}"]
    if spec.scratch:
        file = f"if=none,id=scratch,format=raw,discard=unmap,file={_word(scratch(folder))}"
        command += ["-drive", file, "-device", "virtio-blk-pci,drive=scratch,serial=scratch"]
    return [*command, *_boot_order(spec, device)]


def scratch(folder: Path) -> Path:
    """Return the file that is a node's own disk."""
    return folder / "scratch.raw"


def _boot_rom(spec: NodeSpec) -> str:
    if spec.firmware is Firmware.BIOS:
        return ""  # QEMU's own choice is iPXE
    if spec.network_boot is NetworkBoot.IPXE:
        return f",romfile={_word(IPXE_FOR_UEFI)},bootindex=0"
    return ",romfile=,bootindex=0"


def _boot_order(spec: NodeSpec, device: BootDevice) -> list[str]:
    """Say where to boot from.

    A BIOS that finds nothing tries again after the reboot timeout (ms): a node that missed its DHCP answer must
    not stay dead. OVMF goes on to the next device and ends in its shell.
    """
    if spec.firmware is Firmware.BIOS:
        return ["-boot", f"order={'n' if device is BootDevice.NETWORK else 'c'},reboot-timeout=3000"]
    if device is BootDevice.NETWORK:
        # The card's boot index stands for its PXE clients, which come first, and its HTTP clients.
        without_pxe = [f"name={_OVMF}/{version}PXESupport,string=no" for version in ("IPv4", "IPv6")]
        over_http = spec.network_boot is NetworkBoot.HTTP
        return [word for item in without_pxe for word in ("-fw_cfg", item)] if over_http else []
    # OVMF boots from the network by itself unless it is told of something else: an empty disk.
    return [
        *("-blockdev", "driver=null-co,node-name=empty,size=1048576,read-zeroes=on"),
        *("-device", "virtio-blk-pci,drive=empty,bootindex=0"),
    ]


def _variables(folder: Path) -> Path:
    return folder / "nvram.fd"


def _word(path: Path) -> str:
    """Write a path as the value of a QEMU option, where a comma ends a value."""
    return str(path).replace(",", ",,")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file to write, and put it in place of another in one step."""
    part = path.with_name(f"{path.name}.part")
    yield part
    part.rename(path)
