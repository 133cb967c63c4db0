"""The process that gives ipmi_sim a node's serial line over TCP: `python -m bmi.lab.serial_process FOLDER`.

ipmi_sim has the socket of QEMU's line only for itself, and for good; this one shares it (see `SerialLine`).
"""

import socket
import sys
import threading
from pathlib import Path

from bmi.lab.ipmi import node_of
from bmi.lab.serial_line import SerialLine

_LISTEN = 0.5  # seconds of one wait for what the node says
_CHUNK = 4096


def serve(folder: Path) -> None:
    """Connect whoever comes to the loopback port with the line; the port is written into FOLDER/serial.port."""
    node = node_of(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = folder / "serial.port"
        part = port.with_name("serial.port.part")
        part.write_text(str(listener.getsockname()[1]))
        part.rename(port)
        while True:
            client, _ = listener.accept()
            with client:
                _connect(client, SerialLine(node))


def _connect(client: socket.socket, line: SerialLine) -> None:
    def listen() -> None:
        try:
            while not gone.is_set():
                if said := line.read(_LISTEN):
                    client.sendall(said)
        except OSError:
            pass

    gone = threading.Event()
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        while typed := client.recv(_CHUNK):
            line.write(typed)
    except OSError:
        pass
    finally:
        gone.set()
        listener.join()
        line.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
