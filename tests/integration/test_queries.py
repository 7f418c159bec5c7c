"""Every named statement of `sql/queries/` is one that PostgreSQL takes, on the schema as it is, and that is used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import listener
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


def asked_for(source: str) -> Iterator[str]:
    """The names that a module may ask for; of `f"counts_{meaning}"` the fixed part, `counts_`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
                yield start
            case ast.Constant(value=str(name)):
                yield name


@pytest.mark.parametrize("module", MODULES)
def test_every_statement_is_used(module: str) -> None:
    # The page's handlers ask by name through `store`, and settling shares what `messages` has loaded.
    through = {"web": "listener.web", "messages": "import SQL, to_json"}.get(module, f'load("{module}")')
    sources = [file.read_text(encoding="utf-8") for file in Path(listener.__file__).parent.rglob("*.py")]
    names = {n for source in sources if f'load("{module}")' in source or through in source for n in asked_for(source)}
    begun = tuple(name for name in names if name.endswith("_"))
    assert not [name for name in load(module) if name not in names and not name.startswith(begun)]
