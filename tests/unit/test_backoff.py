"""Growth and bounds of the waits."""

from hypothesis import given
from hypothesis import strategies as st

from listener.backoff import Backoff
from listener.settling import RATE_BACKOFF

BACKOFF = Backoff(first=5, longest=60, jitter=0.2)


def test_it_grows_up_to_its_longest() -> None:
    assert [BACKOFF.delay(streak, lambda: 0.0) for streak in (0, 1, 2, 3, 4, 5, 99)] == [5, 5, 10, 20, 40, 60, 60]


@given(streak=st.integers(0, 10**9), uniform=st.floats(0, 1))
def test_jitter_only_makes_it_longer(streak: int, uniform: float) -> None:
    plain, jittered = BACKOFF.delay(streak, lambda: 0.0), BACKOFF.delay(streak, lambda: uniform)
    assert plain <= jittered <= 1.2 * plain + 1e-9


def test_five_429s_in_a_row_take_minutes_and_twenty_take_hours() -> None:
    waits = [RATE_BACKOFF.delay(streak, lambda: 0.0) for streak in range(1, 20)]
    assert waits[0] == 2
    assert sum(waits[:4]) > 120
    assert sum(waits) > 3 * 3600
