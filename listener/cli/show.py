"""`listener messages`, `message`, `status`: what happened and what waits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from listener import installation, migrations, overview, pauses
from listener.cli.common import asynchronous, fail, output_option, print_json, print_table, shown
from listener.cli.filters import chosen, filter_options
from listener.database import connect
from listener.errors import ListenerError
from listener.settings import read_settings
from listener.words import counted


@click.command()
@filter_options
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many, newest first."
)
@click.option("--reveal", is_flag=True, help="Show whole phone numbers.")
@output_option
@asynchronous
async def messages(limit: int, reveal: bool, output: str, **filters: Any) -> None:
    """List messages, newest first."""
    async with await connect(read_settings(), "show") as conn:
        wanted = chosen(filters)
        rows = await overview.messages(conn, wanted, limit=limit, reveal=reveal)
        if reveal:
            await pauses.revealed(conn, "messages", overview.masked_filters(wanted), len(rows))
    if output == "json":
        print_json(rows)
        return
    columns = ("id", "created_at", "rule", "key", "phone", "state", "ticket_id", "parts", "text", "reason")
    print_table([c.replace("_", " ") for c in columns], ([row[c] for c in columns] for row in rows))


@click.command()
@click.argument("number", metavar="ID", type=int)
@click.option("--reveal", is_flag=True, help="Show the whole phone number.")
@output_option
@asynchronous
async def message(number: int, reveal: bool, output: str) -> None:
    """One message with its attempts."""
    async with await connect(read_settings(), "show") as conn:
        row = await overview.message(conn, number, reveal=reveal)
        if row is None:
            raise fail(f"there is no message {number}", 1)
        if reveal:
            await pauses.revealed(conn, "message", {"ids": [number]}, 1)
    if output == "json":
        print_json(row)
        return
    attempts = row.pop("attempt_list")
    for name, value in row.items():
        click.echo(f"{name.replace('_', ' '):14} {shown(value)}")
    columns = ("n", "leased_at", "outcome", "http_status", "ticket_sent", "ticket_received", "ms", "detail")
    click.echo()
    print_table([c.replace("_", " ") for c in columns], ([a[c] for c in columns] for a in attempts))


@click.command()
@output_option
@asynchronous
async def status(output: str) -> None:
    """One screen: backlog, pace, pauses, rules, failures."""
    settings = read_settings()
    async with await connect(settings, "show") as conn:
        now = await overview.status(conn, settings)
        rules = await overview.rules_in_force(conn)
        now["capture_gaps"], now["outdated"] = [], None
        try:
            # What the triggers of a newer version lack is not for this one to say.
            await migrations.pending(conn)
            if rules is not None:
                now["capture_gaps"] = await installation.gaps(conn, rules, settings)
        except ListenerError as error:
            now["outdated"] = str(error)
    if output == "json":
        print_json(now)
        return
    said = now["rules"]
    counts = ", ".join(f"{n} {state}" for state, n in now["messages"].items() if n) or "none yet"
    lines = {
        "changes to match": now["outbox"],
        "messages": counts,
        "oldest waiting": _duration(now["oldest_waiting_s"]),
        "all sent in": "not while a stop has no end" if now["eta_s"] is None else _duration(now["eta_s"]),
        "capture failures": _failures(now["capture_failures"], now["capture_failures_new"]),
        "muted changes": now["muted"] or "none",
        "replicas": now["replicas"] or "none: start `listener run`",
        "rules": f"version {said['version'] or '-'}, in force since {shown(said['loaded_at'])}"
        + _refused(said["faults"]),
    }
    for name, value in lines.items():
        click.echo(f"{name:17} {value}")
    for name, account in now["accounts"].items():
        rate = f"{account['rate']:g}/s" if account["rate"] else "not in the rules"
        pause = ""
        if account["reason"] == overview.GONE:
            pause = f", yet messages wait for it: {account['reason']}"
        elif account["paused_until"]:
            pause = f", PAUSED until {_end(account['paused_until'])}: {account['reason']}"
        click.echo(f"account {name:9} {rate}{pause}")
    for paused in now["pauses"]:
        click.echo(
            f"PAUSED            {paused['target']} by {paused['who']} until {_end(paused['until'])}: {paused['reason']}"
        )
    for failing in now["failing_selects"]:
        click.echo(f"QUERY FAILS       {failing['watch']} since {shown(failing['since'])}: {failing['reason']}")
    for failing in now["failing_saves"]:
        click.echo(
            f"NOT SAVED         {counted(failing['n'], 'ticket')} of the rule {failing['rule']}, "
            f"tried again: {failing['reason']}"
        )
    for brake in now["brakes"]:
        click.echo(
            f"BRAKE             rule {brake['rule']} since {shown(brake['since'])}, {brake['reason']}: "
            f"{brake['held']} held (`listener release --rule {brake['rule']}`)"
        )
    for gap in now["capture_gaps"]:
        click.echo(f"NOT CAPTURED      {gap} (`listener db install`)")
    if now["outdated"]:
        click.echo(f"OUTDATED          {now['outdated']}")
    if now["deaf"]:
        click.echo("DEAF              the database's signal is not heard; it is looked at once a second instead")
    if lost := now["lost_replicas"]["n"]:
        last = shown(now["lost_replicas"]["seen_at"])
        click.echo(f"LOST              {counted(lost, 'replica')} ended without a word, last {last}")


def _failures(ever: int, new: int) -> str:
    if not ever:
        return "none"
    return f"{ever}, {new} of them new" if new else f"{ever}, all taken note of on the page"


def _refused(faults: Sequence[object]) -> str:
    # with --db: a fault of the file may be one that only the database knows
    return f", the file now has {counted(len(faults), 'fault')} (run `listener check --db`)" if faults else ""


def _end(until: datetime | None) -> str:
    return "somebody resumes" if until is None or pauses.endless(until) else shown(until)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
