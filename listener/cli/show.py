"""`listener messages`, `message`, `status`: what happened and what waits."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from listener import overview, phones
from listener.cli.common import asynchronous, fail, output_option, print_json, print_table, shown
from listener.database import connect
from listener.errors import ListenerError, UsageError
from listener.model import State
from listener.rules import read
from listener.settings import Settings, read_settings

_SINCE = {"m": "minutes", "h": "hours", "d": "days"}


@click.command()
@click.option("--rule", help="Only messages of this rule.")
@click.option("--watch", help="Only messages of this watch.")
@click.option(
    "--state", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state; may be given often."
)
@click.option("--key", help="Only messages about this order, account ...")
@click.option("--thread", help="Only messages of this thread.")
@click.option("--account", help="Only messages of this CareSoft account.")
@click.option("--phone", help="Only messages to this phone, in any form.")
@click.option("--ticket", type=int, help="Only messages on this ticket.")
@click.option("--since", help="Only messages made since so long: 30m, 6h, 7d.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many, newest first."
)
@click.option("--reveal", is_flag=True, help="Show whole phone numbers.")
@output_option
@asynchronous
async def messages(limit: int, reveal: bool, output: str, **filters: Any) -> None:
    """List messages, newest first."""
    filters["state"] = list(filters["state"]) or None
    filters["phone"] = _phone(filters["phone"])
    filters["since"] = _since(filters["since"])
    async with await connect(read_settings(), "show") as conn:
        rows = await overview.messages(conn, filters, limit=limit, reveal=reveal)
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
        now = await overview.status(conn, settings, _rates(settings))
    if output == "json":
        print_json(now)
        return
    said = now["rules"]
    counts = ", ".join(f"{n} {state}" for state, n in sorted(now["messages"].items())) or "none yet"
    lines = {
        "changes to match": now["outbox"],
        "messages": counts,
        "oldest waiting": _duration(now["oldest_waiting_s"]),
        "sent through in": _duration(now["eta_s"]),
        "capture failures": now["capture_failures"] or "none",
        "muted changes": now["muted"] or "none",
        "replicas": now["replicas"] or "none: start `listener run`",
        "rules": f"version {said['version'] or '-'}, in force since {shown(said['loaded_at'])}"
        + ("" if said["ok"] else f", the file now has {len(said['faults'])} faults (run `listener check`)"),
    }
    for name, value in lines.items():
        click.echo(f"{name:17} {value}")
    for name, account in now["accounts"].items():
        rate = f"{account['rate']:g}/s" if account["rate"] else "not in the rules"
        pause = (
            f", PAUSED until {shown(account['paused_until'])}: {account['reason']}" if account["paused_until"] else ""
        )
        click.echo(f"account {name:9} {rate}{pause}")


def _rates(settings: Settings) -> dict[str, float]:
    """Rates per second by account; none where the rules cannot be read here (a status is wanted all the same)."""
    try:
        return {name: a.rate.per_second for name, a in read(settings.rules).accounts.items()}
    except ListenerError:
        return {}


def _phone(text: str | None) -> str | None:
    if text is None:
        return None
    found = phones.normalise(text, migrate_old=True)
    if isinstance(found, phones.BadPhone):
        raise UsageError(f"--phone: {phones.reason_text(found)}")
    return found.number


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in _SINCE:
        raise UsageError("--since: write it as 30m, 6h or 7d")
    return datetime.now(UTC) - timedelta(**{_SINCE[unit]: int(number)})


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
