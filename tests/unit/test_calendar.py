"""Which days a watch by date still owes."""

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from listener.calendar import due_days, last_due

VIETNAM = ZoneInfo("Asia/Ho_Chi_Minh")
EIGHT = time(8)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-{text}+07:00")


@pytest.mark.parametrize(
    ("now", "last", "catch_up", "each", "days"),
    [
        ("22T07:59:59", 21, 6, True, []),
        ("22T08:00:00", 21, 6, True, [22]),
        ("22T14:00:00", 21, 6, True, [22]),
        ("22T14:00:01", 21, 6, True, []),
        ("22T09:00:00", 22, 6, True, []),
        # three days of outage
        ("22T09:00:00", 18, 50, True, [20, 21, 22]),
        ("22T09:00:00", 18, 50, False, [22]),
        ("22T07:00:00", 19, 24, False, [21]),
        # over midnight the day is the one it was due on
        ("23T01:00:00", 21, 24, True, [22]),
    ],
)
def test_due_days(now: str, last: int, catch_up: int, each: bool, days: list[int]) -> None:
    found = due_days(at(now), EIGHT, VIETNAM, date(2026, 11, last), timedelta(hours=catch_up), each=each)
    assert found == [date(2026, 11, day) for day in days]


def test_a_long_outage_is_bounded_by_catch_up() -> None:
    days = due_days(at("22T09:00:00"), EIGHT, VIETNAM, date(2020, 1, 1), timedelta(days=3), each=True)
    assert days == [date(2026, 11, day) for day in (20, 21, 22)]


def test_the_newest_day_whose_moment_has_come() -> None:
    assert last_due(at("22T07:59:59"), EIGHT, VIETNAM) == date(2026, 11, 21)
    assert last_due(at("22T08:00:00"), EIGHT, VIETNAM) == date(2026, 11, 22)


def test_the_moment_is_the_zones_own() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    # 08:00 in Berlin is 13:00 in summer and 14:00 in winter on a Vietnamese clock.
    summer = datetime(2026, 7, 1, 13, tzinfo=VIETNAM)
    winter = datetime(2026, 12, 1, 14, tzinfo=VIETNAM)
    for moment in (summer, winter):
        before = moment - timedelta(seconds=1)
        assert due_days(moment, EIGHT, berlin, moment.date() - timedelta(days=1), timedelta(hours=1), each=True)
        assert not due_days(before, EIGHT, berlin, moment.date() - timedelta(days=1), timedelta(hours=1), each=True)
