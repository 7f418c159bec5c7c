"""Sums and comparisons of a template's values: exact, and with a RenderError for what has no answer."""

import operator
from collections.abc import Callable
from datetime import datetime
from decimal import Context as Arithmetic
from decimal import Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Any
from unicodedata import normalize

from jinja2 import Undefined

from listener.errors import RenderError
from listener.sandbox import MAX_TEXT, Missing, Row, joined, kind, need, whole
from listener.text import decimal

# 1,000 digits hold the sum and the product of any two double precision or money values; what does not fit is refused
# rather than rounded. A quotient has no end in general, so division alone rounds, far below a dong.
_EXACT = Arithmetic(prec=1000, Emax=999, Emin=-999, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
_DIVISION = Arithmetic(prec=60, traps=[InvalidOperation, DivisionByZero, Overflow])


def arithmetic(left: object, op: str, right: object, left_label: str, right_label: str) -> object:
    """`left op right`, exact in Decimal; `//` and `%` cut towards zero. Texts know `+`, and `*` with a number."""
    if isinstance(left, str):
        if op == "+" and isinstance(right, str):
            return joined((left, right))
        if op == "*" and not isinstance(right, str):
            need(right, right_label)
            times = max(0, whole(right))
            if len(left) * times > MAX_TEXT:
                raise RenderError(f"the text grows longer than {MAX_TEXT:,} characters")
            return left * times
    a, b = operand(left, left_label, op), operand(right, right_label, op)
    try:
        return _ARITHMETIC[op](a, b)
    except Inexact:
        raise RenderError("the number grows longer than 1,000 digits") from None
    except Overflow:
        raise RenderError("the number grows too large") from None
    except (DivisionByZero, InvalidOperation):
        raise RenderError("division by zero" if b == 0 else "the sum cannot be worked out exactly") from None


_ARITHMETIC: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": _EXACT.add,
    "-": _EXACT.subtract,
    "*": _EXACT.multiply,
    "/": _DIVISION.divide,
    "//": _EXACT.divide_int,
    "%": _EXACT.remainder,
}


def operand(value: object, label: str, op: str) -> Decimal:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return decimal(value) if isinstance(value, int) else value
    need(value, label)
    hint = "; join texts with ~, and make a number of a text with | float" if isinstance(value, str) else ""
    raise RenderError(f"{label} is {kind(value)}, not a number, beside {op}{hint}")


def negative(value: object, label: str) -> Decimal:
    return operand(value, label, "-").copy_negate()


def positive(value: object, label: str) -> Decimal:
    return operand(value, label, "+")


def compare(left: object, op: str, right: object, left_label: str, right_label: str) -> bool:
    """`left op right` of single values, or `in` a list or a text. NULL equals only NULL and has no order."""
    left = None if isinstance(left, Missing) else left
    if op in ("in", "notin"):
        return contains(left, right, right_label) is (op == "in")
    right = None if isinstance(right, Missing) else right
    for side, label in ((left, left_label), (right, right_label)):
        if isinstance(side, list | tuple | range | Row):
            raise RenderError(f"{label} is {kind(side)}, which cannot be compared")
        if isinstance(side, Undefined) or (side is None and op not in ("eq", "ne")):
            need(side, label)
    try:
        if isinstance(left, str) != isinstance(right, str) and op in ("eq", "ne"):
            return same(left, right) is (op == "eq")
        return bool(_COMPARISON[op](left, right))
    except TypeError:
        raise RenderError(f"{left_label} is {kind(left)} and {right_label} is {kind(right)}: neither is more") from None
    except InvalidOperation:
        raise RenderError(f"{left_label} or {right_label} is NaN, which is neither more nor less") from None


_COMPARISON: dict[str, Callable[[Any, Any], object]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}


def contains(value: object, container: object, label: str) -> bool:
    """`value in container`, a list or a text."""
    if isinstance(value, list | tuple | range | Row):
        raise RenderError(f"{kind(value)} cannot be looked for in {label}")
    if isinstance(container, str):
        if not isinstance(value, str):
            raise RenderError(f"only a text can be in {label}, which is a text")
        return value in container
    need(container, label)
    if not isinstance(container, list | tuple | range):
        raise RenderError(f"{label} is {kind(container)}, not a list")
    return value in container or any(
        same(value, entry) for entry in container if isinstance(value, str) != isinstance(entry, str)
    )


def same(one: Any, other: Any) -> bool:
    """Whether a value of the file and one of a row are the same: `3` and `"3"` are, since columns may be text, and a
    date of a lookup and the text that a captured row has it as, and two words that differ in nothing but their letters'
    marks standing apart."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other or str(one).lower() == str(other).lower()
    if isinstance(one, str) != isinstance(other, str) and one is not None and other is not None:
        text, value = (one, other) if isinstance(one, str) else (other, one)
        match value:
            case Decimal() if value.is_finite():
                # 3.00 of a numeric column is the code "3"
                is_whole = value == value.to_integral_value()
                return text == format(value, "f") or (is_whole and text == format(value, ".0f"))
            case datetime():
                try:
                    return datetime.fromisoformat(text) == value
                except ValueError:
                    return False
        return text == str(value)
    if isinstance(one, str) and isinstance(other, str) and not (one.isascii() or other.isascii()):
        return one == other or normalize("NFC", one) == normalize("NFC", other)
    return bool(one == other)
