"""PgBouncer before a server of the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Debian puts it where not everybody's PATH looks.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONFIG = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 30
"""


@contextmanager
def pooler(dsn: str, mode: str) -> Iterator[str]:
    """The connection string by way of a pooler in this mode (`session` or `transaction`)."""
    assert PROGRAM is not None
    parts = conninfo_to_dict(dsn)
    # It refuses to run as root: it runs as the server does, whose folder the socket is in.
    owner = Path(str(parts["host"])).stat()
    with tempfile.TemporaryDirectory(prefix="listener-pooler-") as name:
        folder = Path(name)
        port = _free_port()
        config = folder / "pgbouncer.ini"
        config.write_text(CONFIG.format(host=parts["host"], port=parts["port"], listen=port, mode=mode))
        for path in (folder, config):
            os.chown(path, owner.st_uid, owner.st_gid)
        with (folder / "log").open("wb") as log:
            whom = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
            process = subprocess.Popen([PROGRAM, str(config)], stdout=log, stderr=log, **whom)
        through = make_conninfo(host="127.0.0.1", port=port, dbname=parts["dbname"], user="postgres", sslmode="disable")
        try:
            _wait_for(through, process, folder / "log")
            yield through
        finally:
            process.kill()
            process.wait()


def _wait_for(dsn: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = monotonic() + 20
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None and monotonic() < end, log.read_text()
            sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
