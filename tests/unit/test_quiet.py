"""F69: quiet hours over midnight, in any zone, and where the clocks change. (What is too old: test_why.py.)"""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.rules.quiet import after_quiet, next_quiet
from listener.rules.schema import QuietHours

HCM = ZoneInfo("Asia/Ho_Chi_Minh")
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [HCM, BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]


def quiet(begin: str, end: str) -> QuietHours:
    return QuietHours(start=time.fromisoformat(begin), end=time.fromisoformat(end))


NIGHT = quiet("21:00", "07:00")
NOON = quiet("11:30", "13:30")


def local(text: str, zone: ZoneInfo = HCM) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("hours", "moment", "after"),
    [
        (NIGHT, "2026-11-22T20:59:59", "2026-11-22T20:59:59"),
        (NIGHT, "2026-11-22T21:00:00", "2026-11-23T07:00:00"),
        (NIGHT, "2026-11-22T23:59:59.999", "2026-11-23T07:00:00"),
        (NIGHT, "2026-11-23T00:00:00", "2026-11-23T07:00:00"),
        (NIGHT, "2026-11-23T06:59:59", "2026-11-23T07:00:00"),
        (NIGHT, "2026-11-23T07:00:00", "2026-11-23T07:00:00"),
        (NIGHT, "2026-12-31T22:00:00", "2027-01-01T07:00:00"),
        (NIGHT, "2028-02-28T22:00:00", "2028-02-29T07:00:00"),
        (NOON, "2026-11-22T11:29:59", "2026-11-22T11:29:59"),
        (NOON, "2026-11-22T11:30:00", "2026-11-22T13:30:00"),
        (NOON, "2026-11-22T13:30:00", "2026-11-22T13:30:00"),
        (NOON, "2026-11-22T00:00:00", "2026-11-22T00:00:00"),
        (quiet("00:00", "06:00"), "2026-11-22T00:00:00", "2026-11-22T06:00:00"),
        (quiet("22:00", "00:00"), "2026-11-22T23:00:00", "2026-11-23T00:00:00"),
        (quiet("22:00", "00:00"), "2026-11-23T00:00:00", "2026-11-23T00:00:00"),
    ],
)
def test_from_is_quiet_and_to_no_longer_is(hours: QuietHours, moment: str, after: str) -> None:
    assert after_quiet(local(moment), hours, HCM) == local(after)


def test_without_quiet_hours_nothing_moves() -> None:
    moment = local("2026-11-22T23:00:00")
    assert after_quiet(moment, None, HCM) == moment
    assert next_quiet(moment, None, HCM) == (None, None)


def test_the_rules_zone_counts_and_not_the_moments() -> None:
    """15:00 in London is 22:00 in Ho Chi Minh City; the machine's own zone plays no part."""
    moment = datetime(2026, 11, 22, 15, tzinfo=UTC)
    assert after_quiet(moment, NIGHT, HCM) == datetime(2026, 11, 23, 0, tzinfo=UTC)
    assert after_quiet(moment, NIGHT, BERLIN) == moment


@pytest.mark.parametrize(
    ("hours", "moment", "after"),
    [
        # 2026-03-29 in Berlin: 02:00 CET becomes 03:00 CEST
        (NIGHT, "2026-03-28T22:00:00+00:00", "2026-03-29T05:00:00+00:00"),
        (quiet("22:00", "02:30"), "2026-03-28T22:00:00+00:00", "2026-03-29T01:30:00+00:00"),
        # 2026-10-25 in Berlin: 03:00 CEST becomes 02:00 CET, and 02:30 comes twice
        (NIGHT, "2026-10-24T22:00:00+00:00", "2026-10-25T06:00:00+00:00"),
        (quiet("22:00", "02:30"), "2026-10-24T22:00:00+00:00", "2026-10-25T00:30:00+00:00"),
        (quiet("22:00", "02:30"), "2026-10-25T01:10:00+00:00", "2026-10-25T01:30:00+00:00"),
    ],
)
def test_where_the_clocks_change(hours: QuietHours, moment: str, after: str) -> None:
    assert after_quiet(datetime.fromisoformat(moment), hours, BERLIN) == datetime.fromisoformat(after)


times = st.times(min_value=time(0), max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
moments = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2035, 1, 1)).map(
    lambda naive: naive.replace(tzinfo=UTC)
)
hours = st.tuples(times, times).filter(lambda pair: pair[0] != pair[1])


@given(moments, hours, st.sampled_from(ZONES))
def test_the_end_is_never_before_and_never_quiet_itself(
    moment: datetime, pair: tuple[time, time], zone: ZoneInfo
) -> None:
    rule = QuietHours(start=pair[0], end=pair[1])
    after = after_quiet(moment, rule, zone).astimezone(UTC)
    assert moment <= after <= moment + timedelta(hours=25)
    assert after_quiet(after, rule, zone).astimezone(UTC) == after


@given(moments, hours, st.sampled_from([HCM, ZoneInfo("UTC")]))
def test_the_next_quiet_hours_begin_within_a_day(moment: datetime, pair: tuple[time, time], zone: ZoneInfo) -> None:
    rule = QuietHours(start=pair[0], end=pair[1])
    free = after_quiet(moment, rule, zone)
    begin, end = next_quiet(free, rule, zone)
    assert begin is not None and end is not None
    assert free <= begin <= free + timedelta(days=1)
    assert after_quiet(begin, rule, zone) == end > begin
    assert after_quiet(begin - timedelta(seconds=1), rule, zone) == begin - timedelta(seconds=1) or begin == free
