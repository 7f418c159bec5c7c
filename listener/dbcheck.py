"""`check --db`: the rules against the database they are for, each fault at its line of the file."""

import psycopg

from listener import capture, migrations, rights
from listener.database import Connection
from listener.errors import Fault, ListenerError
from listener.lookups import batched
from listener.rules import Source, Watch, parameters
from listener.rules.judging import CompiledRule
from listener.rules.ruleset import RuleSet
from listener.rules.samples import Column, World, longest
from listener.rules.schema import Accents
from listener.settings import Settings
from listener.text import clean, count, unaccent
from listener.words import did_you_mean


async def database_faults(conn: Connection, document: Source, rules: RuleSet, settings: Settings) -> list[Fault]:
    """Tables, columns, lookups and triggers, in the order of the file."""
    faults: list[Fault] = []
    wanted: list[capture.Capture] = []
    others: list[tuple[str, capture.Table]] = []
    for name, watch in rules.rules.watch.items():
        if watch.table is None:
            continue
        try:
            table = await capture.find_table(conn, watch.table)
        except ListenerError as error:
            faults.append(document.fault(("watch", name, "table"), str(error)))
            continue
        if not table.owned:
            others.append((name, table))
        missing = _missing_columns(document, name, watch, table, rules)
        faults += missing + [
            f for f in [await _lookup_fault(conn, document, name, n, q) for n, q in watch.lookup.items()] if f
        ]
        if not missing:
            try:
                wanted.append(
                    await capture.wanted(conn, name, watch, rules.used_columns(name), doorbell=settings.doorbell)
                )
            except ListenerError as error:
                of_where = str(error).startswith("where: ")
                place = ("watch", name, "where") if of_where else ("watch", name)
                faults.append(document.fault(place, str(error), key=not of_where))
    if faults:
        return faults
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
        + await _right_faults(conn, document, rules, wanted)
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


async def _right_faults(
    conn: Connection, document: Source, rules: RuleSet, wanted: list[capture.Capture]
) -> list[Fault]:
    """What the rules need of the ERP's tables and the daemon's roles, or else whoever asks, may not."""
    needs = await rights.needs_of(conn, rules.rules, wanted)
    roles = (await rights.roles(conn)).daemons or (conn.info.user,)
    return [
        document.fault(need.place, f"{role} may not do this: {need.what}", cure)
        for role in roles
        for need, cure in await rights.refused(conn, role, needs)
    ]


def _missing_columns(document: Source, name: str, watch: Watch, table: capture.Table, rules: RuleSet) -> list[Fault]:
    """Columns that the watch, a lookup or a rule names and the table does not have, each once, where it is named."""
    places: dict[str, tuple[str | int, ...]] = {}
    for word in ("columns", "key"):
        places |= dict.fromkeys(getattr(watch, word), ("watch", name, word))
    for lookup, query in watch.lookup.items():
        places |= dict.fromkeys(parameters(query), ("watch", name, "lookup", lookup))
    for compiled in rules.by_watch.get(name, ()):
        rule = compiled.rule.name
        places |= dict.fromkeys(compiled.rule.change, ("rules", rule, "change"))
        places |= {
            dotted[1]: ("rules", rule) for dotted in compiled.names if dotted[0] in ("old", "new") and len(dotted) > 1
        }
    return [
        document.fault(place, f"{table} has no column {column}", did_you_mean(column, table.columns).lstrip("; "))
        for column, place in places.items()
        if column not in table.columns
    ]


async def _lookup_fault(conn: Connection, document: Source, watch: str, name: str, query: str) -> Fault | None:
    try:
        await batched(conn, query)
    except psycopg.Error as error:
        text = error.diag.message_primary or type(error).__name__
        return document.fault(("watch", watch, "lookup", name), f"the database refuses this lookup: {text}")
    return None


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
    for event in rules.rules.watch[rule.on].events:
        sides = {"insert": ("new",), "update": ("old", "new"), "delete": ("old",)}[event.value]
        world = World(op=event.value, key="W" * 20, rows=(*sides, *rules.rules.watch[rule.on].lookup))
        most, _ = parts(world, endless=False)
        if most > rule.max_parts:
            message = f"the longest values of its columns make {most} parts, which max_parts: {rule.max_parts} rejects"
            return document.fault(place, message, "shorten them, {{ name | shorten(30) }}, or allow more parts")
        most, endless = parts(world, endless=True)
        if most > rule.max_parts and endless:
            names = ", ".join(".".join(column) for column in endless)
            message = f"nothing bounds the length of {names}: more than {rule.max_parts} parts are rejected"
            return document.fault(place, message, "bound it here, such as {{ name | shorten(30) }}")
    return None
