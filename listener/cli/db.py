"""`listener db …`: what stands in the database, what should, and the way between."""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from listener import capture, installation, migrations, rights, route
from listener.cli.common import asynchronous, confirm, fail, output_option, print_json, rules_option
from listener.database import Connection, connect
from listener.errors import ListenerError
from listener.rules import read
from listener.rules.ruleset import RuleSet, compile_rules
from listener.settings import Settings, read_settings

P = ParamSpec("P")
T = TypeVar("T")


@click.group()
def db() -> None:
    """Schema, triggers and rights in the ERP's database.

    Run these as the role that owns the watched tables; a superuser is not needed.
    """


def roles_options(verb: Callable[P, T]) -> Callable[P, T]:
    """Whom to give the rights that the daemon and readers need; those who have a part keep it without being named."""
    daemon = click.option("--daemon-role", metavar="NAME", help="Give this role what the daemon needs; made if absent.")
    reader = click.option("--reader-role", metavar="NAME", help="Let this role read the two views; made if absent.")
    return daemon(reader(verb))


def _load(rules_path: Path | None) -> tuple[Settings, RuleSet]:
    settings = read_settings(rules=rules_path)
    return settings, compile_rules(read(settings.rules))


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    async with await connect(settings, "db") as conn:
        await route.refuse_shared(conn, settings)
        yield conn


def _row(step: capture.Difference) -> dict[str, str]:
    return {"step": step.step.value, "watch": step.watch, "what": step.what, "statement": step.statement}


async def _todo(
    conn: Connection, rules: RuleSet, captures: list[capture.Capture], wanted: rights.Roles
) -> tuple[list[migrations.Migration], list[capture.Difference]]:
    """Migrations and differences: what `install` would do, in its order."""
    todo = await migrations.pending(conn)
    steps = [*await capture.differences(conn, captures), *await rights.own_steps(conn, wanted)]
    return todo, steps + await installation.erp_steps(conn, wanted, rules, captures)


async def _steps(
    conn: Connection, rules: RuleSet, captures: list[capture.Capture], wanted: rights.Roles
) -> list[dict[str, str]]:
    """The same as rows."""
    todo, steps = await _todo(conn, rules, captures, wanted)
    return [{"step": "migrate", "watch": "", "what": m.name, "statement": m.text} for m in todo] + [*map(_row, steps)]


@db.command()
@roles_options
@rules_option
@output_option
@asynchronous
async def plan(rules_path: Path | None, output: str, daemon_role: str | None, reader_role: str | None) -> None:
    """Show what `install` would change; changes nothing."""
    settings, rules = _load(rules_path)
    async with _connected(settings) as conn:
        wanted = await rights.roles(conn, daemon_role, reader_role)
        steps = await _steps(conn, rules, await installation.captures(conn, rules, settings), wanted)
    if output == "json":
        print_json({"ok": not steps, "steps": steps})
        return
    for step in steps:
        click.echo(f"{step['step']:8} {step['what']}")
    if not steps:
        click.echo("nothing to do: the database is as the rules want it")


@db.command()
@roles_options
@rules_option
@asynchronous
async def install(rules_path: Path | None, daemon_role: str | None, reader_role: str | None) -> None:
    """Bring schema, triggers and rights to what the rules want; doing it again does nothing."""
    settings, rules = _load(rules_path)
    async with _connected(settings) as conn:
        await installation.install(conn, rules, settings, _say, daemon_role=daemon_role, reader_role=reader_role)
        captures = await installation.captures(conn, rules, settings)
        for warning in await capture.warnings(conn, captures, doorbell=settings.doorbell):
            _say(f"warning: {warning}")
    click.echo("installed: the database is as the rules want it")


@db.command()
@rules_option
@output_option
@asynchronous
async def verify(rules_path: Path | None, output: str) -> None:
    """Check that every trigger is there and every role may do what it must, and no more; exit 1 if not."""
    settings, rules = _load(rules_path)
    found: dict[str, Any] = {"ok": False, "faults": [], "steps": [], "warnings": [], "tries": []}
    async with _connected(settings) as conn:
        try:
            captures = await installation.captures(conn, rules, settings)
        except ListenerError as error:
            # A table or column that rules use is not there: `install` cannot mend it.
            found["faults"] = str(error).splitlines()
        else:
            wanted = await rights.roles(conn)
            found["steps"] = await _steps(conn, rules, captures, wanted)
            found["warnings"] = await capture.warnings(conn, captures, doorbell=settings.doorbell)
            if doubt := route.unverified(conn):
                found["warnings"].append(f"{doubt}; use {route.VERIFIED}")
            if await migrations.installed(conn):
                needs = await rights.needs_of(conn, rules.rules, captures)
                report = await rights.try_out(conn, wanted, captures, needs)
                found["tries"] = [{**asdict(t), "wrong": t.wrong} for t in report.tries]
                found["faults"] = [f"{need.what}: {need.fault}" for need in needs if need.fault]
                found["warnings"] += [*report.notes, *_untried(report)]
    wrong = [t for t in found["tries"] if t["wrong"]]
    found["ok"] = not found["steps"] and not found["faults"] and not wrong
    if output == "json":
        print_json(found)
    else:
        for warning in found["warnings"]:
            _say(f"warning: {warning}")
        for fault in found["faults"]:
            click.echo(fault)
        for step in found["steps"]:
            click.echo(f"needs {step['step']}: {step['what']}")
        for t in wrong:
            did = "can" if t["did"] == rights.Did.WORKED else "cannot"
            click.echo(f"{t['role']} {did} {t['what']}" + (f": {t['why']}" if t["why"] else ""))
    if found["faults"]:
        raise fail(f"the rules and the tables do not fit; {installation.MEND}", 1)
    if found["steps"]:
        raise fail("the database is not as the rules want it; run `listener db install`", 1)
    if wrong:
        raise fail("a role may do more or less than it should", 1)
    if output != "json":
        click.echo("in order: every trigger is there, enabled and up to date")
        for role, tries in groupby(found["tries"], key=itemgetter("role")):
            n = Counter(t["did"] for t in tries)
            click.echo(f"{role}: {n['worked']} tries worked that must, {n['refused']} were refused that must be")


def _untried(report: rights.Report) -> list[str]:
    """What was not tried and why, once each."""
    left = Counter((t.role, t.why) for t in report.tries if t.did is rights.Did.UNTRIED)
    return [f"{n} tries as {role} were not made: {why}" for (role, why), n in left.items()]


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask, even if unsent messages would be lost.")
@asynchronous
async def uninstall(yes: bool) -> None:
    """Remove the triggers, their functions, rights, and the schema with all messages in it."""
    settings = read_settings()
    async with _connected(settings) as conn:
        if await migrations.installed(conn):
            _ask(await capture.unfinished(conn), yes=yes)
            for role, things in (await installation.uninstall(conn, _say)).items():
                if things:
                    _say(f"the role {role} is left, with rights that others gave, or to what was renamed since:")
                    _say(f"  {', '.join(things)}: REVOKE what nothing else needs")
                else:
                    _say(f"the role {role} is left, without rights: drop it when nothing else needs it")
    click.echo("removed: nothing of listener is left in this database")


@db.command(name="sql")
@roles_options
@rules_option
@asynchronous
async def print_sql(rules_path: Path | None, daemon_role: str | None, reader_role: str | None) -> None:
    """Print the SQL that `install` would run, for a DBA to read and run."""
    settings, rules = _load(rules_path)
    async with _connected(settings) as conn:
        captures = await installation.captures(conn, rules, settings)
        todo, steps = await _todo(conn, rules, captures, await rights.roles(conn, daemon_role, reader_role))
    if not todo and not steps:
        click.echo("-- nothing to do: the database is as the rules want it")
        return
    # A lock on the outbox loses what is captured meanwhile.
    upgrade = bool(todo) and todo[0].number > 1
    timeout = migrations.LOCK_TIMEOUT if upgrade else capture.LOCK_TIMEOUT
    click.echo(f"BEGIN;\nSET LOCAL lock_timeout = '{timeout}';\nSET LOCAL search_path = pg_catalog, pg_temp;\n")
    click.echo(migrations.script(todo))
    for step in steps:
        click.echo(f"{step.statement.rstrip(';')};\n")
    click.echo("COMMIT;")


def _ask(unfinished: int, *, yes: bool) -> None:
    if not unfinished or yes:
        return
    lost = f"what is not finished would be lost (changes and messages: {unfinished})"
    if not sys.stdin.isatty():
        raise fail(f"{lost}; say --yes if they may be", 1)
    confirm(f"{lost}. Remove everything?")


def _say(line: str) -> None:
    """Progress and warnings, on stderr."""
    click.echo(line, err=True)
