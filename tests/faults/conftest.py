"""A server of its own for what harms a server."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from listener.simulator.postgres import Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def crashable() -> Iterator[Server]:
    """A server to crash, fill and freeze. What it wrote survives that: the kernel holds it, in long runs the disk."""
    durable = os.environ.get("LISTENER_LONG") == "1"
    with Server(durable=durable, settings={"max_connections": 60}) as server:
        yield server


@pytest.fixture
def crashable_database(crashable: Server) -> Iterator[str]:
    """The DSN of an empty database on it."""
    crashable.start()
    name = f"crash_{next(_numbers)}"
    yield crashable.create_database(name)
    crashable.start()
    crashable.drop_database(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder belongs to the fault bench."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
