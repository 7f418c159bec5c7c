"""Every statement of ours runs with the rights of the daemon's role, and none of these rights is one too many."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from listener.queries import load, sql_folder
from tests.support.roles import DAEMON, make_roles

MODULES = sorted(f.name.removesuffix(".sql") for f in sql_folder().joinpath("queries").iterdir())
# The installer's own, and the one utility statement, are left out.
STATEMENTS = [(module, name) for module in MODULES if module != "roles" for name in load(module) if name != "forget"]
_PARAMETER = re.compile(r"%%|%\((\w+)\)s|%s")
# What verbs other than those of sql/queries/ ask, each in its own words.
ELSEWHERE = {"listener.migration": "SELECT"}


def prepared(conn: "psycopg.Connection[Any]", text: str) -> str:
    """The statement with its values as parameters, ready to be explained as often as one likes."""
    numbers: dict[str, int] = {}

    def number(match: "re.Match[str]") -> str:
        if match[0] == "%%":
            return "%"
        return f"${numbers.setdefault(match[1] or str(len(numbers)), len(numbers) + 1)}"

    conn.execute(b"PREPARE one AS " + _PARAMETER.sub(number, text).encode())
    return f"EXPLAIN EXECUTE one({', '.join(['NULL'] * len(numbers))})" if numbers else "EXPLAIN EXECUTE one"


@pytest.fixture(scope="module")
def conn(server: Any, listener_template: str) -> Iterator["psycopg.Connection[Any]"]:
    """The superuser's, on a database where the daemon's role has what `install` grants it."""
    dsn = server.create_database("granted", listener_template)
    make_roles(dsn, DAEMON)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _, _, statement in _unlike(conn):
            conn.execute(statement)
        assert _unlike(conn) == []
        yield conn
    server.drop_database("granted")


def _unlike(conn: "psycopg.Connection[Any]") -> list[Any]:
    return conn.execute(load("roles")["unlike"], {"daemons": [DAEMON], "readers": []}).fetchall()


def refused(conn: "psycopg.Connection[Any]", explain: str) -> str | None:
    """What the daemon's role is refused, in PostgreSQL's words."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"SET LOCAL ROLE {DAEMON}")
            conn.execute(explain.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return str(error.diag.message_primary)
    return None


def test_every_right_that_a_statement_needs_is_granted_and_no_other(conn: "psycopg.Connection[Any]") -> None:
    """EXPLAIN asks for all rights of a statement, without running it."""
    held: dict[tuple[str, str], bool] = {
        (f"listener.{table}", right): ELSEWHERE.get(f"listener.{table}") == right
        for table, right in conn.execute(
            """SELECT c.relname, g.privilege_type FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
                WHERE c.relnamespace = 'listener'::regnamespace AND g.grantee = %s::regrole
                  AND c.relkind IN ('r', 'p', 'v')""",
            [DAEMON],
        ).fetchall()
    }
    assert len(held) > 50
    lacking = []
    for module, name in STATEMENTS:
        text = load(module)[name].decode()
        conn.execute("DEALLOCATE ALL")
        explain = prepared(conn, text)
        if denied := refused(conn, explain):
            lacking.append(f"sql/queries/{module}.sql: {name}: {denied}; grant it in sql/queries/roles.sql: unlike")
            continue
        named = {table for table, _ in held if re.search(rf"{re.escape(table)}\b", text)}
        for table, right in [key for key, needed in held.items() if not needed and key[0] in named]:
            with conn.transaction(force_rollback=True):
                conn.execute(f"REVOKE {right} ON {table} FROM {DAEMON}".encode())
                held[table, right] = refused(conn, explain) is not None
    assert lacking == []
    idle = sorted(f"{right} on {table}" for (table, right), needed in held.items() if not needed)
    assert idle == [], "no statement needs these; take them out of sql/queries/roles.sql: unlike"


def test_no_function_that_runs_with_the_owners_rights_is_open_to_all(conn: "psycopg.Connection[Any]") -> None:
    open_to_all = conn.execute(
        """SELECT p.proname FROM pg_proc p
            WHERE p.pronamespace = 'listener'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')"""
    ).fetchall()
    assert open_to_all == []
    loose = conn.execute(
        """SELECT p.proname FROM pg_proc p
            WHERE p.pronamespace = 'listener'::regnamespace AND p.prosecdef AND NOT p.proname LIKE 'capture%%'
              AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c = 'search_path=pg_catalog, pg_temp')"""
    ).fetchall()
    assert loose == [], "a search_path of the caller's would be looked through with the owner's rights"
