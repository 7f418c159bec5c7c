"""What a rules file may say and a person should think twice about. Warnings: nothing here stops anything.

The sources of these rules: for characters and accents the carriers' and aggregators' own pages; for advertising Decree
91/2020/ND-CP; for links Circular 50/2024/TT-NHNN, art. 17(3), and the carriers' filters.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from jinja2 import Environment

from listener.arithmetic import same
from listener.errors import Fault
from listener.rules.schema import Accents, ColumnChange, Rule, Rules
from listener.rules.source import Keys, Source
from listener.rules.trial import untested
from listener.text import Accents as Carrier
from listener.text import clean, count, unaccent

# more of them in one text help nobody
_MOST = 5
# requests a second beside which an account's other programs still fit: CareSoft allows 15
_FASTEST = 14

# Refused or risky at some gateway or other; a backtick never gets so far, `clean` makes it an apostrophe.
_REFUSED = frozenset("#&%[]{}\\<>@^~|")
_ADVERTISING = (
    "khuyến mãi",
    "khuyến mại",
    "giảm giá",
    "ưu đãi",
    "tặng",
    "quà tặng",
    "mua ngay",
    "miễn phí",
    "voucher",
    "coupon",
    "sale off",
)
_TOP_LEVELS = "com|vn|net|org|info|biz|me|ly|io|asia|shop|store|online|site|xyz|link|app|top|club|vip|page|gle"
_LINK = re.compile(
    rf"(?:https?://|www\.)\S+|(?<![\w@.-])(?:[a-z0-9][a-z0-9-]*\.)+(?:{_TOP_LEVELS})(?![\w-])(?:/\S*)?"
    rf"|(?<![\w@.-])(?:[A-Z0-9][A-Z0-9-]*\.)+(?:{_TOP_LEVELS.upper()})(?![\w-])(?:/\S*)?"
)


def warnings(document: Source, rules: Rules) -> list[Fault]:
    """Everything of a valid file that is worth a second look, in the file's order."""
    found = [
        *_rates(document, rules),
        *_labels(document, rules),
        *(warning for rule in rules.rules.values() if rule.enabled for warning in _text(document, rule)),
        *_overlaps(document, rules),
        *_superseding_nothing(document, rules),
        *_rechecking_nothing(document, rules),
        *_untested(document, rules),
    ]
    return sorted(found)


def _rates(document: Source, rules: Rules) -> Iterator[Fault]:
    """CareSoft counts by domain; we keep to the rate of each account of the file."""
    by_domain: dict[str, list[str]] = {}
    for name, account in rules.accounts.items():
        by_domain.setdefault(account.domain, []).append(name)
    for domain, names in by_domain.items():
        rates = [rules.accounts[name].rate for name in names]
        total = sum((rate.count / rate.seconds for rate in rates), Decimal())
        if total <= _FASTEST:
            continue
        if len(names) == 1:
            message = f"a rate above {_FASTEST}/s leaves nothing for other programs: CareSoft allows 15/s an account"
            yield document.fault(("accounts", names[0], "rate"), message, "write rate: 12/s")
        else:
            whole = f"{', '.join(names)} are one account at CareSoft, {domain}, which allows 15/s"
            message = f"{whole}; their rates together are {total.normalize():f}/s"
            yield document.fault(("accounts", names[-1]), message, f"write rate: {12 / len(names):.2g}/s for each")


def _superseding_nothing(document: Source, rules: Rules) -> Iterator[Fault]:
    inherited = rules.defaults.supersedes
    said: list[tuple[Keys, tuple[str, ...]]] = [(("defaults",), inherited)]
    said += [(("rules", name), rule.supersedes) for name, rule in rules.rules.items() if rule.supersedes != inherited]
    for keys, names in said:
        for index, name in enumerate(names):
            if name not in rules.rules:
                hint = "right only if messages of a rule that was taken out may still wait; else mend the name"
                message = f"there is no rule {name} whose messages could give way"
                yield document.fault((*keys, "supersedes", index), message, hint)


def _rechecking_nothing(document: Source, rules: Rules) -> Iterator[Fault]:
    for name, rule in rules.rules.items():
        if rule.recheck and not rules.defaults.recheck and rules.watch[rule.on].table is None:
            message = (
                f"recheck does nothing here: what the select of {rule.on} finds is no row that could be read again"
            )
            yield document.fault(("rules", name, "recheck"), message, "remove it")


def _untested(document: Source, rules: Rules) -> Iterator[Fault]:
    for name in untested(rules, rules.tests):
        hint = "write one under tests:, and run `listener test`"
        yield document.fault(("rules", name), f"no test expects an SMS of the rule {name}", hint, key=True)


def _labels(document: Source, rules: Rules) -> Iterator[Fault]:
    for name, words in rules.labels.items():
        for code, word in words.items():
            yield from _wording(document, ("labels", name, code), clean(word))


def _text(document: Source, rule: Rule) -> Iterator[Fault]:
    keys = ("rules", rule.name, "text")
    literal = unicodedata.normalize("NFC", _literal(rule.text))
    strip = rule.accents is Accents.STRIP
    yield from _wording(document, keys, unaccent(literal) if strip else clean(literal), literal)
    odd = [c for c in dict.fromkeys(literal) if not _ordinary(c)]
    for char in odd[:_MOST]:
        sent = unaccent(char) if strip else clean(char)
        if sent == char:
            continue
        hint = "write it so yourself: carriers compare SMS with the registered wording" if sent else "remove it"
        yield document.fault(keys, f"{_named(char)} is {_becomes(sent, strip)}", hint)
    if not strip:
        yield from _costly(document, keys, clean(literal))


def _costly(document: Source, keys: Keys, sent: str) -> Iterator[Fault]:
    """Characters that make the whole SMS an accented one, in what is sent with `accents: keep`."""
    dear = [c for c in dict.fromkeys(sent) if count(c).accents is Carrier.ACCENTED]
    if dear:
        others = len(dear) - 1
        more = f", as {'does' if others == 1 else 'do'} {others} more of its characters" if others else ""
        message = f"{_named(dear[0])} makes each SMS 70 characters a part instead of 160{more}"
        yield document.fault(keys, message, "`accents: strip` sends it without accents")


def _becomes(sent: str, strip: bool) -> str:
    how = f"sent as {sent!r}" if sent.strip() else "sent as a blank" if sent else "left out"
    return f"{how}, since it would make the SMS 70 characters a part" if strip else how


def _ordinary(char: str) -> bool:
    """ASCII that SMS know, or a letter that only loses its accent."""
    if count(char).accents is Carrier.UNACCENTED:
        return True
    plain = unaccent(char)
    return char.isalpha() and len(plain) == 1 and plain.isalpha() and clean(char) == char


def _named(char: str) -> str:
    shown = char if char.isprintable() and not char.isspace() else " "
    return f'"{shown}" (U+{ord(char):04X} {unicodedata.name(char, "without a name")})'


def _wording(document: Source, keys: Keys, sent: str, literal: str = "") -> Iterator[Fault]:
    """Words and characters of a text as it is sent; `literal` is the text as written, with its accents."""
    if refused := [c for c in dict.fromkeys(sent) if c in _REFUSED]:
        shown = " ".join(refused)
        hint = "write {{ name }} with two braces for a value" if set(refused) & set("{}") else "write it in words"
        yield document.fault(keys, f"some carriers refuse an SMS with {shown}", hint)
    for word, pattern in _PATTERNS.items():
        if pattern.search(literal or sent):
            message = f'"{word}" makes this an advertising message, for which the law asks consent, hours and a label'
            yield document.fault(keys, message, "say what happened, and sell nothing")
    for link in list(dict.fromkeys(found[0] for found in _LINK.finditer(sent)))[:_MOST]:
        hint = "carriers filter links, and banks may not send them: write a telephone number"
        yield document.fault(keys, f'"{link[:60]}" is a link', hint)


def _either(word: str) -> re.Pattern[str]:
    """The word with its own accents or with none at all: `tăng` is not `tặng`, `tang` may be."""
    letters = (f"[{c}{unaccent(c)}]" if not c.isascii() else re.escape(c) if c != " " else r"\s+" for c in word)
    return re.compile(rf"(?<!\w){''.join(letters)}(?!\w)", re.IGNORECASE)


_PATTERNS = {word: _either(word) for word in _ADVERTISING}
_LEXER = Environment(autoescape=True)


def _literal(text: str) -> str:
    """What stands in a text outside of its braces; a blank for each value."""
    pieces = []
    for _, kind, piece in _LEXER.lex(text):
        if kind == "data":
            pieces.append(piece)
        elif kind == "variable_begin":
            pieces.append(" ")
    return "".join(pieces)


def _overlaps(document: Source, rules: Rules) -> Iterator[Fault]:
    """Rules that can send one person a second message for one change; told once of each, with those before it."""
    earlier: list[Rule] = []
    for rule in (rule for rule in rules.rules.values() if rule.enabled):
        others = [
            o.name for o in earlier if o.on == rule.on and _recipients(o) & _recipients(rule) and _both_hold(o, rule)
        ]
        earlier.append(rule)
        if others:
            more = f", and {len(others) - _MOST} more" if others[_MOST:] else ""
            named = ", ".join(others[:_MOST]) + more
            message = f"the rule {rule.name} can answer the same change as {named}: several SMS to one person"
            hint = "give them the same first_match: NAME, or conditions that exclude each other"
            yield document.fault(("rules", rule.name), message, hint, key=True)


def _recipients(rule: Rule) -> set[str]:
    return {"".join(expression.split()) for expression in rule.to}


def _both_hold(one: Rule, other: Rule) -> bool:
    if one.first_match is not None and one.first_match == other.first_match:
        return False
    # What two expressions have in common cannot be told; what one of them adds to the other's silence can.
    if one.when is not None and other.when is not None and one.when.split() != other.when.split():
        return False
    return all(_compatible(one.change[c], other.change[c]) for c in one.change.keys() & other.change.keys())


def _compatible(one: ColumnChange, other: ColumnChange) -> bool:
    """Whether one change of a column can be as both ask."""
    before, after = _common(one.from_, other.from_), _common(one.to, other.to)
    falls = [c for c in (one, other) if c.crosses_below is not None or c.decreases_by is not None]
    rises = [c for c in (one, other) if c.crosses_above is not None or c.increases_by is not None]
    if before == [] or after == [] or (falls and rises):
        return False
    for asked in (one, other):
        if before is not None:
            before = [v for v in before if _within(v, asked.crosses_below, asked.crosses_above, at_least=True)]
        if after is not None:
            after = [v for v in after if _within(v, asked.crosses_below, asked.crosses_above, at_least=False)]
    if before is None or after is None:
        return before != [] and after != []
    return any(not same(old, new) for old in before for new in after)


def _common(one: tuple[Any, ...], other: tuple[Any, ...]) -> list[Any] | None:
    """The values that both lists name; None when neither names any."""
    if not one or not other:
        return list(one or other) or None
    return [value for value in one if any(same(value, twin) for twin in other)]


def _within(value: Any, below: Decimal | None, above: Decimal | None, *, at_least: bool) -> bool:
    """Whether a value can stand before (`at_least`) or after crossing these limits; what is no number cannot tell."""
    if not isinstance(value, Decimal):
        return True
    if at_least:
        return (below is None or value >= below) and (above is None or value <= above)
    return (below is None or value < below) and (above is None or value > above)
