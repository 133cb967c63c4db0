"""A PostgreSQL server of the lab's own, as user postgres, without the host's service manager.

Everything of it lies in one folder. The server outlives the one that started it; its record is in the folder.
"""

import os
import re
import secrets
import shutil
import signal
from pathlib import Path

import psutil

from bmi import processes
from bmi.errors import CommandFailed, PortTaken
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

SYSTEM_USER = "postgres"
"""Whom the server runs as: it refuses to be root. Debian's package makes this user."""
ROLE = "bmi"
"""Who owns the lab's database; an ordinary role that may also make databases, which tests do."""

_HAS_ROLE = "SELECT 1 FROM pg_roles WHERE rolname = 'bmi'"
_HAS_DATABASE = "SELECT 1 FROM pg_database WHERE datname = 'bmi'"

_PROGRAMS = Path("/usr/lib/postgresql")  # a folder for each version, as Debian has it
_START_DEADLINE = 30.0  # seconds; 0.2 s on an idle machine, longer after a crash of a busy server
_STOP_DEADLINE = 30.0  # seconds; a fast shut-down writes a checkpoint
_INITDB_TIMEOUT = 120.0  # seconds; 0.6 s on an idle machine
_CONNECTIONS = 200  # for several processes of BMI, each with a pool of its own and the engine's
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": str(_CONNECTIONS),
    "shared_buffers": "32MB",
    "log_line_prefix": "%m [%p] %a ",
    # In the folder, which goes with the server; a server that is killed would leave segments in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
_SEGMENTS = Path("/proc/sysvipc/shm")
_ATTACHED = 6  # its column with the number of processes that use a segment
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """One server, with one database and its owner."""

    def __init__(self, folder: Path, port: int, *, fast: bool = False) -> None:
        """Say where the server is.

        Args:
            folder: Folder of its files. User postgres must be able to enter the folders above it, and the path
                must be short, for the Unix socket in it.
            port: TCP port on loopback.
            fast: Whether a crash of the host may cost the data; for tests.
        """
        self.folder = folder.absolute()
        self.port = port
        self._fast = fast

    @property
    def url(self) -> str:
        """Where BMI finds the database, for the setting `database.url`; the password is in a file."""
        return self.url_of(ROLE)

    def url_of(self, database: str, password_file: Path | None = None) -> str:
        """Return where BMI finds another database of this server.

        Args:
            database: Its name.
            password_file: A copy of the password file, for another user than root.
        """
        file = password_file or self.password_file
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}?passfile={file}"

    @property
    def password_file(self) -> Path:
        """The role's password, in the form that PostgreSQL's clients read (`.pgpass`)."""
        return self.folder / "pgpass"

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder / "log"

    def up(self) -> None:
        """Make the server and its database, or whatever of it is missing, and start it.

        Raises:
            CommandFailed: A program is missing or failed; the message has its last words.
            PortTaken: Another program listens on the port.
            DeadlineExceeded: The server does not answer in time.
        """
        self._program("initdb")  # before anything is made
        self._make_folder()
        self._make_password()
        self._make_cluster()
        self.start()
        self._make_role_and_database()

    def down(self) -> None:
        """End the server and remove everything of it.

        Raises:
            DeadlineExceeded: It cannot be ended.
        """
        self.kill()
        self._remove_segment()
        shutil.rmtree(self.folder, ignore_errors=True)
        # Once more for the case that its last process was still writing; now what cannot go is an error.
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start the server, if it does not run, and wait until it lets clients in.

        Raises:
            CommandFailed: It ended at once; the message has its last words.
            PortTaken: Another program listens on the port.
            DeadlineExceeded: It does not answer in time.
        """
        process = self._find()
        if process is None:
            end = self.log.stat().st_size if self.log.exists() else 0
            process = processes.start(self._server(), record=self._record, log=self.log)
        else:
            end = 0
        wait_until(
            lambda: self._ready() or self._require_alive(process, end),
            deadline=_START_DEADLINE,
            what=f"PostgreSQL in {self.folder} to let clients in",
            next_step=f"look at {self.log}",
        )

    def stop(self) -> None:
        """Shut the server down in order; clients lose their connections, no data is lost.

        Raises:
            DeadlineExceeded: It does not end.
        """
        process = self._find()
        if process is None:
            return
        process.signal(signal.SIGINT)  # "fast": SIGTERM would wait until the last client leaves
        wait_until(
            lambda: not process.alive(),
            deadline=_STOP_DEADLINE,
            what=f"PostgreSQL in {self.folder} to end",
            next_step=f"look at {self.log}, or kill it",
        )

    def kill(self) -> None:
        """End the server and all that it started at once, as a crash of its host would.

        Raises:
            DeadlineExceeded: A process hangs in the kernel.
        """
        process = self._find()
        if process is None:
            return
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        # First the one that would start new ones; the others notice only after a while that it is gone.
        process.stop(kill=True)
        for child in children:
            if (found := Process.of(child.pid)) and child.is_running():
                found.stop(kill=True)

    def _remove_segment(self) -> None:
        """Remove the System V segment of a server that was killed; its next start would, if it had one.

        Line 7 of the pid file has its key and its id.
        """
        try:
            key, id = self._pid_file.read_text().splitlines()[6].split()
        except (FileNotFoundError, IndexError, ValueError):
            return
        for line in _SEGMENTS.read_text().splitlines()[1:]:
            fields = line.split()
            if (fields[0], fields[1], fields[_ATTACHED]) == (key, id, "0"):
                run(["ipcrm", "--shmem-id", id])

    def alive(self) -> bool:
        """Say whether the server runs."""
        return self._find() is not None

    def sql(self, script: str, *, database: str = "postgres") -> str:
        """Run SQL as the server's superuser, over its Unix socket, and return the rows as plain text.

        Args:
            script: The statements; they may hold secrets.
            database: The database to run them in.

        Raises:
            CommandFailed: A statement failed.
        """
        psql = [
            *self._as_server(self._program("psql")),
            *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
            *(f"--host={self.folder}", f"--port={self.port}", f"--username={SYSTEM_USER}", database),
        ]
        return run(psql, input=script.encode(), cwd=self.folder)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.folder, SYSTEM_USER, SYSTEM_USER)
        self.folder.chmod(0o700)

    def _make_password(self) -> None:
        if self.password_file.exists():
            return
        partial = self.folder / "pgpass.part"
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"127.0.0.1:{self.port}:*:{ROLE}:{secrets.token_urlsafe(24)}\n")
        partial.rename(self.password_file)

    def _make_cluster(self) -> None:
        if self._data.exists():
            return
        # What a predecessor left that died in initdb.
        partial = self.folder / "data.part"
        shutil.rmtree(partial, ignore_errors=True)
        run(
            [
                *self._as_server(self._program("initdb")),
                *(f"--pgdata={partial}", f"--username={SYSTEM_USER}", "--auth-local=peer"),
                *("--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
                *(["--no-sync"] if self._fast else []),
            ],
            timeout=_INITDB_TIMEOUT,
            cwd=self.folder,
        )
        partial.rename(self._data)

    def _make_role_and_database(self) -> None:
        password = self.password_file.read_text().strip().rpartition(":")[2]
        if not self.sql(_HAS_ROLE).strip():
            self.sql(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'")
        if not self.sql(_HAS_DATABASE).strip():
            self.sql(f"CREATE DATABASE {ROLE} OWNER {ROLE}")

    def _server(self) -> list[str]:
        settings = _SETTINGS | (_FAST if self._fast else {})
        settings |= {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        return [
            *self._as_server(self._program("postgres")),
            *("-D", str(self._data)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]

    def _ready(self) -> bool:
        try:
            run([self._program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"])
        except CommandFailed:
            return False
        # Somebody else's server may answer on the port while ours is about to fail.
        return self._find() is not None and self._pid_file.read_text().splitlines()[-1].startswith("ready")

    def _require_alive(self, process: Process, end: int) -> bool:
        if process.alive():
            return False
        with self.log.open("rb") as log:
            log.seek(end)
            words = log.read().decode(errors="replace").strip()
        if "Address already in use" in words:
            raise PortTaken(
                f"PostgreSQL cannot listen on port {self.port} of 127.0.0.1: another program has it",
                next_step="end that program, or choose another port",
            )
        raise CommandFailed(
            f"PostgreSQL ended at once: {words[-500:] or 'it said nothing'}",
            next_step=f"mend that; its log is {self.log}",
        )

    def _find(self) -> Process | None:
        """Return the server, also one whose starter died before it could write the record."""
        if process := processes.recorded(self._record):
            return process
        try:
            pid = int(self._pid_file.read_text().split(maxsplit=1)[0])
            words = psutil.Process(pid).cmdline()
        except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
            return None
        # After a crash of the host another program may have the number.
        return Process.of(pid) if str(self._data) in words else None

    def _as_server(self, program: Path) -> list[str]:
        return [
            *("setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--init-groups", "--"),
            str(program),
        ]

    def _program(self, name: str) -> Path:
        """Return a program of the newest PostgreSQL that is installed.

        Raises:
            CommandFailed: There is none.
        """
        versions = [path for path in _PROGRAMS.glob("*") if re.fullmatch(r"\d+", path.name)]
        newest = max(versions, key=lambda path: int(path.name), default=None)
        if newest is None:
            raise CommandFailed(
                f"there is no PostgreSQL in {_PROGRAMS}", next_step="install the Debian package postgresql-15"
            )
        return newest / "bin" / name

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _pid_file(self) -> Path:
        return self._data / "postmaster.pid"

    @property
    def _record(self) -> Path:
        return self.folder / "postgres.json"
