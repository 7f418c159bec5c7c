"""Every named statement of `sql/queries/` is one that PostgreSQL takes, on the schema as it is."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from listener.queries import load, sql_folder

MODULES = sorted(f.name.removesuffix(".sql") for f in sql_folder().joinpath("queries").iterdir())
# PREPARE takes no utility statement, of which there is one.
UTILITY = {("lookups", "forget")}
STATEMENTS = [(module, name) for module in MODULES for name in load(module) if (module, name) not in UTILITY]
_PARAMETER = re.compile(r"%%|%\((\w+)\)s|%s")


@pytest.fixture(scope="module")
def prepared(server: Any, listener_template: str) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(server.create_database("queries", listener_template), autocommit=True) as conn:
        yield conn
    server.drop_database("queries")


@pytest.mark.parametrize(("module", "name"), STATEMENTS, ids=[f"{m}.{n}" for m, n in STATEMENTS])
def test_a_statement_is_prepared(prepared: "psycopg.Connection[Any]", module: str, name: str) -> None:
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        return f"${numbers.setdefault(match[1] or str(len(numbers)), len(numbers) + 1)}"

    statement = _PARAMETER.sub(number, load(module)[name].decode())
    assert "--" not in statement, "comments are dropped on loading"
    with prepared.transaction():
        prepared.execute(b"PREPARE one AS " + statement.encode())
        types = prepared.execute(
            "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'one'"
        ).fetchone()
        prepared.execute("DEALLOCATE one")
    assert types is not None and len(types[0]) == len(numbers)
