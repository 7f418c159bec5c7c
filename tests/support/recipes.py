"""What the guide shows word for word: the recipes (`tests/recipes/NAME.yaml`, each a whole rules file with its tests)
and the reference of the words of the file."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from listener.rules import load
from listener.rules.schema import (
    Account,
    Coalesce,
    ColumnChange,
    Expectation,
    Parts,
    QuietHours,
    Rule,
    RuleOptions,
    RuleTest,
    Ticket,
    Watch,
)

FOLDER = Path(__file__).parent.parent / "recipes"
NAMES = (
    "low_balance",
    "balance_credited",
    "order_confirmed",
    "order_shipped",
    "order_delivered",
    "order_cancelled",
    "payment_due",
    "birthday",
    "cod_failed",
    "order_ticket",
)
# each mapping of the file by where it stands
_MAPPINGS: dict[str, type[BaseModel]] = {
    "accounts: NAME:": Account,
    "parts:": Parts,
    "watch: NAME:": Watch,
    "rules: NAME:": Rule,
    "change: COLUMN:": ColumnChange,
    "rules: NAME:, defaults:": RuleOptions,
    "quiet_hours:": QuietHours,
    "coalesce:": Coalesce,
    "ticket:": Ticket,
    "tests:": RuleTest,
    "expect:": Expectation,
}


def together() -> dict[str, Any]:
    """All recipes as one file, as an admin would copy one beneath the other."""
    whole: dict[str, Any] = {}
    for name in NAMES:
        path = FOLDER / f"{name}.yaml"
        data = load(path.read_text(encoding="utf-8"), str(path)).data
        assert isinstance(data, dict)
        for block, entries in data.items():
            if isinstance(entries, list):
                whole.setdefault(block, []).extend(entries)
            elif isinstance(entries, dict):
                mine = whole.setdefault(block, {})
                for key, entry in entries.items():
                    # What two recipes share must be the same in both, or the second would undo the first.
                    assert mine.setdefault(key, entry) == entry, (name, key)
            else:
                whole[block] = entries
    return whole


def reference() -> str:
    """A table for each mapping: its keys, their defaults, and what editors show of them in both languages."""
    return "\n".join(f"**`{place}`**\n\n{_table(model)}" for place, model in _MAPPINGS.items())


def _table(model: type[BaseModel]) -> str:
    head = "| từ khóa / key | mặc định / default | tiếng Việt | English |\n| --- | --- | --- | --- |\n"
    return head + "".join(_rows(model))


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        # A rule's own name is its key, and what it shares with `defaults` has a table of its own.
        if model is Rule and (name == "name" or name in RuleOptions.model_fields):
            continue
        assert field.description is not None
        english, vietnamese = field.description.split(" / ")
        yield f"| `{field.alias or name}` | {_default(field)} | {vietnamese} | {english} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default_factory is not None or field.default in (None, "", (), {}):
        return ""
    return f"`{_written(field.default)}`"


def _written(value: object) -> str:
    """As the file would write it."""
    if isinstance(value, tuple):
        items = ", ".join(map(_written, value))
        return items if len(value) == 1 else f"[{items}]"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if isinstance(value, bool) else str(value)
