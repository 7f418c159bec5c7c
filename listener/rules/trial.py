"""The file's `tests:` run as they stand: a made-up change, what the lookups find, and the SMS that must come of it.

No database, no clock but the test's own. Modes are taken as `live`, so that the same tests pass before and after a rule
goes live.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from listener import phones
from listener.model import Change, State, key_text
from listener.rules.judging import Planned, Verdict
from listener.rules.reader import build
from listener.rules.references import suggestion, written
from listener.rules.ruleset import RuleSet, compile_rules
from listener.rules.schema import Expectation, Rules, RuleTest
from listener.rules.source import Node, Source
from listener.templates import Missing, Row
from listener.text import number

# a test that does not say when: noon in Vietnam, outside anybody's quiet hours
NOON = datetime(2026, 1, 1, 5, tzinfo=UTC)
# what a file of tests alone may hold
_OF_TESTS = frozenset({"version", "tests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One test that was run, where it stands, and every difference from what it expects, each in words for people."""

    file: str
    line: int
    col: int
    name: str
    watch: str
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.differences


def holds_tests_alone(document: Source) -> bool:
    """Whether the file has `tests:` and no rules of its own."""
    entries = document.root.value
    return isinstance(entries, dict) and "tests" in entries and not entries.keys() & {"rules", "watch", "accounts"}


def tests_of(document: Source, rules: Source) -> tuple[RuleTest, ...]:
    """The tests of a file that holds tests alone, read as if they stood in the rules file. Raises `RulesError`."""
    own, borrowed = document.root.value, rules.root.value
    assert isinstance(own, dict) and isinstance(borrowed, dict)
    faults = list(document.faults)
    for name in own.keys() - _OF_TESTS:
        message = f"unknown key {written(name)} in a file of tests"
        faults.append(document.fault((name,), message, suggestion(name, _OF_TESTS), key=True))
    entries = {**borrowed, **{name: entry for name, entry in own.items() if name in _OF_TESTS}}
    root = Node(line=document.root.line, col=document.root.col, value=entries)
    return build(Source(file=document.file, root=root, faults=faults)).tests


def run(rules: Rules, tests: Sequence[RuleTest], document: Source) -> Iterator[Trial]:
    """Runs `tests`, which stand in `document`, on `rules`."""
    compiled = compile_rules(rules.live())
    for index, test in enumerate(tests):
        line, col = document.position(("tests", index))
        yield Trial(
            file=document.file,
            line=line,
            col=col,
            name=test.name,
            watch=test.on,
            differences=tuple(_differences(compiled, test)),
        )


def untested(rules: Rules, tests: Sequence[RuleTest]) -> list[str]:
    """Rules that no test expects a message of, in the file's order."""
    named = {expected.rule for test in tests for expected in test.expect}
    return [name for name, rule in rules.rules.items() if rule.enabled and name not in named]


def _verdicts(rules: RuleSet, test: RuleTest) -> list[Verdict]:
    watch = rules.rules.watch[test.on]
    row = test.new if test.new is not None else test.old or {}
    change = Change(
        id=0,
        watch=test.on,
        op=test.op,
        key=key_text(watch.key, row),
        old=test.old,
        new=test.new,
        at=test.at or NOON,
    )
    found: dict[str, Row | Missing] = {}
    for name in watch.lookup:
        values = test.lookup.get(name)
        if values is not None:
            found[name] = Row(values, name)
        elif name in test.lookup:
            found[name] = Missing(f"lookup {name} found no row")
        else:
            found[name] = Missing(f"the test does not say what lookup {name} finds")
    return list(rules.verdicts(change, found, change.at))


def _differences(rules: RuleSet, test: RuleTest) -> Iterator[str]:
    verdicts = _verdicts(rules, test)
    made = [m for verdict in verdicts for m in verdict.messages if m.state is State.WAITING]
    left = list(test.expect)
    # An exact match first, so that of two messages to one phone each finds its own.
    for exact in (True, False):
        for message in list(made):
            twin = next((e for e in left if _belongs(e, message, exact=exact)), None)
            if twin is not None:
                made.remove(message)
                left.remove(twin)
                yield from _unlike(twin, message)
    reasons = dict(_reasons(verdicts))
    for expected in left:
        why = reasons.get(expected.rule) or _silent(rules, expected.rule)
        yield f"expected an SMS of {expected.rule} to {expected.to}, but there is none: {why}"
    for message in made:
        yield f'no SMS of {message.rule} to {message.phone} was expected, but there is one: "{message.text}"'
    if test.skipped is not None and not made and not left:
        told = [f"{rule}: {why}" for rule, why in reasons.items()]
        if not any(test.skipped.casefold() in why.casefold() for why in told):
            yield f'expected the reason "{test.skipped}", but the rules say: {"; ".join(told) or "nothing"}'


def _belongs(expected: Expectation, message: Planned, *, exact: bool) -> bool:
    to = phones.normalise(expected.to)
    same_phone = message.phone == (to.number if isinstance(to, phones.Phone) else expected.to)
    same_rule = expected.rule == message.rule
    return same_rule and same_phone and (not exact or expected.text == message.text)


def _unlike(expected: Expectation, message: Planned) -> Iterator[str]:
    head = f"{message.rule} to {message.phone}"
    if message.text != expected.text:
        yield f"{head}: {_texts(expected.text, message.text or '')}"
    if expected.parts is not None and message.parts != expected.parts:
        yield f"{head}: expected {_parts(expected.parts)}, it has {_parts(message.parts or 0)}"
    ticket = str(message.ticket) if message.ticket is not None else None
    if expected.ticket_id is not None and ticket != expected.ticket_id:
        yield f"{head}: expected ticket {expected.ticket_id}, it goes " + (f"on {ticket}" if ticket else "without one")


def _texts(expected: str, text: str) -> str:
    """Both texts, one under the other, with a mark where they part."""
    same = next((i for i, pair in enumerate(zip(expected, text, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(expected), len(text)) if same is None else same
    # What looks alike on the screen is told apart by its number.
    wanted, got = (f"U+{ord(s[place]):04X}" if place < len(s) else "the end" for s in (expected, text))
    return (
        f"the text differs at character {number(place + 1)} (expected {wanted}, got {got})\n"
        f"  expected: {_line(expected)}\n"
        f"  got:      {_line(text)}\n"
        f"            {' ' * len(_line(text[:place]))}^"
    )


def _line(text: str) -> str:
    return text.replace("\n", "↵")


def _parts(count: int) -> str:
    return f"{count} part{'s' if count != 1 else ''}"


def _reasons(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, str]]:
    for verdict in verdicts:
        why = verdict.reason or "; ".join(
            f"{m.state}: {m.reason}" for m in verdict.messages if m.state is not State.WAITING and m.reason
        )
        if why:
            yield verdict.rule, why


def _silent(rules: RuleSet, rule: str) -> str:
    return "the rule is switched off" if not rules.rules.rules[rule].enabled else "it made no message"
