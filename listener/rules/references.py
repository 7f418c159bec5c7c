"""What needs two places of the file to be judged: names that must exist elsewhere, keys that need or exclude others.

It looks at the plain data, not at models, so that a file with other faults has these told in the same breath. Values
of a wrong shape are passed over here: the schema has named them.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from unicodedata import normalize

from listener.model import Op
from listener.rules.snippets import parameters
from listener.rules.source import Keys
from listener.words import alike, nearest

RESERVED = frozenset({"old", "new", "op", "at", "key"})
"""Names that expressions hold already."""

DAY = "day"
"""The one parameter that the `select` of a watch by date may have: the day it is asked about."""

_JINJA_WORDS = frozenset(
    {"and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "null", "self", "loop"}
)
_OF_A_TABLE = ("columns", "events", "where", "on_capture_error")
_OF_THE_CLOCK = ("every", "select", "catch_up")
# how like each other (0 to 1) two names are when one is the other with a letter wrong
_SLIP = 0.85
# names are compared with at most so many others: a hostile file has more
_MANY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault by its place in the data; `key` when it is about the key and not its value."""

    keys: Keys
    message: str
    hint: str = ""
    key: bool = False


def findings(data: dict[str, Any]) -> Iterator[Finding]:
    """All faults between the parts of a file."""
    for name, account in _entries(data, "accounts"):
        yield from _account(("accounts", name), account)
    for name, watch in _entries(data, "watch"):
        yield from _watch(("watch", name), watch)
    defaults = mapping(data.get("defaults"))
    yield from _options(("defaults",), defaults, data)
    for name, rule in _entries(data, "rules"):
        yield from _options(("rules", name), rule, data)
        yield from _rule(("rules", name), rule, defaults, data)
    for index, test in enumerate(data["tests"] if isinstance(data.get("tests"), list) else ()):
        yield from _test(("tests", index), mapping(test), data)


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint: the known name most like `word`, or all of them when they are few."""
    names = list(islice(known, _MANY))
    return alike(word, names) or (f"known: {', '.join(names)}" if 0 < len(names) <= 12 else "")


def written(word: str) -> str:
    """A name out of the file as a message may repeat it: short, in one line, never a phone number or a long secret."""
    safe = "".join(c if c.isalnum() or c in "_-. ${}<>" else "?" for c in normalize("NFC", word[:40]))
    digits = sum(c.isdigit() for c in safe)
    return f"`{safe}`" if digits < 6 else f"`{safe[:3]}***`"


def mapping(value: Any) -> dict[str, Any]:
    """The value, or an empty mapping where the file has something else."""
    return value if isinstance(value, dict) else {}


def _entries(data: dict[str, Any], block: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in mapping(data.get(block)).items():
        if isinstance(value, dict):
            yield name, value


def words(value: Any) -> list[str]:
    """The texts in a value that may be one text or a list of them."""
    return [word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]


def _unknown(keys: Keys, what: str, value: Any, known: Collection[str]) -> Iterator[Finding]:
    """Each word of `value` (one, or a list of them) that is not among `known`."""
    for index, word in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(word, str) and word not in known:
            place = (*keys, index) if isinstance(value, list) else keys
            yield Finding(keys=place, message=f"there is no {what} {written(word)}", hint=suggestion(word, known))


def _account(keys: Keys, account: dict[str, Any]) -> Iterator[Finding]:
    if "token" in account and "token_file" in account:
        hint = "keep one of the two"
        yield Finding(
            keys=(*keys, "token_file"), message="token and token_file exclude each other", hint=hint, key=True
        )
    if "token" not in account and "token_file" not in account:
        hint = "write token: ${NAME}, or token_file: with the path of a file"
        yield Finding(keys=keys, message="the account has no token", hint=hint, key=True)


def _watch(keys: Keys, watch: dict[str, Any]) -> Iterator[Finding]:
    clock = [word for word in _OF_THE_CLOCK if word in watch]
    if "table" in watch:
        for word in clock:
            hint = "make it a watch of its own"
            yield Finding(keys=(*keys, word), message=f"`{word}` has no place beside `table`", hint=hint, key=True)
        if "columns" not in watch and "update" in words(watch.get("events", "update")):
            hint = "name the columns whose change counts"
            yield Finding(keys=keys, message="`columns` is missing", hint=hint, key=True)
    elif clock:
        for word in ("every", "select", "key"):
            if word not in watch:
                yield Finding(keys=keys, message=f"`{word}` is missing", hint="a watch by the clock needs it", key=True)
        for word in _OF_A_TABLE:
            if word in watch:
                hint = "a watch by the clock has only every, select, key, catch_up and lookup"
                yield Finding(keys=(*keys, word), message=f"`{word}` needs a `table`", hint=hint, key=True)
        # `day` is all that is known when the query runs; as the row after the change there is nothing yet
        for name in parameters(watch["select"]) if isinstance(watch.get("select"), str) else ():
            if name != DAY:
                message = f"`select` is given no {written(name)}"
                yield Finding(keys=(*keys, "select"), message=message, hint=f"only %({DAY})s, the date it runs for")
    else:
        yield Finding(keys=keys, message="`table` is missing", hint="write it as SQL does: public.orders", key=True)
    for name in mapping(watch.get("lookup")):
        if name in RESERVED or name in _JINJA_WORDS:
            message = f"a lookup cannot be called `{name}`: expressions use the word already"
            yield Finding(keys=(*keys, "lookup", name), message=message, hint="choose another name", key=True)


def _options(keys: Keys, options: dict[str, Any], data: dict[str, Any]) -> Iterator[Finding]:
    if "account" in options:
        yield from _unknown((*keys, "account"), "account", options["account"], mapping(data.get("accounts")))
    # A rule taken out of the file may still have messages to supersede, so only a slip of the pen is a fault; that two
    # names are somewhat alike (order_confirmed, order_cancelled) is none.
    rules = mapping(data.get("rules"))
    replaced: Any = options.get("supersedes")
    for found in _unknown((*keys, "supersedes"), "rule", replaced, rules):
        word = replaced if isinstance(replaced, str) else replaced[found.keys[-1]]
        if nearest(word, islice(rules, _MANY), likeness=_SLIP):
            yield found


def _rule(keys: Keys, rule: dict[str, Any], defaults: dict[str, Any], data: dict[str, Any]) -> Iterator[Finding]:
    if "name" in rule:
        hint = "the rule is called by its key already"
        yield Finding(keys=(*keys, "name"), message="unknown key `name`", hint=hint, key=True)
    watches = mapping(data.get("watch"))
    yield from _unknown((*keys, "on"), "watch", rule.get("on"), watches)
    watch = mapping(watches.get(rule["on"])) if isinstance(rule.get("on"), str) else {}
    change = mapping(rule.get("change"))
    if change and "table" not in watch and "every" in watch:
        message = f"watch {written(rule['on'])} runs by the clock: nothing changes in it"
        yield Finding(keys=(*keys, "change"), message=message, hint="use `when`", key=True)
    elif columns := words(watch.get("columns")):
        for column in change:
            if column not in columns:
                message = f"watch {written(rule['on'])} does not look at column {written(column)}"
                hint = alike(column, columns[:_MANY]) or f"add it to {_at(rule)}"
                yield Finding(keys=(*keys, "change", column), message=message, hint=hint, key=True)
    accounts = mapping(data.get("accounts"))
    if "account" not in rule and "account" not in defaults and len(accounts) > 1:
        hint = f"write account: here or under defaults; {suggestion('', accounts)}"
        yield Finding(keys=keys, message="it is not said which account sends this", hint=hint.rstrip("; "), key=True)
    mode = rule.get("mode", defaults.get("mode"))
    for word, needed in (("redirect", "redirect_to"), ("allowlist", "allowlist")):
        if mode == word and needed not in rule and needed not in defaults:
            place = (*keys, "mode") if "mode" in rule else keys
            message = f"mode `{word}` needs `{needed}`"
            yield Finding(keys=place, message=message, hint="write the phone numbers", key="mode" not in rule)


def _at(rule: dict[str, Any]) -> str:
    return f"watch.{rule['on']}.columns"


def _rows(keys: Keys, test: dict[str, Any]) -> Iterator[Finding]:
    """A test of which nothing could come as it says."""
    rows = {side for side in ("old", "new") if test.get(side) is not None}
    op = test.get("op")
    if test and not rows:
        hint = "write `new:` for the row after the change, `old:` for the row before"
        yield Finding(keys=keys, message="a test needs a row", hint=hint)
    elif isinstance(op, str) and op in tuple(Op) and rows != set(Op(op).rows):
        hint = "insert has new, update old and new, delete old"
        yield Finding(keys=(*keys, "op"), message=f"the rows do not fit op: {op}", hint=hint)
    if "skipped" in test and isinstance(test.get("expect"), list) and test["expect"]:
        message = "`skipped` says why there is no message, but one is expected"
        yield Finding(keys=(*keys, "skipped"), message=message, hint="remove one")


def _test(keys: Keys, test: dict[str, Any], data: dict[str, Any]) -> Iterator[Finding]:
    watches, rules = mapping(data.get("watch")), mapping(data.get("rules"))
    yield from _unknown((*keys, "on"), "watch", test.get("on"), watches)
    yield from _rows(keys, test)
    watch = watches.get(test["on"]) if isinstance(test.get("on"), str) else None
    if isinstance(watch, dict):
        lookups = mapping(watch.get("lookup"))
        for name in mapping(test.get("lookup")):
            if name not in lookups:
                message = f"watch {written(test['on'])} has no lookup {written(name)}"
                yield Finding(keys=(*keys, "lookup", name), message=message, hint=suggestion(name, lookups), key=True)
    for index, expected in enumerate(test["expect"] if isinstance(test.get("expect"), list) else ()):
        rule = mapping(expected).get("rule")
        place = (*keys, "expect", index, "rule")
        yield from _unknown(place, "rule", rule, rules)
        on = mapping(rules.get(rule)).get("on") if isinstance(rule, str) else None
        if isinstance(on, str) and on != test.get("on"):
            message = f"rule {written(str(rule))} answers watch {written(on)}, not the watch of this test"
            yield Finding(keys=place, message=message, hint=f"write `on: {on}`" if on in watches else "")
