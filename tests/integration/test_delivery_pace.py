"""The slots of an account, as its row gives them: against a sliding window, on a clock that the test moves.

The statement runs as it is; it finds `clock_timestamp` in a schema of the test's before PostgreSQL's own.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener import migrations
from listener.database import connect
from listener.messages import SLACK, SPACING, SQL
from listener.settings import Settings
from tests.faults.checker import most_within

START = datetime(2026, 11, 22, tzinfo=UTC)
CLOCK = b"""
INSERT INTO listener.account (name) VALUES ('main');
INSERT INTO listener.thread (account, name, next_at) SELECT 'main', n, '2026-01-01' FROM generate_series(1, 64) n;
CREATE SCHEMA clock;
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
    $$ SELECT current_setting('clock.now')::timestamptz $$;
SET search_path = clock, pg_catalog;
"""
# seconds since the grab before, and how many slots are wanted: eager replicas, idle times, freezes
GRABS = st.lists(
    st.tuples(st.floats(0, 0.2) | st.sampled_from([0.0, 0.001, 0.5, 20.0]), st.integers(1, 8)), min_size=30, max_size=80
)


@pytest.fixture
def clocked(database: str) -> Iterator[psycopg.Connection]:
    """A connection on which time stands still until the test moves it."""

    async def migrate() -> None:
        async with await connect(Settings(database_url=database), "test") as conn:
            await migrations.migrate(conn)

    asyncio.run(migrate())
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CLOCK)
        yield conn


def grab(conn: psycopg.Connection, at: float, rate: float, want: int) -> int:
    """How many slots a claim at second `at` is given; the threads stay due."""
    args = {
        "account": "main",
        "lease": 1,
        "want": want,
        "interval": SPACING / rate,
        "slack": SLACK,
        "probe": 60.0,
    }
    conn.execute("SELECT set_config('clock.now', %s, false)", [(START + timedelta(seconds=at)).isoformat()])
    given = conn.execute(SQL["claim"], args).rowcount
    conn.execute("UPDATE listener.thread SET lease = NULL, next_at = '2026-01-01' WHERE lease IS NOT NULL")
    return given


def slots(conn: psycopg.Connection, rate: float, grabs: list[tuple[float, int]]) -> list[float]:
    """When each slot was given."""
    conn.execute("UPDATE listener.account SET next_slot = '-infinity'")
    times = accumulate(pause for pause, _ in grabs)
    return [at for at, (_, want) in zip(times, grabs, strict=True) for _ in range(grab(conn, at, rate, want))]


@pytest.mark.parametrize("rate", [2, 12, 14, 50])
def test_no_grabs_get_more_than_the_rate_in_any_second(clocked: psycopg.Connection, rate: int) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(grabs=GRABS)
    def check(grabs: list[tuple[float, int]]) -> None:
        assert most_within(slots(clocked, rate, grabs), 1.0)[0] <= rate

    check()


def test_nothing_is_saved_up(clocked: psycopg.Connection) -> None:
    assert slots(clocked, 12, [(0, 8), (20.0, 8)]) == [0, 20.0]


@pytest.mark.parametrize("rate", [12, 100])
def test_asked_a_little_late_each_time_it_keeps_the_rate(clocked: psycopg.Connection, rate: int) -> None:
    """A loop that sleeps until its slot comes back up to 10 ms late."""
    late = [0.002, 0.009, 0.0, 0.005]
    at, given = 0.0, 0
    for n in range(300):
        given += grab(clocked, at, rate, 8)
        next_slot = clocked.execute("SELECT extract(epoch FROM next_slot - %s) FROM listener.account", [START])
        row = next_slot.fetchone()
        assert row is not None
        at = max(at, float(row[0])) + late[n % 4]
    assert given / at >= 0.95 * rate


def test_less_than_one_a_minute(clocked: psycopg.Connection) -> None:
    rate = 10 / 3600
    assert slots(clocked, rate, [(0, 1), (60, 1), (300, 1), (60, 1)]) == [0, 420]


def test_a_clock_set_back_does_not_stop_the_account(clocked: psycopg.Connection) -> None:
    assert grab(clocked, 7200, 12, 1) == 1
    assert grab(clocked, 0, 12, 1) == 1
    assert grab(clocked, 0, 12, 1) == 0
