"""What stands between the database and the wanted triggers, and the steps from the one to the other."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql

from listener.capture.triggers import Capture
from listener.database import Connection, lacks_right, refusal
from listener.errors import ListenerError
from listener.queries import load, pieces

SQL = load("capture")

# A trigger's lock makes every later writer of the table queue behind it: do not wait long for it. And less than
# deadlock_timeout, for where we and the ERP wait for each other it is we who give way.
LOCK_TIMEOUT = "800ms"
# times to try for the lock on a busy table
_TRIES = 8


class Step(StrEnum):
    """What `db install` would do."""

    CREATE = "create"
    REPLACE = "replace"
    ENABLE = "enable"
    DROP = "drop"
    GRANT = "grant"
    REVOKE = "revoke"


# Until these are taken nothing goes by unseen.
HARMLESS = frozenset({Step.DROP, Step.GRANT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One step from what is installed to what the rules want."""

    step: Step
    watch: str
    what: str
    statement: str
    # False if it takes the right of another role, such as the owner of another table
    ours: bool = True


async def differences(conn: Connection, captures: Sequence[Capture]) -> list[Difference]:
    """What stands between the database and `captures`; empty when they agree."""
    functions = {r["name"]: r for r in await (await conn.execute(SQL["installed_functions"], {})).fetchall()}
    rows = await (await conn.execute(SQL["installed_triggers"], {})).fetchall()
    triggers = {(r["oid"], r["name"]): r for r in rows if not r["copy"]}
    wanted = {(trigger.oid, trigger.name) for capture in captures for trigger in capture.triggers}
    surplus = [row for place, row in triggers.items() if place not in wanted]
    steps = [
        Difference(step=Step.REPLACE, watch="", what=row["what"], statement=row["statement"])
        for row in await (await conn.execute(SQL["spoilt"], {})).fetchall()
    ]
    for capture in captures:
        steps += _drops(conn, (row for row in surplus if _watch(row) == capture.watch))
        there = functions.pop(capture.function, None)
        if there is None or not _is_right(there, capture):
            step = Step.CREATE if there is None else Step.REPLACE
            what = f"function listener.{capture.function}"
            steps.append(Difference(step=step, watch=capture.watch, what=what, statement=capture.function_sql))
        for trigger in capture.triggers:
            found = triggers.get((trigger.oid, trigger.name))
            what = f"trigger {trigger.name} on {trigger.table}"
            if found is None or found["comment"] != trigger.comment:
                step = Step.CREATE if found is None else Step.REPLACE
                steps.append(Difference(step=step, watch=capture.watch, what=what, statement=trigger.statement))
        steps += await _owners_steps(conn, capture)
    gone = {(row["function"], row["name"]) for row in surplus}
    steps += [
        _trigger_step(conn, Step.ENABLE, "enable_trigger", row)
        for row in rows
        if not row["enabled"] and (row["function"], row["name"]) not in gone
    ]
    watches = {capture.watch for capture in captures}
    steps += _drops(conn, (row for row in surplus if _watch(row) not in watches))
    for name in functions:
        drop = sql.SQL(pieces("capture.sql")["drop_function"]).format(function=sql.Identifier("listener", name))
        steps.append(
            Difference(
                step=Step.DROP,
                watch=name.removeprefix("capture_"),
                what=f"function listener.{name}",
                statement=drop.as_string(conn).strip(),
            )
        )
    return steps


async def _owners_steps(conn: Connection, capture: Capture) -> list[Difference]:
    """What the owner of a partitioned table needs, so that partitions can be added to it."""
    if not capture.table.moved_by:
        return []
    args = {
        "functions": [capture.function, "mark_move"],
        "tables": [capture.table.oid, *(oid for oid, _, _ in capture.table.partitioned)],
    }
    grant = sql.SQL("GRANT EXECUTE ON FUNCTION {function}() TO {owner}")
    return [
        Difference(
            step=Step.GRANT,
            watch=capture.watch,
            what=f"EXECUTE on {row['function']}() to {row['owner']}, to add partitions",
            statement=grant.format(
                function=sql.Identifier("listener", row["function"]), owner=sql.Identifier(row["owner"])
            ).as_string(conn),
        )
        for row in await (await conn.execute(SQL["may_not_copy"], args)).fetchall()
    ]


def _is_right(function: Mapping[str, Any], capture: Capture) -> bool:
    return bool(function["body"] == capture.body and function["definer"] and set(function["config"]) == capture.config)


def _watch(trigger: Mapping[str, Any]) -> str:
    """Whose an installed trigger is."""
    if trigger["function"] == "mark_move":
        return str(trigger["name"]).partition("listener_")[2].rpartition("_")[0]
    return str(trigger["function"]).removeprefix("capture_")


def _drops(conn: Connection, triggers: Iterable[Mapping[str, Any]]) -> list[Difference]:
    return [_trigger_step(conn, Step.DROP, "drop_trigger", row) for row in triggers]


def _trigger_step(conn: Connection, step: Step, template: str, row: Mapping[str, Any]) -> Difference:
    statement = sql.SQL(pieces("capture.sql")[template]).format(
        trigger=sql.Identifier(row["name"]), table=sql.Identifier(row["schema"], row["table_name"])
    )
    return Difference(
        step=step,
        watch=_watch(row),
        what=f"trigger {row['name']} on {row['schema']}.{row['table_name']}",
        statement=statement.as_string(conn).strip(),
    )


async def apply(conn: Connection, steps: Sequence[Difference], say: Callable[[str], None]) -> None:
    """Takes `steps`, waiting for a busy table only briefly and often.

    Those of one watch are one transaction: a trigger that runs another function than it was made for writes down what
    never was, and one that makes way for another may neither leave a gap nor run beside it. Raises `ListenerError` when
    a table stays locked, the right to it is missing, or PostgreSQL refuses a step.
    """
    for watch, some in groupby(steps, key=lambda step: step.watch):
        together = list(some)
        for batch in [together] if watch else [[step] for step in together]:
            for step in batch:
                say(f"{step.step.value} {step.what}")
            await _take(conn, batch, say)


async def _take(conn: Connection, steps: Sequence[Difference], say: Callable[[str], None]) -> None:
    for attempt in range(1, _TRIES + 1):
        step = steps[0]
        try:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                # No operator or function that an ERP role put in our way is taken for PostgreSQL's own.
                await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
                for step in steps:
                    await conn.execute(step.statement.encode(), prepare=False)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == _TRIES:
                raise ListenerError(
                    f"{step.what}: the table is locked by others; try again at a quieter time"
                ) from None
            say(f"  the table is busy, trying again ({attempt} of {_TRIES})")
            await asyncio.sleep(attempt * 0.5)
        except psycopg.Error as error:
            if conn.closed:
                raise
            said = f"{step.what}: {refusal(error)}"
            if not lacks_right(error):
                raise ListenerError(said) from None
            if step.what.startswith("role "):
                cure = step.statement.replace("NOLOGIN", "LOGIN PASSWORD '...'")
                raise ListenerError(f"there is no {step.what}; let somebody who may make roles run: {cure}") from None
            owner = "the table" if step.what.startswith("trigger") else "the schema `listener`"
            raise ListenerError(f"{said}; run it as the owner of {owner}") from None


async def uninstall(conn: Connection, say: Callable[[str], None]) -> None:
    """Removes triggers, functions and the schema with all that is in it, telling each. Raises as `apply`."""
    steps = [step for step in await differences(conn, []) if step.step is Step.DROP]
    statement = "DROP SCHEMA IF EXISTS listener CASCADE"
    steps.append(Difference(step=Step.DROP, watch="", what="schema listener", statement=statement))
    await apply(conn, steps, say)


async def unfinished(conn: Connection) -> int:
    """Changes and messages that an `uninstall` would lose."""
    row = await (await conn.execute(SQL["unfinished"], {})).fetchone()
    return int(row["n"]) if row else 0


async def warnings(conn: Connection, captures: Sequence[Capture], *, doorbell: bool) -> list[str]:
    """What weakens listener's promises here and no step can mend, each with its consequence."""
    row = await (await conn.execute(SQL["habits"], {})).fetchone()
    assert row is not None
    found = []
    if row["fsync"] != "on":
        found.append("fsync is off: a crash of the server may forget what was sent, and send it again")
    if row["prepared"] > 0 and doorbell:
        found.append(
            "two-phase commits are possible here: a ring makes PREPARE TRANSACTION fail; use LISTENER_DOORBELL=off"
        )
    found += [
        f"watch {capture.watch}: PostgreSQL tells nobody which rows TRUNCATE {capture.table} removes"
        for capture in captures
        if any(trigger.name.endswith("_delete") for trigger in capture.triggers)
    ]
    rows = await (await conn.execute(SQL["subscribed"], {"tables": [c.table.oid for c in captures]})).fetchall()
    subscribed = {row["oid"] for row in rows}
    found += [
        f"watch {capture.watch}: {capture.table} is filled by a subscription, and nothing that comes that way is "
        "captured: install in the database that the ERP itself writes to"
        for capture in captures
        if capture.table.oid in subscribed
    ]
    return found
