"""A rule's text and condition, changed in the file's text: what was asked is changed, and nothing else."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from listener.rules import load
from listener.web.rule_edit import BeyondEditError, edited, parts_of, snippet
from listener.web.rules_page import Changed, last_changes

SOURCE = """\
# a comment that stays
version: 1
rules:   # and this
  first:
    on: w
    when: new.a > 1   # why
    to: new.phone
    text: "one {{ new.a }}"
    # between
  second:
    on: w
    text: |
      two
      lines
    to: new.phone
  third: {on: w, to: new.phone, text: flow}
  fourth:
    on: w
    to: new.phone
    text: >-
      folded
      text
tests: []
"""


def rules(source: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = yaml.safe_load(source)["rules"]
    return found


@pytest.mark.parametrize("rule", ["first", "second", "fourth"])
@pytest.mark.parametrize("when", ["", "new.b == 'x' and \"y\"", "new.a > 1"])
@given(
    text=st.text(
        st.characters(
            codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff\u2028\u2029"
        ),
        min_size=1,
        max_size=60,
    )
)
def test_only_what_was_asked_changes(rule: str, when: str, text: str) -> None:
    new = edited(SOURCE, rule, text, when)
    before, after = rules(SOURCE), rules(new)
    wanted = {**before[rule], "text": text, "when": when}
    if not when:
        del wanted["when"]
    assert after == {**before, rule: wanted}
    assert list(after) == list(before)
    for comment in ("# a comment that stays", "# and this", "# between"):
        assert comment in new
    assert parts_of(new, rule) == (text, when)
    # the project's own reader sees the same
    assert load(new, "rules.yaml").data["rules"][rule]["text"] == text


def test_nothing_asked_is_nothing_changed() -> None:
    for rule in ("first", "second", "fourth"):
        assert edited(SOURCE, rule, *parts_of(SOURCE, rule)) == SOURCE


def test_a_rule_alone_with_its_comments() -> None:
    assert snippet(SOURCE, "first").splitlines()[:3] == ["first:", "  on: w", "  when: new.a > 1   # why"]
    assert "second" not in snippet(SOURCE, "first")
    assert yaml.safe_load(snippet(SOURCE, "second"))["second"]["text"] == "two\nlines\n"


@pytest.mark.parametrize(
    "source",
    [
        "rules: {a: {on: w, to: x, text: flow}}",
        "x: &x {on: w, to: x, text: y}\nrules:\n  a: *x\n",
        "x: &x words\nrules:\n  a:\n    on: w\n    text: *x\n",
        "rules:\n  b:\n    text: y\n",
        "rules: [",
        "",
    ],
)
def test_what_only_a_person_can_change_is_said(source: str) -> None:
    with pytest.raises(BeyondEditError):
        edited(source, "a", "new", "")


def test_when_a_rule_became_what_it_is() -> None:
    def version(number: int, **texts: str) -> dict[str, object]:
        lines = "".join(f"  {name}: {{text: {text}}}\n" for name, text in texts.items())
        return {"version": number, "loaded_at": f"at {number}", "source": f"rules:\n{lines}"}

    versions = [
        version(4, a="x", b="2", c="n"),
        version(3, a="x", b="1"),
        version(2, a="x", b="1"),
        version(1, a="w", b="1"),
    ]
    assert last_changes(versions) == {
        "a": Changed(version=2, at="at 2"),  # type: ignore[arg-type]
        "b": Changed(version=4, at="at 4"),  # type: ignore[arg-type]
        "c": Changed(version=4, at="at 4"),  # type: ignore[arg-type]
    }
    assert last_changes([]) == {}


def test_a_condition_of_several_lines_stays_as_it_is_written() -> None:
    source = SOURCE.replace("    when: new.a > 1   # why\n", "    when: |  # why\n      new.a > 1\n      and new.b\n")
    text, when = parts_of(source, "first")
    assert when == "new.a > 1\nand new.b"
    assert edited(source, "first", text, when) == source
    assert edited(source, "first", "other", when) == source.replace('"one {{ new.a }}"', '"other"')
