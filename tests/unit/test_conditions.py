"""The words of `change:` on one change, among them NULL, inserts and deletes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unicodedata import normalize

import pytest

from listener.errors import RenderError
from listener.model import Change, Op
from listener.rules.conditions import Moves, compile_change, same
from listener.rules.schema import ColumnChange

ABSENT = object()


def asked(**words: Any) -> ColumnChange:
    return ColumnChange.model_validate({("from" if k == "from_" else k): v for k, v in words.items()})


def change(old: object, new: object) -> Change:
    """A change of `x`; ABSENT for the side that an insert or delete does not have."""
    rows = [None if value is ABSENT else {"x": value} for value in (old, new)]
    op = Op.INSERT if old is ABSENT else Op.DELETE if new is ABSENT else Op.UPDATE
    return Change(id=1, watch="w", op=op, key="k", old=rows[0], new=rows[1], at=datetime(2026, 1, 1, tzinfo=UTC))


def refusal(column: str, what: ColumnChange, change: Change, *, old_known: bool = True) -> str | None:
    return compile_change(column, what).refusal(Moves(change), old_known=old_known)


N = Decimal


@pytest.mark.parametrize(
    ("words", "old", "new", "reason"),
    [
        # any change at all
        ({"to": "b"}, "a", "b", None),
        ({"to": "b"}, "b", "b", "x did not change"),
        ({"to": "b"}, "a", "c", "x is not b now"),
        ({"to": ["b", "c"]}, "a", "d", "x is not b or c now"),
        ({"to": ["b", "c"]}, "a", "c", None),
        ({"from_": "a"}, "a", "b", None),
        ({"from_": "a"}, "c", "b", "x was not a before"),
        ({"from_": "a", "to": "b"}, "a", "b", None),
        ({"from_": "a", "to": "b"}, "a", "c", "x is not b now"),
        # NULL is a value that can be named, and nothing else equals it
        ({"to": None}, "a", None, None),
        ({"from_": None}, None, "b", None),
        ({"from_": None}, "a", "b", "x was not null before"),
        ({"to": "null"}, "a", None, "x is not null now"),
        ({"from_": False, "to": [True, None]}, False, "x", "x is not true or null now"),
        ({"to": "b"}, None, "b", None),
        ({"to": "b"}, None, None, "x did not change"),
        # an insert has no value before, a delete none after: not even NULL
        ({"to": "b"}, ABSENT, "b", None),
        ({"to": None}, ABSENT, None, None),
        ({"from_": None}, ABSENT, "b", "x was not null before"),
        ({"from_": "a"}, "a", ABSENT, None),
        ({"to": None}, "a", ABSENT, "x is not null now"),
        # numbers
        ({"crosses_below": 10}, N(10), N("9.99"), None),
        ({"crosses_below": 10}, N(150), N(0), None),
        ({"crosses_below": 10}, N("9.99"), N(1), "x did not fall below 10"),
        ({"crosses_below": 10}, N(11), N(10), "x did not fall below 10"),
        ({"crosses_above": 10}, N(10), N("10.01"), None),
        ({"crosses_above": 10}, N("10.01"), N(12), "x did not rise above 10"),
        ({"crosses_above": 10}, N(9), N(10), "x did not rise above 10"),
        ({"increases_by": 5}, N(1), N(6), None),
        ({"increases_by": 5}, N(1), N("5.99"), "x did not grow by 5"),
        ({"increases_by": 5}, N(6), N(1), "x did not grow by 5"),
        ({"decreases_by": 5}, N(6), N(1), None),
        ({"decreases_by": 5}, N(1), N(6), "x did not fall by 5"),
        ({"crosses_below": 10, "decreases_by": 5}, N(11), N(9), "x did not fall by 5"),
        ({"crosses_below": N("-3.25")}, N(0), N("-3.26"), None),
        ({"crosses_below": 10}, "10.00", "9.50", None),
        ({"crosses_below": 10}, None, N(5), "x has no value before or after"),
        ({"crosses_below": 10}, N(50), None, "x has no value before or after"),
        ({"crosses_below": 10}, ABSENT, N(5), "x has no value before or after"),
        ({"crosses_below": 10}, N(50), ABSENT, "x has no value before or after"),
        ({"increases_by": 1}, N(5), N("5.00"), "x did not change"),
    ],
)
def test_what_is_asked_of_a_column(words: dict[str, Any], old: object, new: object, reason: str | None) -> None:
    assert refusal("x", asked(**words), change(old, new)) == reason


@pytest.mark.parametrize(
    ("words", "new", "reason"),
    [
        ({"from_": "a"}, "b", None),
        ({"from_": "a", "to": "b"}, "c", "x is not b now"),
        ({"crosses_below": 10}, N(9), None),
        ({"crosses_below": 10}, N(10), "x is not below 10"),
        ({"crosses_above": 10}, N(11), None),
        ({"crosses_above": 10}, N(10), "x is not above 10"),
        ({"increases_by": 10}, N(1), None),
        ({"crosses_below": 10}, None, "x has no value"),
    ],
)
def test_when_the_row_before_is_not_known(words: dict[str, Any], new: object, reason: str | None) -> None:
    assert refusal("x", asked(**words), change(ABSENT, new), old_known=False) == reason


@pytest.mark.parametrize(("old", "new"), [("10", "many"), (N(10), True), (N(10), N("NaN")), (N(10), ["5"])])
def test_what_is_no_number_is_told(old: object, new: object) -> None:
    with pytest.raises(RenderError, match=r"^x: "):
        refusal("x", asked(crosses_below=10), change(old, new))


def test_a_column_that_the_row_lacks_is_told() -> None:
    with pytest.raises(RenderError, match="the row has no y; if the table has it, run `listener db install`"):
        refusal("y", asked(to="b"), change("a", "b"))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (N(3), N("3.00"), True),
        ("3", N(3), True),
        ("3", N("3.00"), True),
        ("3.00", N("3.00"), True),
        ("3.5", N("3.50"), False),
        ("03", N(3), False),
        ("100", N("1E+2"), True),
        ("NaN", N("NaN"), True),
        (True, True, True),
        (True, "true", True),
        ("TRUE", True, True),
        (True, N(1), False),
        (False, None, False),
        (None, "", False),
        (None, None, True),
        ("a", "A", False),
        ("đã thu", normalize("NFD", "đã thu"), True),
        ("đã thu", "da thu", False),
        (["a"], ["a"], True),
    ],
)
def test_when_two_values_are_the_same(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is equal
    assert same(other, one) is equal
