"""Quiet hours as arithmetic on the rule's own clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from listener.rules.schema import QuietHours


def after_quiet(moment: datetime, quiet: QuietHours | None, zone: ZoneInfo) -> datetime:
    """`moment`, or the end of the quiet hours that it falls into. `from` is quiet, `to` no longer is.

    Reckoned in the rule's zone; over a change of its clocks the quiet ends at the wall clock's `to`. The end is in UTC.
    """
    if quiet is None:
        return moment
    local = moment.astimezone(zone)
    time = local.time()
    over_midnight = quiet.end < quiet.start
    inside = time >= quiet.start or time < quiet.end if over_midnight else quiet.start <= time < quiet.end
    if not inside:
        return moment
    day = local.date() + timedelta(days=1 if over_midnight and time >= quiet.start else 0)
    end = datetime.combine(day, quiet.end, tzinfo=zone)
    # Where clocks go back, an hour comes twice: the second time the quiet ends the second time. In UTC, since of such
    # hours two datetimes of one zone are compared by their digits alone.
    first = end.astimezone(UTC)
    return first if first > moment else end.replace(fold=1).astimezone(UTC)


def next_quiet(
    moment: datetime, quiet: QuietHours | None, zone: ZoneInfo
) -> tuple[datetime, datetime] | tuple[None, None]:
    """Beginning and end of the first quiet hours after `moment`, which is in none."""
    if quiet is None:
        return None, None
    local = moment.astimezone(zone)
    day = local.date() + timedelta(days=1 if local.time() >= quiet.start else 0)
    begin = datetime.combine(day, quiet.start, tzinfo=zone).astimezone(UTC)
    return begin, after_quiet(begin, quiet, zone)
