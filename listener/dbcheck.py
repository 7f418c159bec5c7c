"""`check --db`: the rules against the database they are for, each fault at its line of the file."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import psycopg

from listener import capture, migrations, rights
from listener.arithmetic import same
from listener.calendar import selected
from listener.database import Connection
from listener.errors import Fault, ListenerError
from listener.lookups import as_text, batched
from listener.model import Op
from listener.rules import Source, Watch, parameters
from listener.rules.judging import CompiledRule
from listener.rules.references import suggestion, written
from listener.rules.ruleset import RuleSet
from listener.rules.samples import Column, World, is_text, longest, never_works, widest, worlds_of
from listener.rules.schema import Accents
from listener.rules.source import Keys
from listener.settings import Settings
from listener.templates import Expression, Text
from listener.text import clean, count, unaccent

_TRY = "try it in psql"
_LOOK = "look in psql how the column has it"
_OTHER_NAME = "give one of them another name, with AS"


async def database_faults(conn: Connection, document: Source, rules: RuleSet, settings: Settings) -> list[Fault]:
    """Tables, columns, types, queries and triggers, in the order of the file."""
    faults: list[Fault] = []
    wanted: list[capture.Capture] = []
    others: list[tuple[str, capture.Table]] = []
    for name, watch in rules.rules.watch.items():
        if watch.table is None:
            faults += await _faults_by_date(conn, document, name, watch, rules)
            continue
        try:
            table = await capture.find_table(conn, watch.table)
        except ListenerError as error:
            faults.append(document.fault(("watch", name, "table"), str(error)))
            continue
        if not table.owned:
            others.append((name, table))
        missing = _missing_columns(document, name, watch, str(table), table.columns, rules)
        faults += missing + await _faults_of_use(conn, document, name, rules)
        if not missing:
            faults += [f for c in rules.by_watch.get(name, ()) for f in await _never_held(conn, document, c, table)]
            try:
                wanted.append(
                    await capture.wanted(conn, name, watch, rules.used_columns(name), doorbell=settings.doorbell)
                )
                await capture.try_where(conn, table, watch.where)
            except ListenerError as error:
                of_where = str(error).startswith("where: ")
                place = ("watch", name, "where") if of_where else ("watch", name)
                faults.append(document.fault(place, str(error), key=not of_where))
    if faults:
        return faults
    needs = await rights.needs_of(conn, rules.rules, wanted)
    # What can be wrong with a lookup or a select is told above, but for what whoever asks may not.
    refused = [need for need in needs if need.fault]
    if refused:
        return [document.fault(n.place, f"the database refuses this statement: {n.fault}", _TRY) for n in refused]
    owned_by_others = [
        document.fault(
            ("watch", name, "table"),
            f"{table} belongs to another role",
            "run `listener db install` as the owner, or let the owner run what `listener db sql` prints",
        )
        for name, table in others
    ]
    if await migrations.pending(conn):
        no_schema = "the database has no `listener` schema of this version"
        return [*owned_by_others, document.fault((), no_schema, "run `listener db install`")]
    differences = await capture.differences(conn, wanted)
    # Whoever only runs what is installed needs no table of its own.
    return (
        (owned_by_others if differences else [])
        + await _right_faults(conn, document, needs)
        + [
            document.fault(
                ("watch", d.watch) if d.watch in rules.rules.watch else (),
                f"{d.what} is not as the rules want it",
                "run `listener db install`",
                key=True,
            )
            for d in differences
        ]
    )


async def _right_faults(conn: Connection, document: Source, needs: Sequence[rights.Needs]) -> list[Fault]:
    """What the rules need of the ERP's tables and the daemon's roles, or else whoever asks, may not."""
    roles = (await rights.roles(conn)).daemons or (conn.info.user,)
    return [
        document.fault(need.place, f"{role} may not do this: {need.what}", cure)
        for role in roles
        for need, cure in await rights.refused(conn, role, needs)
    ]


def _missing_columns(
    document: Source, name: str, watch: Watch, owner: str, columns: Mapping[str, str], rules: RuleSet
) -> list[Fault]:
    """Columns that the watch, a lookup or a rule names and `owner` does not have, everywhere that they are named."""
    named: list[tuple[Keys, str]] = []
    for word in ("columns", "key"):
        named += ((("watch", name, word, index), column) for index, column in enumerate(getattr(watch, word)))
    for lookup, query in watch.lookup.items():
        named += ((("watch", name, "lookup", lookup), column) for column in parameters(query))
    for compiled in rules.by_watch.get(name, ()):
        rule = ("rules", compiled.rule.name)
        named += (((*rule, "change", column), column) for column in compiled.rule.change)
        for place, piece in compiled.pieces.items():
            named += (((*rule, *place), column) for side, column in _dotted(piece) if side in ("old", "new"))
    return [
        document.fault(place, f"{owner} has no column {column}", suggestion(column, columns), key="change" in place)
        for place, column in named
        if column not in columns
    ]


def _dotted(piece: Text | Expression) -> list[Column]:
    """`("new", "balance")` for each column that it reads, each once."""
    return sorted((dotted[0], dotted[1]) for dotted in piece.names if len(dotted) > 1)


async def _faults_by_date(conn: Connection, document: Source, name: str, watch: Watch, rules: RuleSet) -> list[Fault]:
    """What the database refuses of a watch by date, and columns that its `select` does not give."""
    try:
        given = await selected(conn, watch)
    except psycopg.errors.InsufficientPrivilege:
        # told with the rights, and the GRANT that is missing
        return []
    except psycopg.Error as error:
        return [document.fault(("watch", name, "select"), f"the database refuses this query: {_words(error)}", _TRY)]
    columns = {c.name: c.type_display for c in given}
    used = rules.used_columns(name)
    if twice := _twice(given, columns if used is None else {*used, *watch.key}):
        return [document.fault(("watch", name, "select"), f"this `select` gives {twice} twice", _OTHER_NAME)]
    missing = _missing_columns(document, name, watch, "this `select`", columns, rules)
    return missing + await _faults_of_use(conn, document, name, rules)


async def _faults_of_use(conn: Connection, document: Source, name: str, rules: RuleSet) -> list[Fault]:
    """Lookups that the database refuses, columns that they do not give, and what no row of these types can satisfy."""
    watch = rules.rules.watch[name]
    pieces = [piece for compiled in rules.by_watch.get(name, ()) for piece in compiled.pieces.values()]
    named = {column for piece in pieces for column in _dotted(piece)}
    refused = [
        await _lookup_fault(conn, document, name, n, q, {c for side, c in named if side == n})
        for n, q in watch.lookup.items()
    ]
    if any(refused):
        return [fault for fault in refused if fault]
    try:
        types = await _types(conn, watch)
    except psycopg.errors.InsufficientPrivilege:
        # told with the rights, and the GRANT that is missing
        return []
    return [fault for compiled in rules.by_watch.get(name, ()) for fault in _unfit(document, compiled, types, rules)]


def _unfit(document: Source, compiled: CompiledRule, types: Mapping[Column, str], rules: RuleSet) -> Iterator[Fault]:
    rule = compiled.rule
    watch = rules.rules.watch[rule.on]
    lookups = watch.lookup
    keys: Keys
    for column, asked in rule.change.items():
        kind = types.get(("new", column), "")
        sample = widest(kind, "W")
        if sample and not is_text(kind) and not isinstance(sample[0], Decimal) and asked.asks_for_numbers:
            keys = ("rules", rule.name, "change", column)
            yield document.fault(keys, f"{column} is a {kind}, which is no number", "use from and to", key=True)
    codes = sorted({code for words in rules.rules.labels.values() for code in words})
    for place, piece in compiled.pieces.items():
        keys = ("rules", rule.name, *place)
        absent = [(side, column) for side, column in _dotted(piece) if side in lookups and (side, column) not in types]
        for side, column in absent:
            given = [other for lookup, other in types if lookup == side]
            yield document.fault(keys, f"the lookup {side} gives no column {column}", suggestion(column, given))
        render = piece.render if isinstance(piece, Text) else piece.evaluate
        if not absent and (why := never_works(render, worlds_of(_events(watch), lookups), codes, types)):
            message = f"this cannot be worked out for columns of these types: {why}"
            yield document.fault(keys, message, "give each filter and sign what it can take")


async def _never_held(conn: Connection, document: Source, compiled: CompiledRule, table: capture.Table) -> list[Fault]:
    """Values of `from` and `to` that no row can hold, as a trigger writes it down: such a change never comes."""
    named = [
        (column, word, index, value)
        for column, asked in compiled.rule.change.items()
        if table.kinds[column].simple
        for word, values in (("from", asked.from_), ("to", asked.to))
        for index, value in enumerate(values)
        if value is not None
    ]
    faults: list[Fault] = []
    for column, word, index, value in named:
        if not await _holds(conn, table, column, value):
            message = f"{column} is of the type {table.columns[column]}, and never is {written(as_text(value) or '')}"
            hint = "write true or false" if table.kinds[column].base == "bool" else _LOOK
            faults.append(document.fault(("rules", compiled.rule.name, "change", column, word, index), message, hint))
    return faults


async def _holds(conn: Connection, table: capture.Table, column: str, value: Any) -> bool:
    held = capture.captured_value(table, column)
    try:
        async with conn.transaction(force_rollback=True):
            row = await (await conn.execute(held, {"value": as_text(value)})).fetchone()
    except psycopg.Error as error:
        if conn.closed:
            raise
        # Not of the type, or not of its domain; what a domain's own function trips over says nothing of the value.
        return not isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    assert row is not None
    return same(row["row"][column], value)


def _events(watch: Watch) -> Sequence[Op]:
    return watch.events if watch.table is not None else (Op.INSERT,)


async def _lookup_fault(
    conn: Connection, document: Source, watch: str, name: str, query: str, used: Collection[str]
) -> Fault | None:
    """`used` are the columns of it that rules name."""
    place = ("watch", watch, "lookup", name)
    try:
        async with conn.transaction(force_rollback=True):
            # As the daemon runs it, for no row at all: what would write or lock rows is refused too.
            await conn.execute("SET TRANSACTION READ ONLY")
            statement, wanted = await batched(conn, query)
            # What this role may not read is told with the rights.
            with suppress(psycopg.errors.InsufficientPrivilege):
                cursor = await conn.execute(statement, [[], *([] for _ in wanted)])
                if twice := _twice((cursor.description or ())[1:], used):
                    return document.fault(place, f"this lookup gives {twice} twice", _OTHER_NAME)
    except psycopg.Error as error:
        return document.fault(place, f"the database refuses this lookup: {_words(error)}", _TRY)
    return None


def _twice(given: Sequence[psycopg.Column], used: Collection[str]) -> str | None:
    """The first of the columns in use that a query gives more than once, so that nobody knows which is meant."""
    names = [column.name for column in given]
    return next((name for name in names if name in used and names.count(name) > 1), None)


def _words(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)


async def too_long(conn: Connection, document: Source, rules: RuleSet) -> list[Fault]:
    """Texts that the longest values of their columns make longer than their rules allow, as warnings."""
    found: list[Fault] = []
    for name, compiled in rules.by_watch.items():
        types = await _types(conn, rules.rules.watch[name])
        found += [doubt for rule in compiled if (doubt := _too_long(document, rule, types, rules))]
    return found


async def _types(conn: Connection, watch: Watch) -> dict[Column, str]:
    """The type of each column that an expression of this watch can name."""
    types: dict[Column, str] = {}
    if watch.table is not None:
        table = await capture.find_table(conn, watch.table)
        types = {(side, column): kind for side in ("old", "new") for column, kind in table.columns.items()}
    else:
        types = {("new", column.name): column.type_display for column in await selected(conn, watch)}
    for name, query in watch.lookup.items():
        statement, wanted = await batched(conn, query)
        # For no row at all: only the types are wanted.
        cursor = await conn.execute(statement, [[], *([] for _ in wanted)])
        types |= {(name, column.name): column.type_display for column in (cursor.description or ())[1:]}
    return types


def _too_long(document: Source, compiled: CompiledRule, types: dict[Column, str], rules: RuleSet) -> Fault | None:
    rule = compiled.rule
    strip = rule.accents is Accents.STRIP
    codes = sorted({code for words in rules.rules.labels.values() for code in words})

    def sent(text: str) -> str:
        return unaccent(text) if strip else clean(text)

    def parts(world: World, *, endless: bool) -> tuple[int, list[Column]]:
        bound = longest(
            compiled.text.render,
            world,
            types,
            codes,
            lambda text: count(sent(text), compiled.parts).units,
            letter="W" if strip else "ạ",
            endless=endless,
        )
        return (count(sent(bound[0]), compiled.parts).parts, bound[1]) if bound else (0, [])

    place = ("rules", rule.name, "text")
    watch = rules.rules.watch[rule.on]
    for event in _events(watch):
        world = World(op=event.value, key="W" * 20, rows=(*event.rows, *watch.lookup))
        usual, _ = parts(world, endless=False)
        most, endless = parts(world, endless=True)
        bound = usual if endless else most
        if bound > rule.max_parts:
            message = f"the longest values of its columns make {bound} parts, which max_parts: {rule.max_parts} rejects"
            return document.fault(place, message, "shorten them, {{ name | shorten(30) }}, or allow more parts")
        if most > rule.max_parts:
            names = ", ".join(".".join(column) for column in endless)
            message = f"nothing bounds the length of {names}: more than {rule.max_parts} parts are rejected"
            return document.fault(place, message, "bound it here, such as {{ name | shorten(30) }}")
    return None
