"""The file's expressions and texts, compiled for their faults alone."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from listener.rules.references import RESERVED, Finding, mapping, nearest, written
from listener.rules.source import Keys
from listener.templates import Environment, Expression, TemplateError, Text


def compile_faults(data: dict[str, Any]) -> Iterator[Finding]:
    """What is not of the template language, and names that the rule's watch does not have.

    It looks at plain data, as `findings` does, so that these faults are told beside all others.
    """
    labels = {name: mapping(known) for name, known in mapping(data.get("labels")).items()}
    # No date is shown here, so any zone will do.
    environment = Environment(labels=labels, zone=ZoneInfo("UTC"))

    @cache
    def names(source: str, is_text: bool) -> frozenset[str] | TemplateError:
        compiled: Callable[[str], Text | Expression]
        compiled = environment.compile_text if is_text else environment.compile_expression
        try:
            return frozenset(dotted[0] for dotted in compiled(source).names)
        except TemplateError as error:
            return error

    watches = {name: mapping(watch) for name, watch in mapping(data.get("watch")).items()}
    everywhere = {name for watch in watches.values() for name in mapping(watch.get("lookup"))}
    yield from _faults(("defaults",), mapping(data.get("defaults")), everywhere, names)
    for name, rule in mapping(data.get("rules")).items():
        on = mapping(rule).get("on")
        # Where the watch itself is at fault, only what no watch has is told.
        watch = watches.get(on) if isinstance(on, str) else None
        lookups = everywhere if watch is None else set(mapping(watch.get("lookup")))
        yield from _faults(("rules", name), mapping(rule), lookups, names)


def _faults(
    keys: Keys,
    rule: dict[str, Any],
    lookups: set[str],
    names: Callable[[str, bool], frozenset[str] | TemplateError],
) -> Iterator[Finding]:
    known = sorted(lookups | RESERVED)
    for place, source in _sources(rule):
        match names(source, place == ("text",)):
            case TemplateError() as error:
                message = error.message if error.line == 1 else f"{error.message}, in line {error.line} of this text"
                yield Finding(keys=(*keys, *place), message=message, hint=error.hint)
            case found:
                for name in sorted(found.difference(known)):
                    message = f"there is no name {written(name)} here"
                    yield Finding(keys=(*keys, *place), message=message, hint=nearest(name, known))


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
