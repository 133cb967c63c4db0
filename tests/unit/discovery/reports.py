"""Reports of machines, and frames of switches, as tests need them."""

from collections.abc import Sequence

MAC = "52:54:00:11:22:33"
OTHER = "52:54:00:11:22:34"

REPORT = f"""\
bmi-inspection\t1
boot\t{MAC}
firmware\tbios
vendor\tQEMU
product\tStandard PC (i440FX + PIIX, 1996)
serial\tS-1
uuid\t6ab2f0a6-5f6c-4c4e-9a57-4f3a5ed3b4a1
cpu\tQEMU Virtual CPU version 2.5+
cpus\t2
memory\t481284
disk\tvda\t67108864\t1\t\tscratch
disk\tsda\t1000204886016\t0\tSAMSUNG MZ7LH960\tS45N
disk\tnvme0n1\t960197124096\t0\tINTEL SSDPE2KX010T8\tPHLJ
card\teth0\t{MAC}\tvirtio_net\t1\t-1
card\teth1\t{OTHER}\te1000\t0\t1000
"""
"""What the inspection system reports of a virtual machine with more disks than it has."""


def element(kind: int, content: bytes) -> bytes:
    return (kind << 9 | len(content)).to_bytes(2, "big") + content


def frame(
    switch: str = "tor1", port: str = "port7", *, description: str = "", chassis: bytes = b"\x04\2\0\0\0\0\1"
) -> bytes:
    """Return an LLDP frame."""
    return b"".join(
        (
            bytes.fromhex("0180c200000e020000000001"),
            b"\x88\xcc",
            element(1, chassis),
            element(2, b"\x05" + port.encode()),
            element(3, b"\0\x78"),
            element(4, description.encode()) if description else b"",
            element(5, switch.encode()),
            element(0, b""),
        )
    )


def reported(*, heard: Sequence[tuple[str, bytes]] = (), boot: str = MAC) -> bytes:
    """Return a report of a machine whose cards heard frames."""
    text = REPORT.replace(f"boot\t{MAC}", f"boot\t{boot}")
    return (text + "".join(f"lldp\t{card}\t{data.hex()}\n" for card, data in heard)).encode()
