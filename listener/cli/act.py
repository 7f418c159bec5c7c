"""`listener retry`, `cancel`, `release`, `pause`, `resume`, `forget`, `export`, `suppress`: what people do, audited."""

import sys
from collections import Counter
from datetime import datetime
from typing import Any

import click

from listener import accounts, interventions, overview, pauses, personal
from listener.cli.common import asynchronous, confirm, fail, output_option, print_json
from listener.cli.filters import chosen, filter_options, moment, phone
from listener.database import connect
from listener.errors import ListenerError, UsageError
from listener.interventions import Deed, Verb
from listener.pauses import Scope, Target
from listener.settings import read_settings
from listener.words import counted, mask_phones

_HELP = {
    Verb.RETRY: "Send again: rejected, unknown, expired or held messages, by id or by the filters of `messages`.",
    Verb.CANCEL: "Never send: waiting, held or unknown messages, by id or by the filters of `messages`.",
    Verb.RELEASE: "Let go of held messages, by id or by the filters of `messages`; with --rule also of its brake.",
}
# of the kinds of changes that are let go, so many are named
_KINDS = 10
_reason = click.option("--reason", help="Why; kept in the audit.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


def _verb(verb: Verb) -> click.Command:
    @click.command(name=verb.value, help=_HELP[verb])
    @click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
    @filter_options
    @_reason
    @_yes
    @output_option
    @asynchronous
    async def command(ids: tuple[int, ...], reason: str | None, yes: bool, output: str, **options: Any) -> None:
        muted, muted_for = options.pop("muted", False), options.pop("muted_for", None)
        filters = chosen(options)
        if muted or muted_for is not None:
            await _release_muted(ids, filters, muted_for, reason, yes=yes, output=output)
            return
        if bool(ids) == bool(filters):
            raise UsageError("name the messages: either by their ids or by filters such as --rule and --state")
        settings = read_settings()
        async with await connect(settings, "act") as conn:
            picked = list(dict.fromkeys(ids))
            if ids and not yes and sys.stdin.isatty():
                found = await overview.ids(conn, {"ids": picked})
                _confirm_messages(verb, found, yes=yes)
            if filters:
                found = await interventions.candidates(conn, verb, filters)
                picked = [row["id"] for row in found]
                if picked:
                    _confirm_messages(verb, found, yes=yes)
            by = await pauses.who(conn)
            deed = await interventions.act(conn, settings, verb, picked, by=by, reason=reason, filters=filters or None)
        _tell(deed, output)
        if ids and deed.skipped:
            raise SystemExit(1)

    assert isinstance(command, click.Command)
    if verb is Verb.RELEASE:
        muted = "Let go of changes that were kept out instead; with --watch only of one watch."
        command.params.append(click.Option(["--muted"], is_flag=True, help=muted))
        muted_for = "Only changes that were kept out for this reason, as `listener.mute` had it."
        command.params.append(click.Option(["--muted-for"], help=muted_for))
    return command


async def _release_muted(
    ids: tuple[int, ...],
    filters: dict[str, object],
    muted_for: str | None,
    reason: str | None,
    *,
    yes: bool,
    output: str,
) -> None:
    if ids or set(filters) - {"watch"}:
        raise UsageError("--muted is about changes, not messages: only --watch and --muted-for can go with it")
    watch = str(filters["watch"]) if "watch" in filters else None
    n = 0
    async with await connect(read_settings(), "act") as conn:
        kinds = await interventions.muted(conn, watch=watch, muted_for=muted_for)
        if kinds:
            late = " (of changes longer ago than `expires` the messages are expired: only `retry` sends them)"
            _confirm(f"release {counted(sum(kind['n'] for kind in kinds), 'change')}", _named(kinds), late, yes=yes)
            by = await pauses.who(conn)
            n = await interventions.release_muted(conn, watch=watch, muted_for=muted_for, by=by, reason=reason)
        elif muted_for is not None:
            there = ", ".join(_named(await interventions.muted(conn, watch=watch))) or "none"
            click.echo(f"no change was kept out for that reason; there are: {there}", err=True)
    if output == "json":
        print_json({"verb": "release", "changed": n, "ids": [], "skipped": []})
    else:
        click.echo(f"release: {counted(n, 'muted change')}")
    if muted_for is not None and not kinds:
        raise SystemExit(1)


def _named(kinds: list[dict[str, Any]]) -> list[str]:
    """Muted changes by what they are of and why, the most first."""
    more = [f"{len(kinds) - _KINDS} more reasons"] if len(kinds) > _KINDS else []
    return [f"{kind['n']} of {kind['watch']} ({mask_phones(kind['reason'])})" for kind in kinds[:_KINDS]] + more


def _confirm_messages(verb: Verb, found: list[dict[str, Any]], *, yes: bool) -> None:
    states = Counter(row["state"] for row in found)
    doubt = verb is Verb.RETRY and states["unknown"]
    warning = " (unknown ones were perhaps sent: a second SMS is possible)" if doubt else ""
    parts = [f"{n} {state}" for state, n in sorted(states.items())]
    _confirm(f"{verb.value} {counted(len(found), 'message')}", parts, warning, yes=yes)


def _confirm(deed: str, parts: list[str], warning: str = "", *, yes: bool) -> None:
    """Shows how many of what and asks, on a terminal. Raises `UsageError` where nobody can answer."""
    click.echo(f"{deed}: {', '.join(parts)}{warning}", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{deed}: nobody is there to confirm; add --yes")
    confirm("go on?")


def _tell(deed: Deed, output: str) -> None:
    if output == "json":
        print_json(
            {
                "verb": deed.verb.value,
                "changed": len(deed.done),
                "ids": sorted(deed.done),
                "skipped": [{"id": number, "reason": why} for number, why in sorted(deed.skipped.items())],
            }
        )
        return
    for number, why in sorted(deed.skipped.items()):
        click.echo(f"message {number} left alone: {why}", err=True)
    click.echo(f"{deed.verb.value}: {counted(len(deed.done), 'message')}")


retry, cancel, release = (_verb(verb) for verb in Verb)


def _target(rule: str | None, account: str | None, number: str | None) -> Target:
    given = [
        Target(scope=scope, value=value)
        for scope, value in ((Scope.RULE, rule), (Scope.ACCOUNT, account), (Scope.PHONE, number))
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError("give one of --rule, --account and --phone, or none for everything")
    return given[0] if given else Target(scope=Scope.ALL)


@click.command()
@click.option("--rule", help="Only this rule.")
@click.option("--account", help="Only this CareSoft account.")
@click.option("--phone", "number", help="Only this phone, in any form.")
@click.option("--reason", required=True, help="Why; shown wherever the pause is.")
@click.option("--until", help="For 30m, 6h or 7d, or until 2026-11-22T18:00; without it until `resume`.")
@output_option
@asynchronous
async def pause(
    rule: str | None, account: str | None, number: str | None, reason: str, until: str | None, output: str
) -> None:
    """Stop sending: everything, or one rule, account or phone. What is on its way already is not called back."""
    if not reason.strip():
        raise UsageError("--reason: say why in a word or two")
    end: datetime | None = moment(until, "--until") if until is not None else None
    target = _target(rule, account, phone(number, "--phone") if number is not None else None)
    async with await connect(read_settings(), "act") as conn:
        rules = await overview.rules_in_force(conn)
        await pauses.known(conn, target, rules.rules.rules if rules else None)
        held = await pauses.pause(conn, target, reason=reason.strip(), until=end, by=await pauses.who(conn))
    if output == "json":
        print_json({"verb": "pause", "target": str(target), "until": end, "held": held})
        return
    click.echo(
        f"paused: {target}"
        + (f"; {counted(held, 'message')} held" if target.scope in (Scope.RULE, Scope.PHONE) else "")
    )


@click.command()
@click.option("--rule", help="Only this rule.")
@click.option("--account", help="Only this CareSoft account.")
@click.option("--phone", "number", help="Only this phone, in any form.")
@_reason
@output_option
@asynchronous
async def resume(rule: str | None, account: str | None, number: str | None, reason: str | None, output: str) -> None:
    """End a pause; what it held is sent, and nothing else."""
    target = _target(rule, account, phone(number, "--phone") if number is not None else None)
    async with await connect(read_settings(), "act") as conn:
        released = await pauses.resume(conn, target, reason=reason, by=await pauses.who(conn))
        others = await pauses.pauses(conn)
        standing = [a for a in await accounts.all_accounts(conn) if a["name"] == account and a["paused_until"]]
    still = [str(p.target) for p in others]
    if released is None:
        why = "".join(f"; nobody paused it, and it goes on by itself: {a['pause_reason']}" for a in standing)
        raise fail(f"there is no pause of {target}{why}" + (f"; paused: {', '.join(still)}" if still else ""), 1)
    if output == "json":
        print_json({"verb": "resume", "target": str(target), "released": released, "still_paused": still})
        return
    click.echo(f"resumed: {target}" + (f"; still paused: {', '.join(still)}" if still else ""))


@click.command()
@click.argument("number", metavar="PHONE")
@_reason
@_yes
@output_option
@asynchronous
async def forget(number: str, reason: str | None, yes: bool, output: str) -> None:
    """Remove a person's data: phone, texts and row values in every table; counts, states and times stay."""
    who = phone(number, "PHONE")
    async with await connect(read_settings(), "act") as conn:
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("forget: nobody is there to confirm; add --yes")
            confirm("This cannot be undone, and cancels what is not sent yet. Go on?")
        found = await personal.forget(conn, who, by=await pauses.who(conn), reason=reason)
    if output == "json":
        print_json({"verb": "forget", "removed": found.removed, "left": found.left})
    else:
        for place, n in found.removed.items():
            click.echo(f"{place}: {n}")
        for why in found.left:
            click.echo(f"left: {why}", err=True)
    if found.again:
        raise ListenerError("a message is being sent to this phone right now; run it again in a minute")


@click.command()
@click.argument("number", metavar="PHONE")
@_reason
@click.option("-o", "--output", type=click.Choice(["json"]), default="json", help="JSON is all there is.")
@asynchronous
async def export(number: str, reason: str | None, output: str) -> None:  # noqa: ARG001
    """All that is kept about a person, as JSON, with the whole phone number."""
    who = phone(number, "PHONE")
    async with await connect(read_settings(), "act") as conn:
        print_json(await personal.export(conn, who, by=await pauses.who(conn), reason=reason))


@click.command()
@click.argument("number", metavar="PHONE")
@click.option("--remove", is_flag=True, help="Take the phone off the list: SMS may go to it again.")
@_reason
@output_option
@asynchronous
async def suppress(number: str, remove: bool, reason: str | None, output: str) -> None:
    """Send no SMS to a phone any more, for whoever asked not to be sent any; what waits for it is cancelled."""
    who = phone(number, "PHONE")
    if not remove and not (reason or "").strip():
        raise UsageError("--reason: say why in a word or two")
    async with await connect(read_settings(), "act") as conn:
        by = await pauses.who(conn)
        if remove:
            if not await personal.unsuppress(conn, who, by=by, reason=reason):
                raise fail("the phone is not on the suppression list", 1)
            n = 0
        else:
            n = await personal.suppress(conn, who, by=by, reason=(reason or "").strip())
    if output == "json":
        print_json({"verb": "suppress", "removed": remove, "cancelled": n})
        return
    click.echo(
        "taken off the suppression list" if remove else f"no SMS goes to it any more; {counted(n, 'message')} cancelled"
    )
