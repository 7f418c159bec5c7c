"""A rules file to `Rules`, or to every one of its faults at once, each with its place and a cure."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from listener.errors import Fault, RulesError
from listener.rules import source
from listener.rules.editors import json_schema
from listener.rules.expressions import compile_faults
from listener.rules.forms import kind
from listener.rules.references import findings, suggestion, written
from listener.rules.schema import Account, Rule, Rules, RuleTest, Watch
from listener.rules.source import Keys, Source
from listener.words import nearest

MAX_FAULTS = 100  # of each sort; more help nobody

_BLOCKS: dict[str, type[BaseModel]] = {"accounts": Account, "watch": Watch, "rules": Rule, "tests": RuleTest}


def read(path: Path) -> Rules:
    """The rules in the file at `path`. Raises `RulesError`."""
    return parse(source.read_text(path), str(path))


def parse(text: str, file: str) -> Rules:
    """The rules in `text`; faults name `file`. Raises `RulesError`."""
    return build(source.load(text, file))


def build(document: Source) -> Rules:
    """The rules in a document that is read already. Raises `RulesError`."""
    data = document.data
    errors, rules = _validated(data)
    structure = (_fault(error, document) for error in errors)
    found = chain(findings(data), compile_faults(data)) if isinstance(data, dict) else iter(())
    faults = _merged(document.faults, structure, (document.fault(f.keys, f.message, f.hint, key=f.key) for f in found))
    if rules is None or faults:
        raise RulesError(document.odd_blanks or faults)
    return rules


def _merged(noted: list[Fault], *sorts: Iterator[Fault | None]) -> list[Fault]:
    """One fault a place: what a later look says about a place already named follows from the first fault."""
    faults = list(noted)
    for sort in sorts:
        taken = {(fault.line, fault.col) for fault in faults}
        fresh = (fault for fault in sort if fault is not None and (fault.line, fault.col) not in taken)
        faults += islice(fresh, MAX_FAULTS)
    return faults


def _validated(data: Any) -> tuple[list[ErrorDetails], Rules | None]:
    """Each entry by itself, so that a hostile file cannot make more errors than one entry holds, then the whole."""
    errors: list[ErrorDetails] = []
    blocks = dict(data) if isinstance(data, dict) else data
    for block, model in _BLOCKS.items() if isinstance(data, dict) else ():
        match data.get(block):
            case dict(entries) if model is not RuleTest:
                blocks[block] = {name: _entry(model, (block, name), raw, errors) for name, raw in entries.items()}
            case list(items) if model is RuleTest:
                blocks[block] = [_entry(model, (block, i), raw, errors) for i, raw in enumerate(items)]
    try:
        rules = Rules.model_validate(blocks, by_alias=True, by_name=False)
    except ValidationError as error:
        # What lies inside an entry is told already; a blank in its place may only repeat it.
        errors += (
            e
            for e in error.errors(include_url=False)
            if len(e["loc"]) < 2 or e["loc"][2:] == ("[key]",) or e["loc"][0] not in _BLOCKS
        )
    if errors:
        return errors, None
    return [], rules.model_copy(update={"rules": {name: _merge(rules, rule) for name, rule in rules.rules.items()}})


def _entry(model: type[BaseModel], keys: Keys, raw: Any, errors: list[ErrorDetails]) -> BaseModel:
    """The entry as a model. A bad one adds to `errors` and leaves a blank in its place."""
    if len(errors) <= MAX_FAULTS:
        named = {**raw, "name": keys[-1]} if model is Rule and isinstance(raw, dict) else raw
        try:
            return model.model_validate(named, by_alias=True, by_name=False)
        except ValidationError as error:
            errors += ({**e, "loc": (*keys, *e["loc"])} for e in error.errors(include_url=False))
    return _blank(model)


@cache
def _blank(model: type[BaseModel]) -> BaseModel:
    return model.model_construct()


def _merge(rules: Rules, rule: Rule) -> Rule:
    """The rule with what `defaults` say where it says nothing; a value of its own wins whole."""
    inherited = {key: getattr(rules.defaults, key) for key in rules.defaults.model_fields_set - rule.model_fields_set}
    merged = rule.model_copy(update=inherited)
    return merged if merged.account else merged.model_copy(update={"account": next(iter(rules.accounts))})


def _fault(error: ErrorDetails, document: Source) -> Fault | None:
    """One of pydantic's errors in plain words; None for one that only follows from another."""
    keys: Keys = error["loc"]
    value, context = error["input"], error.get("ctx", {})
    at_key = keys[-1:] == ("[key]",)
    if at_key:
        keys = keys[:-1]
    hint = ""
    match error["type"]:
        case "rules":
            message, hint = context["message"], context["hint"]
            keys = (*keys, context["child"]) if context["child"] else keys
        case "missing":
            *above, name = keys
            return document.fault(tuple(above), f"`{name}` is missing", f"add a line `{name}:`", key=True)
        case "extra_forbidden":
            message, hint = _unknown_key(keys)
            at_key = True
        case "default_factory_not_called":
            return None
        case "too_short" if value:
            return None  # its items are faulty, and each is told
        case "literal_error" if keys == ("version",):
            message, hint = "this listener reads version 1 of the file", "write `version: 1`"
        case _ if value is None:
            message, hint = "nothing is written here", "write a value or remove the line"
        case "enum" | "literal_error":
            words = re.findall(r"[a-z0-9_]+", context["expected"].replace(" or ", " "))
            found = written(value) if isinstance(value, str) else kind(value)
            near = nearest(str(value), words)
            message = f"expected one of {', '.join(words)}; found {found}"
            hint = f"did you mean {near}?" if near else "write one of these words"
        case "string_type":
            message = f"expected text, found {kind(value)}"
            hint = "write one value" if isinstance(value, list | dict) else 'put it in "quotes"'
        case "bool_type":
            message, hint = f"expected true or false, found {kind(value)}", "write true or false"
        case "int_type":
            message, hint = f"expected a whole number, found {kind(value)}", "write it without quotes or dots"
        case "tuple_type":
            message, hint = f"expected a list, found {kind(value)}", "begin each item with `- ` or write [a, b]"
        case "model_type" | "model_attributes_type" | "dict_type":
            message, hint = f"expected a mapping, found {kind(value)}", "write `key: value` lines, indented"
        case "too_short":
            message, hint = "at least one is needed here", "write one or remove the line"
        case "string_pattern_mismatch":
            message, hint = "nothing is written here", "write a value or remove the line"
        case "string_too_long":
            message = f"this is longer than {context['max_length']:,} characters"
            hint = "shorten it"
        case "greater_than":
            message, hint = f"expected a number above {context['gt']}", "write a larger one"
        case "greater_than_equal":
            message, hint = f"expected a number from {context['ge']} up", "write a larger one"
        case "less_than_equal":
            message, hint = f"expected a number up to {context['le']}", "write a smaller one"
        case _:
            # Pydantic's own sentence: none of the types we use repeats the value in it.
            message = error["msg"]
    return document.fault(keys, message, hint, key=at_key)


def _unknown_key(keys: Keys) -> tuple[str, str]:
    *above, name = keys
    if above == ["defaults"] and name in Rule.model_fields and name != "name":
        return f"`{name}` has no place in defaults", "write it in each rule"
    return f"unknown key {written(str(name))}", suggestion(str(name), _allowed(tuple(above)))


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _allowed(keys: Keys) -> list[str]:
    """The keys that the mapping at `keys` may have, by the JSON Schema."""
    node = _schema()
    for step in (*keys, None):
        while "$ref" in node or "anyOf" in node:
            node = _schema()["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node["anyOf"][0]
        if step is None:
            return list(node["properties"])
        if isinstance(step, int):
            node = node["items"]
        else:
            node = node.get("properties", {}).get(step) or next(iter(node["patternProperties"].values()))
    raise AssertionError("the loop ends at None")
