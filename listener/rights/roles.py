"""Roles, and the steps between the rights that they have and those that they need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from psycopg import sql

from listener.capture import Difference, Step
from listener.database import Connection
from listener.errors import ListenerError
from listener.queries import load
from listener.rights.needs import Grant

SQL = load("roles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who plays which part here: those asked for, and those that were given the part before."""

    daemons: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    # asked for and not there yet
    absent: tuple[str, ...] = ()
    # asked for, but nobody can connect as it yet
    shut: tuple[str, ...] = ()


async def roles(conn: Connection, daemon: str | None = None, reader: str | None = None) -> Roles:
    """The roles that have a part, with those asked for. Raises `ListenerError` when one of these cannot have it."""
    known = await (await conn.execute(SQL["known"], {})).fetchall()
    absent, shut = [], []
    for name in filter(None, (daemon, reader)):
        found = await (await conn.execute(SQL["role"], {"role": name})).fetchone()
        if found is None:
            absent.append(name)
        elif found["super"] or found["owns"]:
            why = "is a superuser" if found["super"] else "owns the schema `listener`, or will"
            raise ListenerError(f"the role {name} {why}: give the part to a role that may do less")
        if found is None or not found["login"]:
            shut.append(name)
    if daemon is not None and daemon == reader:
        raise ListenerError("the daemon and the readers need roles of their own: a reader may do less")
    return Roles(
        daemons=_with(daemon, (row["name"] for row in known if row["daemon"])),
        # A reader may have been given one view alone on purpose: only the one asked for is given both.
        readers=_with(reader, ()),
        absent=tuple(absent),
        shut=tuple(shut),
    )


async def readers(conn: Connection) -> list[str]:
    """Roles that were given the view `messages` and are no daemon's."""
    known = await (await conn.execute(SQL["known"], {})).fetchall()
    return [row["name"] for row in known if not row["daemon"]]


async def own_steps(conn: Connection, wanted: Roles) -> list[Difference]:
    """What is to be done so that everybody has the rights to the schema `listener` that they need, and no others."""
    create = [
        Difference(
            step=Step.CREATE,
            watch="",
            what=f"role {name}",
            statement=sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)).as_string(conn),
        )
        for name in wanted.absent
    ]
    args = {"daemons": list(wanted.daemons), "readers": list(wanted.readers)}
    rows = await (await conn.execute(SQL["unlike"], args)).fetchall()
    return create + [
        Difference(step=Step(row["step"]), watch="", what=row["what"], statement=row["statement"]) for row in rows
    ]


async def erp_steps(conn: Connection, wanted: Roles, needs: Iterable[Grant]) -> list[Difference]:
    """Grants of what the rules make the daemon touch, and of what was granted for older rules the end."""
    needed = await _objects(conn, needs)
    keys = {(role, _key(thing)) for role in wanted.daemons for thing in needed}
    steps = []
    for role in wanted.daemons:
        steps += _steps(conn, Step.GRANT, role, await _lacking(conn, role, needed))
    given = [row for row in await _given(conn) if (row["role"], _key(row)) not in keys]
    for role, rows in groupby(given, key=lambda row: row["role"]):
        steps += _steps(conn, Step.REVOKE, role, list(rows))
    return steps


async def take_back(conn: Connection) -> list[Difference]:
    """Ends every right to the ERP's own that `install` ever granted."""
    return await erp_steps(conn, Roles(), ())


async def left_to(conn: Connection, role: str) -> list[str]:
    """What of this database was granted to `role`: by others, or by us under another name, of the thing or the role."""
    return [row["what"] for row in await (await conn.execute(SQL["left_to"], {"role": role})).fetchall()]


async def ungranted(conn: Connection, role: str, needs: Iterable[Grant]) -> list[str]:
    """The statements that would give `role` what it lacks of `needs`; for whoever may."""
    lacking = await _lacking(conn, role, await _objects(conn, needs))
    return [_statement(conn, Step.GRANT, role, rows) for rows in _grouped(lacking)]


async def _objects(conn: Connection, needs: Iterable[Grant]) -> list[dict[str, Any]]:
    ordered = sorted(needs)
    rows = await conn.execute(
        SQL["objects"],
        {
            "kinds": [n.kind for n in ordered],
            "oids": [n.oid for n in ordered],
            "cols": [n.column for n in ordered],
            "privileges": [n.privilege for n in ordered],
        },
    )
    return await rows.fetchall()


async def _lacking(conn: Connection, role: str, things: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    args = {
        "role": role,
        "kinds": [t["kind"] for t in things],
        "oids": [t["oid"] for t in things],
        "cols": [t["col"] for t in things],
        "privileges": [t["privilege"] for t in things],
    }
    rows = await (await conn.execute(SQL["granted"], args)).fetchall()
    return [thing for thing, row in zip(things, rows, strict=True) if not row["granted"]]


async def _given(conn: Connection) -> list[dict[str, Any]]:
    row = await (await conn.execute(SQL["may_take_back"], {})).fetchone()
    if not (row and row["may"]):
        return []
    return await (await conn.execute(SQL["given"], {})).fetchall()


def _steps(conn: Connection, step: Step, role: str, things: Iterable[Mapping[str, Any]]) -> list[Difference]:
    return [
        Difference(
            step=step,
            watch="",
            what=f"{_rights(rows)} on {rows[0]['object']} {_TO[step]} {role}",
            # What its owner grants is its owner's to take back.
            statement="; ".join(_with_note(conn, step, role, rows))
            if _mine(rows)
            else _statement(conn, step, role, rows),
            ours=_mine(rows),
        )
        for rows in _grouped(things)
    ]


def _mine(rows: Iterable[Mapping[str, Any]]) -> bool:
    return all(row.get("mine", True) for row in rows)


_TO = {Step.GRANT: "to", Step.REVOKE: "from"}


def _with_note(conn: Connection, step: Step, role: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The statement, unless there is nothing left that it could take back, and the note of it."""
    there = [row for row in rows if row.get("there", True)]
    values = sql.SQL(", ").join(
        sql.SQL("({})").format(
            sql.SQL(", ").join(map(sql.Literal, (role, r["kind"], r["object"], r["col"], r["privilege"])))
        )
        for r in rows
    )
    note = {
        Step.GRANT: "INSERT INTO listener.given VALUES {} ON CONFLICT DO NOTHING",
        Step.REVOKE: "DELETE FROM listener.given WHERE (role, kind, object, col, privilege) IN (VALUES {})",
    }[step]
    statements = [_statement(conn, step, role, there)] if there else []
    return [*statements, sql.SQL(note).format(values).as_string(conn)]


def _statement(conn: Connection, step: Step, role: str, rows: Sequence[Mapping[str, Any]]) -> str:
    by_privilege = []
    for privilege, some in groupby(sorted(rows, key=lambda r: r["privilege"]), key=lambda r: r["privilege"]):
        columns = _columns(some)
        part = sql.SQL("{} ({})") if columns else sql.SQL("{}")
        by_privilege.append(part.format(sql.SQL(privilege), sql.SQL(", ").join(map(sql.Identifier, columns))))
    return (
        sql.SQL("{step} {rights} ON {kind} {object} {to} {role}")
        .format(
            step=sql.SQL(step.value.upper()),
            rights=sql.SQL(", ").join(by_privilege),
            kind=sql.SQL(rows[0]["kind"]),
            # as PostgreSQL has quoted it
            object=sql.SQL(rows[0]["object"]),
            to=sql.SQL(_TO[step].upper()),
            role=sql.Identifier(role),
        )
        .as_string(conn)
    )


def _rights(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for privilege, some in groupby(sorted(rows, key=lambda r: r["privilege"]), key=lambda r: r["privilege"]):
        columns = _columns(some)
        parts.append(f"{privilege} ({', '.join(columns)})" if columns else str(privilege))
    return ", ".join(parts)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of one privilege; none when the whole is meant."""
    columns = [str(row["col"]) for row in rows]
    return [] if "" in columns else columns


def _grouped(things: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    def by_object(thing: Mapping[str, Any]) -> tuple[str, str]:
        return (thing["kind"], thing["object"])

    # Schemas first: what is in them can be named only then.
    ordered = sorted(things, key=lambda t: (t["kind"] != "SCHEMA", *by_object(t)))
    return [list(rows) for _, rows in groupby(ordered, key=by_object)]


def _key(thing: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (thing["kind"], thing["object"], thing["col"], thing["privilege"])


def _with(asked: str | None, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*names, *([asked] if asked else [])]))
