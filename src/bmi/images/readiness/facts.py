"""What was seen in a disk. It comes out of a stranger's image: nothing of it is believed to be well-formed."""

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict


class Facts(BaseModel):
    """Base of what was seen; frozen."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Partition(Facts):
    """A partition or a logical volume."""

    device: str
    content: str = ""
    type: str = ""


class DiskFacts(Facts):
    """The disk below the file systems."""

    table: str | None = None
    """`gpt`, `dos`, or none."""
    partitions: tuple[Partition, ...] = ()
    boot_code: bool = False
    """Whether the first sector has code for a BIOS."""
    bios_core: bool = False
    """Whether there is something that the code could start."""


class Initramfs(Facts):
    """What the newest kernel's initramfs holds."""

    path: str
    trouble: str = ""
    """Why it cannot be read; empty if it can."""
    names: tuple[str, ...] = ()
    texts: dict[str, str] = {}

    def modules(self) -> frozenset[str]:
        """Return the names of the kernel's modules in it, with underscores."""
        found = (re.fullmatch(r"(?:.*/)?([^/]+)\.ko(?:\.\w+)?", name) for name in self.names)
        return frozenset(match[1].replace("-", "_") for match in found if match)


class System(Facts):
    """An operating system."""

    device: str
    type: str = ""
    label: str = ""
    uuid: str = ""
    subvolume: str = ""
    mounted: dict[str, str] = {}
    names: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Versions of kernels."""
    builtin: tuple[str, ...] = ()
    texts: dict[str, str] = {}
    initramfs: Initramfs | None = None

    def text(self, path: str) -> str:
        """Return a small file, empty if there is none."""
        return self.texts.get(path, "")

    def lines(self, *beginnings: str) -> Iterator[str]:
        """Go through the lines of files, remarks left out."""
        for path, content in self.texts.items():
            if path.startswith(beginnings):
                yield from (
                    line.strip() for line in content.splitlines() if not line.lstrip().startswith("#")
                )

    def has(self, *programs: str) -> bool:
        """Say whether one of these programs is there, by its last name."""
        return any(path.rsplit("/", 1)[1] in programs for path in self.programs)

    def release(self, field: str) -> str:
        """Return a field of os-release(5)."""
        found = re.search(rf"^{field}=(.*)$", self.text("/etc/os-release"), re.MULTILINE)
        return found[1].strip().strip("\"'") if found else ""

    @property
    def name(self) -> str:
        """What the system calls itself."""
        return self.release("PRETTY_NAME") or self.text("/etc/redhat-release").strip() or "unknown"

    @property
    def family(self) -> str:
        """`debian`, `redhat`, or empty for others."""
        like = f"{self.release('ID')} {self.release('ID_LIKE')}".split()
        if {"debian", "ubuntu"} & set(like):
            return "debian"
        return "redhat" if {"rhel", "fedora", "centos"} & set(like) else ""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Versions of the kernels in /boot, in no order."""
        return tuple(
            name.removeprefix("/boot/vmlinuz-")
            for name in self.names
            if name.startswith("/boot/vmlinuz-") and "rescue" not in name
        )

    def command_lines(self) -> list[str]:
        """Return the kernel's command lines that the boot loader knows, recovery modes left out."""
        found = []
        for path in ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"):
            found += re.findall(r"^\s*linux(?:16|efi)?\s+\S+\s+(.*)$", self.text(path), re.MULTILINE)
        for path, content in self.texts.items():
            if path.startswith("/boot/loader/entries/") and "rescue" not in path:
                found += re.findall(r"^options\s+(.*)$", content, re.MULTILINE)
        variables = dict(re.findall(r"^(\w+)=(.*)$", self.text("/boot/grub2/grubenv"), re.MULTILINE))
        whole = [_expanded(line, variables) for line in found]
        return [line for line in whole if not {"single", "recovery"} & set(line.split())]

    @property
    def cloud_init(self) -> bool:
        """Whether cloud-init is there."""
        return self.has("cloud-init")

    @property
    def first_boot(self) -> bool:
        """Whether BMI's own first boot is there."""
        return "/usr/lib/bmi/node-setup" in self.names


class DiskReport(Facts):
    """Everything that was seen in a disk."""

    disk: DiskFacts
    loaders: tuple[str, ...] | None = None
    """Files of the EFI system partition, in small letters; None where there is none."""
    system: System | None = None


def options(line: str, name: str) -> list[str]:
    """Return the values that an option has on a kernel's command line."""
    return [word.partition("=")[2] for word in line.split() if word.partition("=")[0] == name]


def fstab(text: str) -> Iterable[tuple[str, str, str, frozenset[str]]]:
    """Go through an fstab: what is mounted, where, its type, its options."""
    for line in text.splitlines():
        fields = line.split("#")[0].split()
        if len(fields) >= 3:
            yield (
                fields[0],
                fields[1],
                fields[2],
                frozenset((fields[3] if len(fields) > 3 else "").split(",")),
            )


def _expanded(line: str, variables: dict[str, str]) -> str:
    """Put GRUB's variables in."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables.get(match[1] or match[2], ""), line)
