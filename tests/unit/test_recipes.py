"""The ten recipes, and the guide that shows them: what an admin copies works, and what the guide names is there."""

import json
import re
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import click
import pytest
from jinja2.filters import FILTERS as JINJAS_FILTERS

from listener.cli import main
from listener.filters import Filters
from listener.model import Mode, State
from listener.rules import Rules, Source, build, load
from listener.rules.lint import warnings
from listener.rules.schema import CHANGE_WORDS
from listener.rules.trial import run
from tests.support.recipes import FOLDER, NAMES, reference, together

GUIDE = Path(__file__).parent.parent.parent / "GUIDE.md"

# the filters that Jinja does not have
OUR_FILTERS = tuple(sorted(Filters({}, ZoneInfo("Asia/Ho_Chi_Minh")).filters.keys() - JINJAS_FILTERS.keys()))
CONTEXT = click.Context(main)


def recipe(name: str) -> Source:
    path = FOLDER / f"{name}.yaml"
    return load(path.read_text(encoding="utf-8"), str(path))


@cache
def guide() -> str:
    return GUIDE.read_text(encoding="utf-8")


def halves() -> tuple[str, str]:
    """The Vietnamese half of the guide and the English one, each from its title on."""
    before, mark, after = guide().partition("\n# Guide for admins\n")
    assert mark
    return before, mark + after


def blocks() -> list[tuple[str, str]]:
    """The name behind `yaml` and the text of each YAML block of the guide."""
    return re.findall(r"^```yaml *(\S*)\n(.*?)^```$", guide(), re.MULTILINE | re.DOTALL)


def in_order(document: Source) -> Rules:
    """The rules, which have neither fault nor warning and pass their tests. They may supersede other recipes' rules."""
    rules = build(document)
    others = {f"there is no rule {name} whose messages could give way" for name in NAMES}
    assert [warning for warning in warnings(document, rules) if warning.message not in others] == []
    assert rules.tests
    assert [trial for trial in run(rules, rules.tests, document) if not trial.passed] == []
    return rules


def test_all_ten_are_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)
    assert len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_no_fault_and_passes_its_tests(name: str) -> None:
    assert in_order(recipe(name)).rules


def test_all_recipes_can_stand_in_one_file() -> None:
    rules = in_order(load(json.dumps(together()), "rules.yaml"))
    assert set(rules.rules) == {rule for name in NAMES for rule in build(recipe(name)).rules}


def test_the_guide_shows_each_recipe_as_it_is() -> None:
    assert {name for name, _ in blocks()} == set(NAMES)
    for name, text in blocks():
        assert f"\n{text}" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), name
        assert f"](tests/recipes/{name}.yaml)" in guide()


def test_the_guide_shows_every_watch_and_rule_of_the_recipes() -> None:
    shown = "".join(text for _, text in blocks())
    rules = build(load(json.dumps(together()), "rules.yaml"))
    for entry in (*rules.watch, *rules.rules):
        assert re.search(rf"^  {entry}:$", shown, re.MULTILINE), entry


def test_the_reference_of_the_guide_has_every_word_of_the_file_as_editors_show_it() -> None:
    assert reference() in guide(), f"put this into the guide:\n{reference()}"


@pytest.mark.parametrize("words", [OUR_FILTERS, CHANGE_WORDS, tuple(State), tuple(Mode)], ids=lambda words: words[0])
def test_the_guide_explains_every_word_of_a_closed_set_in_both_languages(words: tuple[str, ...]) -> None:
    for half in halves():
        for word in words:
            assert re.search(rf"^\| [^|\n]*`{word}\b", half, re.MULTILINE), word


def test_every_command_of_the_guide_exists_with_its_options() -> None:
    lines = re.findall(r"\blistener ([a-z]+[^`\n#]*)", guide())
    assert len(lines) > 20
    for line in lines:
        verb, *rest = line.split()
        command = main.get_command(CONTEXT, verb)
        assert command is not None, line
        if isinstance(command, click.Group):
            verb, *rest = rest
            command = command.get_command(CONTEXT, verb)
            assert command is not None, line
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options, line


def test_both_halves_of_the_guide_say_the_same() -> None:
    vietnamese, english = halves()
    for pattern in (r"^(#+) ", r"`(listener [a-z]+)", r"`(LISTENER_[A-Z]+)", r"\*\*\d+\."):
        assert sorted(re.findall(pattern, vietnamese, re.MULTILINE)) == sorted(
            re.findall(pattern, english, re.MULTILINE)
        ), pattern


def test_links_within_the_guide_lead_somewhere() -> None:
    # As GitHub makes an anchor of a heading: lower case, no punctuation, a dash for each blank.
    headings = re.findall(r"^#+ (.*)$", guide(), re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    links = re.findall(r"\]\(#([^)]*)\)", guide())
    assert len(links) > len(NAMES)
    assert set(links) <= set(anchors)
    assert {anchor for anchor in links if anchors.count(anchor) > 1} == set()
