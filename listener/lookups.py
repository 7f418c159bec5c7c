"""`lookup:` queries, one round trip for a whole batch of changes.

An admin's `SELECT … WHERE id = %(customer_id)s` becomes the inner side of a LATERAL join over the batch's values. The
values travel as text and are cast to the types that the server inferred for the query by itself, so that indexes are
used and nothing is known here about the ERP's types.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import tuple_row
from psycopg.types.datetime import DateLoader, TimeLoader, TimestampLoader, TimestamptzLoader
from psycopg.types.numeric import NumericLoader
from psycopg.types.string import TextLoader

from listener.database import REST, Connection, Link, dumps_exact, set_session
from listener.errors import ListenerError
from listener.model import Change
from listener.queries import load
from listener.rules import Watch, parameters
from listener.rules.snippets import PLACEHOLDER
from listener.settings import Settings
from listener.templates import Missing, Row

SQL = load("lookups")
# milliseconds
TIMEOUT = "2000"
# Not the change's fault: the same query may well work in a moment. (psycopg has a class for each SQLSTATE, and none for
# what their first two characters say.)
_PASSING = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    # such as a catalogue that changes under the query
    psycopg.errors.InternalError_,
)
# another server that is out of reach (a foreign table's); a transaction that had to give way; no memory, disk or
# connection for now; a disk that cannot be read
_PASSING_CLASSES = ("08", "40", "53", "58")

# What templates have no kind of value for is the text that a captured column of its type is.
_TEXTS = (
    *("bytea", "cidr", "inet", "interval", "timetz", "uuid"),
    *(of + kind for of in ("int4", "int8", "num", "date", "ts", "tstz") for kind in ("range", "multirange")),
)


def _or_text(loader: type[Loader]) -> type[Loader]:
    """Reads what `loader` does; infinity, 24:00 and the years before 1 and after 9999, which Python has no value for,
    are texts. Else one of them would take the whole row from the rules, whether they use it or not."""

    class OrText(loader):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> object:
            try:
                return super().load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return OrText


_LOADERS: Mapping[str, type[Loader]] = {
    # every number is exact, in an array too
    **dict.fromkeys(("int2", "int4", "int8", "oid", "float4", "float8"), NumericLoader),
    **dict.fromkeys(_TEXTS, TextLoader),
    "date": _or_text(DateLoader),
    "time": _or_text(TimeLoader),
    "timestamp": _or_text(TimestampLoader),
    "timestamptz": _or_text(TimestamptzLoader),
}


async def _read_as_rules_do(conn: Connection) -> None:
    for kind, loader in _LOADERS.items():
        conn.adapters.register_loader(kind, loader)


class PassingLookupError(ListenerError):
    """A lookup did not answer in time or the server was short of something; worth another try."""


class Lookups:
    """Runs lookups on a read-only connection of their own."""

    def __init__(self, settings: Settings) -> None:
        self._link = Link(
            settings,
            "lookup",
            _read_as_rules_do,
            REST,
            default_transaction_read_only="on",
            statement_timeout=TIMEOUT,
            lock_timeout=TIMEOUT,
        )
        self._batched: dict[str, tuple[bytes, tuple[str, ...]]] = {}

    async def close(self) -> None:
        await self._link.close()

    async def find(
        self, watch: Watch, changes: Sequence[Change], *, zone: str, patient: bool
    ) -> list[dict[str, Row | Missing]]:
        """What each lookup of `watch` finds for each change, in the order of `changes`, on the clocks of `zone`.

        Raises `PassingLookupError`, or with `patient` False makes a `Missing` of that too; one of `database.LOST` when
        the connection broke.
        """
        found: list[dict[str, Row | Missing]] = [{} for _ in changes]
        for name, query in watch.lookup.items():
            async with self._link.use() as conn:
                if conn.info.parameter_status("TimeZone") != zone:
                    await set_session(conn, {"TimeZone": zone})
                results = await self._one_lookup(conn, name, query, changes, patient=patient)
            for into, result in zip(found, results, strict=True):
                into[name] = result
        return found

    async def _one_lookup(
        self, conn: Connection, name: str, query: str, changes: Sequence[Change], *, patient: bool
    ) -> Sequence[Row | Missing]:
        known = query in self._batched
        try:
            return await self._batch(conn, name, query, [change.row for change in changes])
        except psycopg.InterfaceError:
            # the connection, not the query
            raise
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and conn.closed:
                raise
            if patient and _passes(error):
                raise PassingLookupError(f"lookup {name}: {type(error).__name__}") from None
            # The tables may have changed since the types were asked for.
            self._batched.pop(query, None)
            if known or len(changes) > 1:
                # One bad value spoils a batch; alone, it spoils only its own change.
                return [(await self._one_lookup(conn, name, query, [c], patient=patient))[0] for c in changes]
            return [Missing(f"lookup {name} failed ({type(error).__name__}, {error.sqlstate})")]

    async def _batch(
        self, conn: Connection, name: str, query: str, rows: Sequence[Mapping[str, Any]]
    ) -> list[Row | Missing]:
        if query not in self._batched:
            self._batched[query] = await batched(conn, query)
        statement, wanted = self._batched[query]
        results: list[Row | Missing | None] = [None] * len(rows)
        places = []
        for place, row in enumerate(rows):
            if absent := [p for p in wanted if p not in row]:
                results[place] = Missing(f"lookup {name} needs {absent[0]}, which was not captured")
            else:
                places.append(place)
        values = [[as_text(rows[place][p]) for place in places] for p in wanted]
        cursor = conn.cursor(row_factory=tuple_row)
        await cursor.execute(statement, [places, *values])
        columns = [column.name for column in cursor.description or ()][1:]
        for number, *fields in await cursor.fetchall():
            place = int(number)
            if results[place] is None:
                results[place] = Row(dict(zip(columns, fields, strict=True)), name)
            else:
                results[place] = Missing(f"lookup {name} found more than one row; make it find one")
        return [Missing(f"lookup {name} found no row") if r is None else r for r in results]


def _passes(error: psycopg.Error) -> bool:
    return isinstance(error, _PASSING) or (error.sqlstate or "").startswith(_PASSING_CLASSES)


async def batched(conn: Connection, query: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement that runs `query` for many rows at once, and the parameters it takes after the places."""
    names = parameters(query)
    numbered = PLACEHOLDER.sub(lambda m: f"${names.index(m[1]) + 1}" if m[1] else "%", query)
    # In the extended protocol (binary) PostgreSQL takes no second statement behind this one.
    await conn.execute(f"PREPARE listener_lookup AS {numbered}".encode(), prepare=False, binary=True)
    row = await (await conn.execute(SQL["parameter_types"], prepare=False)).fetchone()
    await conn.execute(SQL["forget"], prepare=False)
    types = row["types"] if row else []
    if len(types) != len(names):
        raise psycopg.errors.UndefinedParameter("the query has other parameters than its %(column)s")
    casts = {name: _cast(f"_change.p{n}", kind) for n, (name, kind) in enumerate(zip(names, types, strict=True))}
    inner = PLACEHOLDER.sub(lambda m: casts[m[1]] if m[1] else "%%", query)
    arrays = ", ".join(["%s::integer[]", *["%s::text[]"] * len(names)])
    aliases = ", ".join(["place", *(f"p{n}" for n in range(len(names)))])
    batch = f"unnest({arrays}) AS _change({aliases})"
    # Admins write this SQL; it runs read-only, and only names of ours are put around it.
    statement = f"SELECT _change.place, _found.* FROM {batch} CROSS JOIN LATERAL (\n{inner}\n) AS _found"  # noqa: S608
    return statement.encode(), names


def _cast(value: str, kind: str) -> str:
    """SQL that makes a `kind` of a text; an array was captured as JSON."""
    if not kind.endswith("[]"):
        return f"{value}::{kind}"
    elements = f"SELECT jsonb_array_elements_text({value}::jsonb)"
    return f"CASE WHEN {value} IS NOT NULL THEN ARRAY({elements})::{kind} END"


def as_text(value: Any) -> str | None:
    """A captured value as PostgreSQL's input functions take it."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case _:
            return dumps_exact(value)
