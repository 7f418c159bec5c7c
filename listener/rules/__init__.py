"""`rules.yaml`: its words as frozen models, and the one way to read it."""

from listener.rules.editors import json_schema, schema_text
from listener.rules.forms import Cap, Rate
from listener.rules.reader import build, parse, read
from listener.rules.schema import (
    Accents,
    Account,
    Coalesce,
    ColumnChange,
    Expectation,
    Parts,
    Priority,
    QuietHours,
    Rule,
    RuleOptions,
    Rules,
    RuleTest,
    Ticket,
    Watch,
)
from listener.rules.snippets import parameters
from listener.rules.source import Source, load, read_text

__all__ = [
    "Accents",
    "Account",
    "Cap",
    "Coalesce",
    "ColumnChange",
    "Expectation",
    "Parts",
    "Priority",
    "QuietHours",
    "Rate",
    "Rule",
    "RuleOptions",
    "RuleTest",
    "Rules",
    "Source",
    "Ticket",
    "Watch",
    "build",
    "json_schema",
    "load",
    "parameters",
    "parse",
    "read",
    "read_text",
    "schema_text",
]
