"""A throw-away PostgreSQL for the demo and the tests: private, fast, and gone with its owner.

Nothing is installed or changed outside one private folder. As root, which PostgreSQL refuses to run as, the server
gets an existing unprivileged account.
"""

import atexit
import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from listener.errors import ListenerError, OutOfReachError
from listener.simulator.binaries import CURE, WHEEL, can_run, copy_wheel, find_binaries, permits
from listener.simulator.watchdog import Account, Watchdog

ROOM = 1 << 30  # bytes; a cluster is 40 MB, its WAL may grow to WAL_LIMIT, the rest is for data
WAL_LIMIT = "256MB"
SOCKET_PATH_LIMIT = 100  # bytes; sun_path holds 104 on macOS, 108 on Linux
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0


class Server:
    """One PostgreSQL server with a cluster of its own.

    ``stop``, ``crash`` and ``restart`` keep the data for the next ``start``; ``close``, the end of the ``with`` block
    and the end of this process, however it comes, leave neither process nor folder. All methods block: call them
    through a thread where an event loop must go on. Faults are raised as ListenerError.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, str | int] | None = None,
        durable: bool = False,
        tcp: bool = False,
        standby_of: "Server | None" = None,
    ) -> None:
        """Prepare; nothing runs before ``start``.

        ``settings`` go into postgresql.conf. ``durable`` keeps the cluster on disk with fsync on; without it a crash
        of the server loses nothing, a crash of the machine everything. ``tcp`` adds a port on loopback with a password
        and makes ``dsn`` point there; without it only the socket in the private folder is open. With ``standby_of`` a
        running server the cluster is a copy that streams from it until ``promote``.
        """
        self._settings = dict(settings or {})
        self._durable = durable
        self._tcp = tcp
        self._port = 5432
        self._primary = standby_of
        self._password: str = secrets.token_hex(16) if standby_of is None else standby_of._password
        self._watchdog: Watchdog | None = None
        self._folder = Path()
        self._bin = Path()
        self._pid: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._pid is None:
            raise OutOfReachError("the throw-away PostgreSQL is not running")
        return self._pid

    @property
    def folder(self) -> Path:
        """The private folder; gone after ``close``."""
        return self._folder

    @property
    def log(self) -> str:
        """All that initdb and the server have printed."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Return when the server accepts connections; the first time, make the cluster. No effect when it runs."""
        try:
            with _as_listener_error():
                if self._watchdog is not None and self._pid is not None and self._watchdog.exited(0) is None:
                    return
                watchdog = self._watchdog or self._create()
                self._pid = watchdog.run(
                    str(self._bin / "postgres"),
                    *("-D", str(self._folder / "data")),
                    *("-c", f"config_file={self._folder / 'postgresql.conf'}"),
                )
                self._wait_until_ready(watchdog)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Shut down cleanly, ending all sessions; the data stays."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Shut down as a power cut would, but for what the kernel already holds: the next start runs recovery."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop cleanly and start again, on the same socket and port."""
        self.stop()
        self.start()

    def promote(self) -> None:
        """Make a standby the primary of a new timeline; return when it takes writes."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, %s)", [int(START_TIMEOUT)])

    def snapshot(self) -> None:
        """Copy the data of a stopped server, for ``rewind``."""
        self._copy("data", "snapshot")

    def rewind(self) -> None:
        """Put the data of the last ``snapshot`` back, as who restores a virtual machine does; the server is stopped."""
        (self._folder / "data").rename(self._folder / "future")
        self._copy("snapshot", "data")
        shutil.rmtree(self._folder / "future")

    def close(self) -> None:
        """End the server and remove everything. May be called again; a later ``start`` begins a new cluster."""
        atexit.unregister(self.close)
        watchdog, self._watchdog, self._pid = self._watchdog, None, None
        if watchdog is not None:
            watchdog.close()

    def dsn(self, dbname: str = "postgres") -> str:
        """A libpq connection string for the superuser ``postgres``."""
        where = {"host": "127.0.0.1", "password": self._password} if self._tcp else {"host": str(self._folder / "run")}
        return make_conninfo(port=self._port, user="postgres", dbname=dbname, **where)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, a copy of ``template`` (default: empty), and return its DSN.

        Nobody may be connected to the template.
        """
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template1")
            )
        )
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the sessions in it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)

    def _create(self) -> Watchdog:
        """Make the folder and the cluster in it."""
        account = _account()
        found = find_binaries()
        copied = account is not None and not can_run(found / "postgres", account)
        if account and copied and WHEEL not in found.parts:
            raise ListenerError(f"PostgreSQL would run as user {account.uid}, who may not read {found}: {CURE}")
        self._folder = _choose_folder(account, in_memory=not self._durable, executable=copied)
        self._watchdog = watchdog = Watchdog(str(self._folder), account)
        atexit.register(self.close)
        self._bin = copy_wheel(found, self._folder / "wheel", account) if copied and account else found
        if self._tcp:
            self._port = _free_port()
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self._password + "\n")
        (self._folder / "postgresql.conf").write_text(self._configuration(), encoding="utf-8")
        if account is not None:
            os.chown(password, account.uid, account.gid)
            os.chown(self._folder / "postgresql.conf", account.uid, account.gid)
        if self._primary is None:
            watchdog.run(
                str(self._bin / "initdb"),
                *("--pgdata", str(self._folder / "data"), "--no-sync", "--username=postgres"),
                *("--locale=C", "--encoding=UTF8"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile", str(password)),
            )
        else:
            primary = make_conninfo(host=str(self._primary.folder / "run"), port=self._primary._port, user="postgres")
            watchdog.run(
                str(self._bin / "pg_basebackup"),
                *("--pgdata", str(self._folder / "data"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
                *("--dbname", primary),
            )
        if watchdog.exited(START_TIMEOUT) != 0:
            raise ListenerError(f"no cluster could be made:\n{self.log.strip()}")
        return watchdog

    def _copy(self, source: str, target: str) -> None:
        """Copies a folder of the private one as the server's user; whatever was in ``target`` is gone."""
        assert self._watchdog is not None and self._pid is None, "only of a server that is stopped"
        folder = self._folder / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if account := _account():
            os.chown(folder, account.uid, account.gid)
        with _as_listener_error():
            self._watchdog.run("cp", "-a", f"{self._folder / source}/.", f"{folder}/")
            if self._watchdog.exited(START_TIMEOUT) != 0:
                raise ListenerError(f"no copy could be made:\n{self.log.strip()[-500:]}")

    def _configuration(self) -> str:
        settings: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": self._port,
            "unix_socket_directories": str(self._folder / "run"),
            "fsync": "on" if self._durable else "off",
            "max_wal_size": WAL_LIMIT,
            "timezone": "UTC",
            "log_timezone": "UTC",
        } | self._settings
        lines = [f"include {_quoted(self._folder / 'data' / 'postgresql.conf')}"]
        lines += [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        return "\n".join(lines) + "\n"

    def _wait_until_ready(self, watchdog: Watchdog) -> None:
        status = self._folder / "data" / "postmaster.pid"
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until:
            # Line 1 is the postmaster's id, line 8 its state: src/include/utils/pidfile.h of PostgreSQL, as pg_ctl.
            lines = status.read_text().splitlines() if status.exists() else []
            if len(lines) >= 8 and lines[0] == str(self._pid) and lines[7].strip() == "ready":
                return
            if watchdog.exited(0.01) is not None:
                self._pid = None
                raise ListenerError(f"the throw-away PostgreSQL did not start:\n{self.log.strip()[-2000:]}")
        raise ListenerError(f"the throw-away PostgreSQL was not ready within {START_TIMEOUT:g} s")

    def _end(self, how: signal.Signals) -> None:
        if self._watchdog is None or self._pid is None:
            return
        with _as_listener_error():
            self._watchdog.signal(how)
            if self._watchdog.exited(STOP_TIMEOUT) is None:
                raise ListenerError(f"the throw-away PostgreSQL did not stop within {STOP_TIMEOUT:g} s")
        self._pid = None


@contextlib.contextmanager
def _as_listener_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ListenerError(f"the throw-away PostgreSQL failed: {error}") from error


def _quoted(value: object) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _account() -> Account | None:
    """Whom the server runs as when we are root, else None. initdb refuses a user id without a name."""
    if os.geteuid() != 0:
        return None
    entries = {entry.pw_name: entry for entry in reversed(pwd.getpwall()) if entry.pw_uid != 0}
    for name in ("postgres", "nobody", *entries):
        if entry := entries.get(name):
            return Account(entry.pw_uid, entry.pw_gid)
    raise ListenerError("PostgreSQL cannot run as root, and this machine has no other user")


def _choose_folder(account: Account | None, *, in_memory: bool, executable: bool) -> Path:
    """A name for the private folder, not made yet, where there is room and everybody concerned can go."""
    name = f"listener-pg-{secrets.token_hex(6)}"
    for parent in (*([Path("/dev/shm")] if in_memory else []), Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108
        parent = parent.resolve()
        if (
            os.access(parent, os.W_OK | os.X_OK)
            and shutil.disk_usage(parent).free >= ROOM
            and len(os.fsencode(parent / name / "run" / ".s.PGSQL.65535.lock")) <= SOCKET_PATH_LIMIT
            and (account is None or all(permits(path, account, 1) for path in (parent, *parent.parents)))
            and not (executable and os.statvfs(parent).f_flag & getattr(os, "ST_NOEXEC", 0))
        ):
            return parent / name
    raise ListenerError(f"no temporary folder has {ROOM >> 30} GB free and is open to the server's user; set TMPDIR")


def _free_port() -> int:
    """A free port below the ranges that systems take client ports from, so that a restart finds it free again."""
    while True:
        port = random.randint(15_000, 31_999)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
