"""The filters of `messages`, shared by every verb that picks messages; and times as people write them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from listener import phones
from listener.errors import UsageError
from listener.model import State
from listener.words import LOCAL

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_OPTIONS = (
    click.option("--rule", help="Only messages of this rule."),
    click.option("--watch", help="Only messages of this watch."),
    click.option(
        "--state",
        multiple=True,
        type=click.Choice([s.value for s in State]),
        help="Only this state; may be given often.",
    ),
    click.option("--key", help="Only messages about this order, account ..."),
    click.option("--thread", help="Only messages of this thread."),
    click.option("--account", help="Only messages of this CareSoft account."),
    click.option("--phone", help="Only messages to this phone, in any form."),
    click.option("--ticket", type=click.IntRange(1, 2**63 - 1), help="Only messages on this ticket."),
    click.option("--since", help="Only messages made in the last 30m, 6h or 7d."),
)


def filter_options(verb: F) -> F:
    """Adds the filters to a verb; what they hold is read by `chosen`."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def chosen(options: Mapping[str, Any]) -> dict[str, object]:
    """The filters that were given, as `overview` takes them. Raises `UsageError`."""
    given: dict[str, object] = {name: value for name, value in options.items() if value not in (None, ())}
    if "state" in given:
        given["state"] = list(options["state"])
    if "phone" in given:
        given["phone"] = phone(options["phone"], "--phone")
    if "since" in given:
        given["since"] = datetime.now(UTC) - duration(options["since"], "--since")
    return given


def phone(text: str, where: str) -> str:
    """`0` and nine digits of a phone in any form. Raises `UsageError`."""
    found = phones.normalise(text, migrate_old=True)
    if isinstance(found, phones.BadPhone):
        raise UsageError(f"{where}: {phones.reason_text(found)}")
    return found.number


def duration(text: str, where: str) -> timedelta:
    """30m, 6h or 7d. Raises `UsageError`."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit()) or unit not in _UNITS:
        raise UsageError(f"{where}: write it as 30m, 6h or 7d")
    if len(number) > 5 or not int(number):
        raise UsageError(f"{where}: that is no length of time to look at; from 1m to 99999d")
    return timedelta(**{_UNITS[unit]: int(number)})


def moment(text: str, where: str) -> datetime:
    """A time to come: in so long (30m, 6h, 7d), or 2026-11-22T18:00 (Vietnam's, unless it names a zone).

    Raises `UsageError`.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) + duration(text, where)
        except UsageError:
            raise UsageError(f"{where}: write it as 30m, 6h, 7d or 2026-11-22T18:00") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=LOCAL)
    if at <= datetime.now(UTC):
        raise UsageError(f"{where}: that time is over")
    return at
