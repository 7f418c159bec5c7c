"""A rule's text and condition, changed in the text of the rules file: comments and everything else stay as they are."""

import json
from typing import Any

import yaml

from listener.errors import ListenerError


class BeyondEditError(ListenerError):
    """The file writes this rule in a way that only a person can change."""


def parts_of(source: str, rule: str) -> tuple[str, str]:
    """The text and the condition of a rule as they stand; "" for no condition. Raises `BeyondEditError`."""
    entries = _entries(source, rule)
    return entries["text"][1].value, entries["when"][1].value.strip() if "when" in entries else ""


def edited(source: str, rule: str, text: str, when: str) -> str:
    """The file with another text and condition of a rule. Raises `BeyondEditError`."""
    old_text, old_when = parts_of(source, rule)
    entries = _entries(source, rule)
    changes: list[tuple[int, int, str]] = []
    if text != old_text:
        changes.append(_replacement(source, entries["text"][1], text))
    if when == old_when:
        pass
    elif "when" not in entries:
        changes.append(_before(entries["text"][0], f"when: {_quoted(when)}"))
    elif when:
        changes.append(_replacement(source, entries["when"][1], when))
    else:
        changes.append(_without(source, *entries["when"]))
    for start, end, new in sorted(changes, reverse=True):
        source = source[:start] + new + source[end:]
    return source


def snippet(source: str, rule: str) -> str:
    """The rule alone, with its lines and comments, moved to the left."""
    key, value = _rule(source, rule)
    lines = source[: value.end_mark.index].splitlines()[key.start_mark.line :]
    return "\n".join(line[key.start_mark.column :] for line in lines).rstrip()


def _rule(source: str, rule: str) -> tuple[Any, Any]:
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise BeyondEditError("the file cannot be read") from None
    for key, value in _pairs(root):
        if key.value == "rules":
            for name, node in _pairs(value):
                if name.value == rule:
                    return name, node
    raise BeyondEditError(f"the file has no rule {rule} of its own")


def _entries(source: str, rule: str) -> dict[str, tuple[Any, Any]]:
    """Key and value nodes of a rule by name; `text` is among them, and both are plain words of this rule."""
    key, node = _rule(source, rule)
    if not isinstance(node, yaml.MappingNode) or node.start_mark.index < key.start_mark.index:
        raise BeyondEditError("this rule is written with an alias; change it in the file")
    entries = {k.value: (k, v) for k, v in _pairs(node)}
    if "text" not in entries or node.flow_style:
        raise BeyondEditError("this rule is written on one line; change it in the file")
    for name in ("text", "when"):
        if name in entries:
            own, value = entries[name]
            if not isinstance(value, yaml.ScalarNode) or value.start_mark.index < own.start_mark.index:
                raise BeyondEditError(f"{name} is written with an alias; change it in the file")
    return entries


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def _replacement(source: str, node: Any, text: str) -> tuple[int, int, str]:
    start, end = node.start_mark.index, node.end_mark.index
    # a block's end is the beginning of what follows it
    block = source[start : start + 1] in ("|", ">")
    return start, end, _quoted(text) + ("\n" + " " * node.end_mark.column if block else "")


def _without(source: str, key: Any, value: Any) -> tuple[int, int, str]:
    start = source.rfind("\n", 0, key.start_mark.index) + 1
    end = value.end_mark.index
    if value.style not in ("|", ">"):
        line_end = source.find("\n", end)
        end = len(source) if line_end < 0 else line_end + 1
    return start, end, ""


def _before(key: Any, line: str) -> tuple[int, int, str]:
    place = key.start_mark.index
    return place, place, f"{line}\n{' ' * key.start_mark.column}"
