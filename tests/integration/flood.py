"""Sends or receives frames as fast as it can, in a process of its own: a thread would slow down what is tested.

flood.py send INTERFACE DESTINATION SOURCES [FIRST LAST]
    frames from that many MAC addresses in turn, 0 for the interface's own, tagged with each of these VLANs in turn
    if any are given, until stdin ends
flood.py receive INTERFACE
    prints the frames received when stdin ends, as JSON
"""

import json
import os
import select
import socket
import struct
import sys
import time

ETHERTYPE = 0x88B6  # for local experiments (IEEE 802)
CONTENT = "!Id"  # the sender's process id, and when it was sent in seconds of the monotonic clock
PAUSE = 0.00005  # seconds between two frames; more would only fill the queues of the switch


def send(interface: str, destination: str, sources: int, vlans: range) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0))
        own = out.getsockname()[4]
        macs = [b"\x06\x00" + struct.pack("!I", number) for number in range(sources)] or [own]
        tags = [struct.pack("!HH", 0x8100, vlan) for vlan in vlans] or [b""]
        heads = [
            bytes.fromhex(destination) + mac + tag + struct.pack("!H", ETHERTYPE)
            for mac in macs
            for tag in tags
        ]
        print("ready", flush=True)
        number = 0
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            head = heads[number % len(heads)]
            out.send(head + struct.pack(CONTENT, os.getpid(), time.monotonic()).ljust(46, b"."))
            number += 1


def receive(interface: str) -> None:
    found: list[tuple[int, float, float]] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as into:
        into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        into.bind((interface, ETHERTYPE))
        print("ready", flush=True)
        while True:
            ready = select.select([into, sys.stdin], [], [])[0]
            if into not in ready:
                break
            sender, sent = struct.unpack_from(CONTENT, into.recv(2048), 14)
            found.append((sender, sent, time.monotonic()))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        first, last = map(int, sys.argv[5:] or (1, 0))
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]), range(first, last + 1))
    else:
        receive(sys.argv[2])
