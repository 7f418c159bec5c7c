"""Columns of a watched table in SQL: whether one changed, what is written down of it, and the key that names the row.

What is written down is worked out inside the ERP's transaction, on whatever search_path its session has: every name
says its schema. What stands in a trigger's WHEN is looked up once, when the trigger is made.
"""

from collections.abc import Mapping, Sequence

from psycopg import sql

from listener.capture.tables import Kind, Table

_CONCAT = " OPERATOR(pg_catalog.||) "
_JOIN_KEY = f"{_CONCAT}'/'{_CONCAT}"
# PostgreSQL passes at most 100 arguments to one function call: name and value for each column.
_COLUMNS_A_CALL = 50
# Built-in types beside the simple ones that are written the same whatever the session's settings.
_STEADY = frozenset({"json", "jsonb", "bytea", "money"})
# What all others are written under: a range of dates, an interval, dates in a row or an array that is a key, the digits
# of a float.
PINNED: Mapping[str, str] = {
    "DateStyle": "iso, ymd",
    "IntervalStyle": "postgres",
    "TimeZone": "utc",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}


def differs(kind: Kind, column: str) -> sql.Composable:
    """`OLD.x IS DISTINCT FROM NEW.x`; by text where the type has no equality of PostgreSQL's own, or one that can fail
    (json, xml, point; rows and arrays of them; types of extensions, whose schema the ERP's upgrade may move)."""
    template = "OLD.{c} IS DISTINCT FROM NEW.{c}" if kind.comparable else "OLD.{c}::text IS DISTINCT FROM NEW.{c}::text"
    return sql.SQL(template).format(c=sql.Identifier(column))


def is_steady(kind: Kind) -> bool:
    """Whether a value of this type is written the same in every session; else only under `PINNED`."""
    return kind.simple or kind.base in _STEADY


def _value(base: str | None, field: sql.Composable) -> sql.Composable:
    """A column's value for jsonb, the same in every session if it `is_steady`, with numbers as numbers and without the
    blanks that fill up a char(n), which do not count in SQL either; `base` is its built-in type, if it has one."""
    match base:
        case "money":
            return sql.SQL("{}::pg_catalog.numeric").format(field)
        case "timestamptz":
            # As jsonb has it, in UTC whatever the session's zone; infinity has none. Cast, for an upgrade of the ERP
            # may make it a timestamp of another type.
            moment = sql.SQL("{}::pg_catalog.timestamptz").format(field)
            utc = "pg_catalog.to_jsonb(pg_catalog.timezone('UTC', {m})) OPERATOR(pg_catalog.#>>) '{{}}'"
            return sql.SQL(
                f"CASE WHEN pg_catalog.isfinite({{m}}) THEN ({utc}){_CONCAT}'+00:00' ELSE {{f}}::pg_catalog.text END"
            ).format(f=field, m=moment)
        case "bytea":
            return sql.SQL(rf"E'\\x'{_CONCAT}pg_catalog.encode({{}}, 'hex')").format(field)
        case "bpchar":
            return sql.SQL("{}::pg_catalog.text").format(field)
        case "_bpchar":
            return sql.SQL("{}::pg_catalog.text[]").format(field)
        case _:
            return field


def row_object(bases: Mapping[str, str | None], side: sql.Composable) -> sql.Composable:
    """Columns of `side` (OLD, NEW or an alias), by the built-in type that each has under all domains, as one jsonb
    object."""
    columns = list(bases)
    chunks = [columns[i : i + _COLUMNS_A_CALL] for i in range(0, len(columns), _COLUMNS_A_CALL)]
    calls = [
        sql.SQL("pg_catalog.jsonb_build_object({})").format(
            sql.SQL(", ").join(
                sql.SQL("{}, {}").format(
                    sql.Literal(c), _value(bases[c], sql.SQL("{}.{}").format(side, sql.Identifier(c)))
                )
                for c in chunk
            )
        )
        for chunk in chunks
    ]
    return sql.SQL(_CONCAT).join(calls)


def beside_parameters(piece: sql.Composable) -> sql.SQL:
    """The same for a statement that is given parameters: psycopg takes a % in a name for a placeholder too."""
    return sql.SQL(piece.as_string().replace("%", "%%"))


def key_of(table: Table, key: Sequence[str], side: sql.Composable) -> sql.Composable:
    """The key as one text."""
    values = [
        sql.SQL("coalesce({}, '')").format(_key_text(table.kinds[c], sql.SQL("{}.{}").format(side, sql.Identifier(c))))
        for c in key
    ]
    return joined(values)


def joined(values: Sequence[sql.Composable]) -> sql.Composable:
    """Texts as one key: the parts of a composite one are joined by `/`, their own `/` and `\\` escaped."""
    if len(values) == 1:
        return values[0]
    replace = r"pg_catalog.replace(pg_catalog.replace({}, E'\\', E'\\\\'), '/', E'\\/')"
    return sql.SQL(_JOIN_KEY).join(sql.SQL(replace).format(value) for value in values)


def _key_text(kind: Kind, field: sql.Composable) -> sql.Composable:
    """A key must be the same text in every session, whatever its DateStyle and time zone."""
    match kind.base:
        case "date" | "timestamp":
            return sql.SQL("pg_catalog.to_jsonb({}) OPERATOR(pg_catalog.#>>) '{{}}'").format(field)
        case "timestamptz":
            utc = "pg_catalog.to_jsonb({} AT TIME ZONE 'UTC') OPERATOR(pg_catalog.#>>) '{{}}'"
            return sql.SQL(f"({utc}){_CONCAT}'Z'").format(field)
        case _:
            return sql.SQL("({})::pg_catalog.text").format(_value(kind.base, field))
