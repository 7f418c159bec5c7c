"""A real PostgreSQL for every test process; a database of its own for every test; a disk that is soon full."""

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from listener import migrations, queries
from listener.simulator.postgres import Server

# How long an example takes says something about the machine, not about the code.
settings.register_profile("listener", deadline=None)
settings.load_profile("listener")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def erp_template(server: Server) -> str:
    """The name of a database that holds the sample ERP; nobody may stay connected to it."""
    with psycopg.connect(server.create_database("erp_template")) as connection:
        connection.execute(queries.read("demo/erp.sql").encode())
    return "erp_template"


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The DSN of an empty database."""
    yield from _fresh(server, None)


@pytest.fixture
def erp_database(server: Server, erp_template: str) -> Iterator[str]:
    """The DSN of a database that holds the sample ERP."""
    yield from _fresh(server, erp_template)


@pytest.fixture(scope="session")
def listener_template(server: Server) -> str:
    """The name of a database with listener's schema and nothing else; nobody may stay connected to it."""
    with psycopg.connect(server.create_database("listener_template")) as connection:
        connection.execute(migrations.script(migrations.migrations()).encode())
    return "listener_template"


@pytest.fixture
def listener_database(server: Server, listener_template: str) -> Iterator[str]:
    """The DSN of a database that holds listener's schema."""
    yield from _fresh(server, listener_template)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 6 MB, to be given to whoever is to fill it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a small file system")
    folder = Path(tempfile.mkdtemp(prefix="listener-small-", dir="/dev/shm"))
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def _fresh(server: Server, template: str | None) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield server.create_database(name, template)
    server.drop_database(name)
