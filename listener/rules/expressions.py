"""The file's expressions and texts, compiled and tried for their faults alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from listener.errors import RenderError
from listener.model import Op
from listener.rules.approved import could_be_approved, is_approved
from listener.rules.judging import MAX_CHARACTERS
from listener.rules.references import RESERVED, Finding, mapping, suggestion, words, written
from listener.rules.samples import World, loosest, never_works, worlds_of
from listener.rules.schema import Accents, RuleOptions
from listener.rules.source import Keys
from listener.templates import Environment, Expression, Row, TemplateError, Text
from listener.text import clean, count, unaccent


def compile_faults(data: dict[str, Any]) -> Iterator[Finding]:
    """What is not of the template language, names that the rule's watch does not have, and what no row can satisfy.

    It looks at plain data, as `findings` does, so that these faults are told beside all others.
    """
    labels = {name: mapping(known) for name, known in mapping(data.get("labels")).items()}
    codes = sorted({code for known in labels.values() for code in known})
    # How a date is shown makes no difference here, so any zone will do.
    environment = Environment(labels=labels, zone=ZoneInfo("UTC"))

    @cache
    def compiled(source: str, is_text: bool) -> Text | Expression | TemplateError:
        try:
            return environment.compile_text(source) if is_text else environment.compile_expression(source)
        except TemplateError as error:
            return error

    @cache
    def failure(source: str, is_text: bool, one_value: bool, worlds: tuple[World, ...]) -> str | None:
        piece = compiled(source, is_text)
        assert not isinstance(piece, TemplateError)
        if isinstance(piece, Text):
            return never_works(piece.render, worlds, codes)
        return never_works(_single(piece) if one_value else piece.evaluate, worlds, codes)

    watches = {name: mapping(watch) for name, watch in mapping(data.get("watch")).items()}
    everywhere = {name for watch in watches.values() for name in mapping(watch.get("lookup"))}
    defaults = mapping(data.get("defaults"))
    for keys, rule, watch in _rules(data, watches):
        # Where the watch itself is at fault, only what no watch has is told.
        lookups = everywhere if watch is None else set(mapping(watch.get("lookup")))
        known = sorted(lookups | RESERVED)
        for place, source in _sources(rule):
            is_text = place == ("text",)
            piece = compiled(source, is_text)
            if isinstance(piece, TemplateError):
                message = piece.message if piece.line == 1 else f"{piece.message}, in line {piece.line} of this text"
                yield Finding(keys=(*keys, *place), message=message, hint=piece.hint)
                continue
            unknown = sorted({dotted[0] for dotted in piece.names}.difference(known))
            for name in unknown:
                message = f"there is no name {written(name)} here"
                yield Finding(keys=(*keys, *place), message=message, hint=suggestion(name, known))
            if unknown or watch is None:
                continue
            worlds = _worlds(watch, known)
            if why := failure(source, is_text, place != ("when",), worlds):
                message = f"this cannot be worked out for any row: {why}"
                yield Finding(keys=(*keys, *place), message=message, hint="give each filter and sign what it can take")
            elif isinstance(piece, Text):
                yield from _too_long(keys, {**defaults, **rule}, piece)
                if piece.one_way:
                    yield from _registered(keys, {**defaults, **rule}, piece, worlds, codes)


def _single(expression: Expression) -> Callable[[Mapping[str, object]], object]:
    """A phone and a ticket are one value: a row, a yes or no, or a list is none for any row."""

    def evaluate(names: Mapping[str, object]) -> object:
        value = expression.evaluate(names)
        if isinstance(value, Row | bool | list | tuple):
            what = "a whole row; name a column of it" if isinstance(value, Row) else "not one value"
            raise RenderError(f"it is {what}")
        return value

    return evaluate


def _sent(rule: dict[str, Any]) -> Callable[[str], str]:
    return clean if rule.get("accents") == Accents.KEEP else unaccent


def _too_long(keys: Keys, rule: dict[str, Any], text: Text) -> Iterator[Finding]:
    """A text that is too long before any value stands in it: every message would be rejected."""
    always = _sent(rule)(text.always)
    # No carrier's table makes fewer of it.
    parts = count(always).segments
    allowed = rule.get("max_parts", RuleOptions.model_fields["max_parts"].default)
    if len(always) > MAX_CHARACTERS:
        over, hint = f"{len(always)} characters, and CareSoft takes {MAX_CHARACTERS}", "use fewer words"
    elif type(allowed) is int and parts > allowed:
        over, hint = f"{parts} parts, and max_parts allows {allowed}", "use fewer words, or allow more parts"
    else:
        return
    message = f"without any value in it the text has {over}: each message would be rejected"
    yield Finding(keys=(*keys, "text"), message=message, hint=hint)


def _registered(
    keys: Keys, rule: dict[str, Any], text: Text, worlds: tuple[World, ...], codes: Sequence[str]
) -> Iterator[Finding]:
    """A text that is none of its `approved` wordings whatever the row: every message would be rejected."""
    wordings = words(rule.get("approved"))
    if not wordings:
        return
    sent = _sent(rule)

    def render(names: Mapping[str, object]) -> str:
        return sent(text.render(names))

    def fitting(names: Mapping[str, object]) -> None:
        if not is_approved(render(names), wordings):
            raise RenderError("no wording fits")

    if never_works(fitting, worlds, codes) and not any(
        could_be_approved(pieces, wordings) for pieces in loosest(render, worlds, codes)
    ):
        odd = any(sent(wording) != wording for wording in wordings)
        hint = "write it without accents, as it is sent" if odd else "repeat the text, with {name} for each value in it"
        message = "the text is none of these wordings, whatever the row: each message would be rejected"
        yield Finding(keys=(*keys, "approved"), message=message, hint=hint)


def _rules(
    data: dict[str, Any], watches: dict[str, dict[str, Any]]
) -> Iterator[tuple[Keys, dict[str, Any], dict[str, Any] | None]]:
    """The defaults and each rule with its place and its watch."""
    yield ("defaults",), mapping(data.get("defaults")), None
    for name, rule in mapping(data.get("rules")).items():
        on = mapping(rule).get("on")
        yield ("rules", name), mapping(rule), watches.get(on) if isinstance(on, str) else None


def _worlds(watch: dict[str, Any], known: Sequence[str]) -> tuple[World, ...]:
    """A change of each sort that the watch captures."""
    events = [Op.INSERT] if "every" in watch else words(watch.get("events", "update"))
    lookups = [name for name in known if name not in RESERVED]
    return worlds_of([Op(event) for event in events if event in tuple(Op)], lookups)


def _sources(rule: dict[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Each text and expression of a rule, with its place in the rule."""
    ticket = mapping(rule.get("ticket"))
    to = rule.get("to")
    places: list[tuple[Keys, Any]] = [
        (("text",), rule.get("text")),
        (("when",), rule.get("when")),
        (("ticket", "id"), ticket.get("id")),
        (("ticket", "thread"), ticket.get("thread")),
        *((("to", index), item) for index, item in enumerate(to if isinstance(to, list) else [to])),
    ]
    yield from ((place, source) for place, source in places if isinstance(source, str) and source.strip())
