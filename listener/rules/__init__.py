"""`rules.yaml`: its words as frozen models, and the one way to read it."""

from listener.rules.editors import schema_text
from listener.rules.reader import build, parse, read
from listener.rules.schema import Account, Rule, Rules, RuleTest, Watch
from listener.rules.snippets import parameters
from listener.rules.source import Source, load, read_text

__all__ = [
    "Account",
    "Rule",
    "RuleTest",
    "Rules",
    "Source",
    "Watch",
    "build",
    "load",
    "parameters",
    "parse",
    "read",
    "read_text",
    "schema_text",
]
