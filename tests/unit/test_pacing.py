"""In time or not: steady delays are learned, sudden ones are not forgiven."""

from hypothesis import given
from hypothesis import strategies as st

from listener.pacing import ONE_IN, TOLERANCE, Punctuality


def test_it_begins_strict() -> None:
    assert Punctuality().in_time(TOLERANCE)
    assert not Punctuality().in_time(TOLERANCE + 0.001)


def test_a_far_gateway_becomes_usual() -> None:
    pace = Punctuality()
    verdicts = [pace.in_time(0.6) for _ in range(50)]
    assert not verdicts[0]
    assert verdicts.index(True) < 30
    assert all(verdicts[30:])


def test_a_frozen_process_stays_late() -> None:
    pace = Punctuality()
    for _ in range(100):
        pace.in_time(0.01)
    assert not any(pace.in_time(20.0 - n / 12) for n in range(8))
    assert pace.in_time(0.05)


def test_a_gateway_that_is_always_too_slow_gets_one_in_so_many() -> None:
    pace = Punctuality()
    verdicts = [pace.in_time(3.0) for _ in range(50 + 5 * ONE_IN)]
    assert not any(verdicts[:50])
    assert sum(verdicts[50:]) == 5
    assert pace.in_time(0.05)
    assert not any(pace.in_time(3.0) for _ in range(ONE_IN - 1))


@given(st.lists(st.floats(0, 100), max_size=200))
def test_what_is_usual_is_bounded(ages: list[float]) -> None:
    pace = Punctuality()
    for age in ages:
        late = age > pace.usual + TOLERANCE
        assert pace.in_time(age) is not late or (late and pace.usual == 1)
        assert 0 <= pace.usual <= 1
