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


# What a finished message is not: joined, or leased.
OVER = {"joins", "lease_until"}
# What only another request would need, and what has ended for good gets none.
NEVER_AGAIN = OVER | {
    "ticket_note", "no_ticket", "if_unsure", "max_block", "save", "recheck", "quiet_at", "quiet_until",
}  # fmt: skip
# What comes of being in the queue.
NEVER_BEGAN = OVER | {
    "thread_id", "ticket_sent", "ticket_id", "ticket_note", "no_ticket", "permits", "attempts", "unsure", "lease",
    "created_at", "order_at", "due_at", "expires_at",
}  # fmt: skip
LEFT_OUT = {
    "insert_finished": NEVER_BEGAN,
    "finish": OVER,
    "expire": OVER,
    "replace": NEVER_AGAIN,
    "supersede": NEVER_AGAIN,
    # the answer to its last request may still come, with a ticket to be written back
    "cancel": NEVER_AGAIN - {"save"},
    "arrived": NEVER_AGAIN - {"save"},
}


def test_a_finished_message_keeps_every_fact_that_is_asked_for_later(prepared: "psycopg.Connection[Any]") -> None:
    """Each statement names thirty columns; one that it forgot would be lost without a word."""
    whole = {c.name for c in prepared.execute("SELECT * FROM listener.finished LIMIT 0").description or ()}
    filing = re.compile(r"INSERT INTO listener\.finished \(([\w\s,]+)\)")
    named = {
        name: set(re.split(r",\s*", found[1]))
        for module in MODULES
        for name, statement in load(module).items()
        if (found := filing.search(statement.decode()))
    }
    assert {name: whole - columns for name, columns in named.items()} == LEFT_OUT


def test_what_is_sent_again_is_all_that_it_was(prepared: "psycopg.Connection[Any]") -> None:
    whole = {c.name for c in prepared.execute("SELECT * FROM listener.message LIMIT 0").description or ()}
    found = re.search(r"INSERT INTO listener\.message \(([\w\s,]+)\)", load("interventions")["retry_finished"].decode())
    assert found is not None
    anew = {"due_at", "settled_at", "ticket_id", "held_by", "looks", "look_at"}
    assert whole - set(re.split(r",\s*", found[1])) == OVER | anew


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
