"""What README.md says of the code is true: the tests, verbs, variables, states and files that it names are those that
there are. (`test_logs` asks the same of events, `test_alerts` of metrics.)"""

import re
from pathlib import Path

import click
import pytest

from listener.cli import main
from listener.cli.db import db
from listener.model import State
from listener.settings import DEFAULT_HTTP, SECRETS, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTEXT = click.Context(main)
VERBS = main.list_commands(CONTEXT)
DOCUMENTS = ("README.md", "GUIDE.md", "deploy/README.md")


def test_every_promise_names_tests_that_exist() -> None:
    promises = README.split("## What is promised")[1].split("**Not promised:**")[0]
    named = re.findall(r"`([a-z]+/test_\w+\.py)::(test_\w+)`", promises)
    assert len(named) >= 20
    for file, test in named:
        assert re.search(rf"def {test}\b", (ROOT / "tests" / file).read_text(encoding="utf-8")), f"{file}::{test}"
    for sentence in promises.split("\n- ")[1:]:
        assert "::test_" in sentence, sentence


def test_every_verb_is_listed_and_every_listed_verb_exists() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", README.split("| verb | does |")[1].split("\n\n")[0], re.MULTILINE)
    listed: set[str] = set()
    for row in rows:
        for command in re.findall(r"`([^`]+)`", row):
            name, _, more = command.partition(" ")
            # `retry|cancel IDS` are two verbs, `db plan|install` is one with verbs of its own
            listed |= set(name.split("\\|"))
            if name == "db":
                assert set(more.split("\\|")) == set(db.commands)
    assert listed == set(VERBS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_shown_is_one_that_there_is(document: str) -> None:
    """Verbs and options, wherever a command stands in a line."""
    shown = re.findall(r"(?<![\w./-])listener ([a-z]+(?: [^`\n]*)?)", (ROOT / document).read_text(encoding="utf-8"))
    known = [words for line in shown if (words := line.split("#")[0].split()) and words[0] in VERBS]
    assert len(known) >= 10
    for verb, *words in known:
        command = main.get_command(CONTEXT, verb)
        if command is db and words and words[0] in db.commands:
            command = db.commands[words[0]]
        assert command is not None
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in words:
            if found := re.match(r"\[?(--?[a-z][a-z-]*)", word):
                assert found[1] in options, f"listener {verb} {' '.join(words)}"
            elif word in ("&&", "|", ";"):
                break


def test_the_environment_is_listed() -> None:
    """Every variable that the code reads, and none that nothing reads."""
    table = README.split("| environment | meaning |")[1].split("\n## ")[0]
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "listener").rglob("*.py"))
    # secrets are named after their field
    read = {*re.findall(r'"(LISTENER_[A-Z_]+)"', code), *(f"LISTENER_{name.upper()}" for name in SECRETS)}
    assert {name.removesuffix("_FILE") for name in re.findall(r"LISTENER_[A-Z_]+", table)} == read - {"LISTENER_PG_BIN"}
    assert "`LISTENER_PG_BIN` names" in README, "of the demo and the tests"
    assert Settings().caresoft_url in table and DEFAULT_HTTP in table


def test_every_state_is_explained() -> None:
    table = README.split("| state | meaning |")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert sorted(state for row in rows for state in re.findall(r"`(\w+)`", row)) == sorted(State)


def test_every_link_leads_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    places = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in places, link
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link
