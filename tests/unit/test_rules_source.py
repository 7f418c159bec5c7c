"""YAML to plain data with places: what each scalar becomes, and what no file may do."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from listener.errors import Fault, RulesError
from listener.rules import source


def only_fault(text: str) -> Fault:
    with pytest.raises(RulesError) as caught:
        source.load(text, "rules.yaml")
    [fault] = caught.value.faults
    return fault


@pytest.mark.parametrize(
    "text",
    [
        *("+49151234567", "0123456789", "010", "0x1f", "0o17", "1_000", "1.234.567", "1,5", "+1", "-01", "007.5"),
        *("21:30", "21:30:15", "2026-01-02", "2026-11-22T10:00:00+07:00", "1e3", "1.5e3", ".5", "1.", ".inf", ".nan"),
        *("on", "off", "yes", "no", "y", "n", "Yes", "NO", "On", "tRUE", "none", "None", "=", "9" * 101),
    ],
)
def test_what_looks_like_a_number_a_time_or_an_answer_stays_text(text: str) -> None:
    data = source.load(f"{text}: {text}", "rules.yaml").data
    assert data == {text: text}
    assert type(data[text]) is str


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("-0", 0), ("12", 12), ("-7", -7), ("12345678901234567890", 12345678901234567890)),
        *(("1.50", Decimal("1.50")), ("-0.1", Decimal("-0.1")), ("100000.0", Decimal("100000.0"))),
        *(("true", True), ("True", True), ("FALSE", False), ("null", None), ("Null", None), ("", None)),
        *(
            ('"12"', "12"),
            ("'true'", "true"),
            ('""', ""),
            ("'~'", "~"),
            ("|\n  a\n  b", "a\nb"),
            (">-\n  a\n  b", "a b"),
        ),
    ],
)
def test_scalars_of_the_core_schema(text: str, value: object) -> None:
    found = source.load(f"a: {text}", "rules.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value)


def test_keys_are_text_however_they_look() -> None:
    assert source.load("1: a\ntrue: b\nno: c\nnull: d\n010: e", "f").data == {
        "1": "a",
        "true": "b",
        "no": "c",
        "null": "d",
        "010": "e",
    }


def test_positions_of_keys_and_values() -> None:
    document = source.load("a:\n  b: {c: x,  đ: [1, yy]}\n  e:\n    - f: 1\n    - g\n", "rules.yaml")
    assert document.position(("a", "b", "c")) == (2, 10)
    assert document.position(("a", "b", "c"), key=True) == (2, 7)
    assert document.position(("a", "b", "đ", 1)) == (2, 21)
    assert document.position(("a", "e", 0, "f")) == (4, 10)
    assert document.position(("a", "e", 1)) == (5, 7)
    # a mapping or list is shown by its key, or by itself in a list
    assert document.position(("a",)) == (1, 1)
    assert document.position(("a", "b")) == (2, 3)
    assert document.position(("a", "e", 0)) == (4, 7)
    # what is not there is shown by the nearest thing above it
    assert document.position(("a", "b", "missing")) == (2, 3)
    assert document.position(("a", "b", "c", 0)) == (2, 10)
    assert document.position(("missing",)) == (1, 1)
    assert str(document.fault(("a", "e", 1), "wrong", "mend it")) == "rules.yaml:5:7: wrong (mend it)"


def test_a_byte_order_mark_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert source.load(source.read_text(path), "f").position(("a",), key=True) == (1, 1)
    assert source.load("\ufeffa: 1", "f").data == {"a": 1}


def test_few_aliases_are_written_out() -> None:
    document = source.load("a: &x {b: 1}\nc: [*x, *x]", "f")
    assert document.data == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
    assert document.position(("c", 1, "b")) == (1, 11)
    assert document.faults == []


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n", "---\n", "null", "\ufeff"])
def test_an_empty_file_is_named_so(text: str) -> None:
    assert only_fault(text).message == "the file is empty"


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: x\x00y", (1, 5)), ("a: 1\nb: \x1b[31m", (2, 4)), ("a: \ud800", (1, 4)), ("a: x\ufeff", (1, 5))],
)
def test_invisible_characters_are_pointed_at(text: str, place: tuple[int, int]) -> None:
    fault = only_fault(text)
    assert (fault.line, fault.col) == place
    assert "invisible character" in fault.message


def test_an_alias_inside_its_own_anchor_is_no_loop() -> None:
    assert "names something not written above it" in source.load("a: &x [*x]", "f").faults[0].message


def test_a_file_of_another_encoding_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes("version: 1\nđ: ".encode() + "đơn".encode("cp1258", "replace"))
    with pytest.raises(RulesError) as caught:
        source.read_text(path)
    assert str(caught.value) == (f"{path}:2:4: the file is not UTF-8 text (save it again with the encoding UTF-8)")


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(RulesError) as caught:
            source.read_text(path)
        [fault] = caught.value.faults
        assert (fault.file, fault.line, fault.col) == (str(path), 1, 1)
        return fault.message

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "big").write_bytes(b"#" * (source.MAX_BYTES + 1))
    assert message(tmp_path / "absent.yaml") == "there is no such file"
    assert message(tmp_path) == "this is not a file"
    assert message(tmp_path / "pipe") == "this is not a file"
    assert message(tmp_path / "loop").startswith("the file cannot be read: ")
    assert message(tmp_path / "nul\0") == "the file cannot be read: its path is not valid"
    assert message(tmp_path / "big") == "the file is larger than 1,000,000 bytes"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1")
    path.chmod(0)
    with pytest.raises(RulesError, match="the file cannot be read: Permission denied"):
        source.read_text(path)


@given(st.text(alphabet=st.sampled_from("a1 :#-{}[],&*!|>'\"%@`\\~?<=.\n\té\u2028"), max_size=60))
def test_no_text_makes_anything_but_data_or_faults_in_the_file(text: str) -> None:
    try:
        document = source.load(text, "f")
    except RulesError as error:
        faults = error.faults
        assert faults
    else:
        faults = document.faults
    lines = text.count("\n") + text.count("\u2028") + 1
    assert all(1 <= fault.line <= lines + 1 and fault.col >= 1 for fault in faults)


@given(st.recursive(st.text() | st.integers() | st.booleans(), lambda t: st.lists(t) | st.dictionaries(st.text(), t)))
def test_what_another_writer_quotes_comes_back(value: object) -> None:
    text = yaml.safe_dump({"a": value}, default_style='"', allow_unicode=True)
    try:
        found = source.load(text, "f")
    except RulesError as error:
        assert "nested" in str(error) or "invisible" in str(error)
        return
    if not found.faults:
        # the writer quotes numbers and booleans too, with a tag, which is a fault
        assert found.data == {"a": value}


def test_the_slower_parser_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML has no libyaml, its own parser gives the same data, places and faults."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "bad_rules").glob("*.yaml"))]

    def seen(text: str) -> object:
        try:
            document = source.load(text, "f")
        except RulesError as error:
            return [(f.line, f.message) for f in error.faults]
        return document.root, document.faults

    quick = [seen(text) for text in texts]
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert [seen(text) for text in texts] == quick


HOSTILE = {
    "alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "5,000 brackets": "a: " + "[" * 5000 + "]" * 5000,
    "5,000 braces": "{a: " * 5000,
    "5,000 dashes": "- " * 5000,
    "deep blocks": "".join(" " * i + "a:\n" for i in range(1300)),
    "ten megabytes": "a: " + "x" * 10_000_000,
    "one megabyte of items": "a: [" + "b," * 490_000 + "]",
    "one megabyte of keys": "".join(f"k{i}: 1\n" for i in range(90_000)),
    "the same key": "a: 1\n" * 100_000,
    "unknown keys": "".join(f"k{i}: 1\n" for i in range(19_000)),
    "empty tests": "tests: [" + "{}," * 39_000 + "]",
    "empty rules": "rules: {" + "".join(f"r{i}: {{}}," for i in range(19_000)) + "}",
    "wrong rows": "tests: [{old: {" + "".join(f"c{i}: []," for i in range(19_000)) + "}}]",
    "long to": "rules: {r: {to: [" + "[]," * 39_000 + "]}}",
    "tildes": "a: [" + "~," * 39_000 + "]",
    "a number of a million digits": "version: " + "9" * 999_000,
    "a quote of a million quotes": "a: '" + "''" * 490_000 + "'",
    "tabs": "a:\n" + "\t" * 990_000 + "b: 1",
}

# In a process of its own: the greatest memory of a process never falls again.
MEASURE = """
import resource, sys, time
from listener.errors import RulesError
from listener.rules import parse

def greatest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

text = sys.stdin.read()
for warm in ("version: 1\\nx: 1", "rules: {r: {}}"):
    try:
        parse(warm, "f")
    except RulesError:
        pass
before, began = greatest(), time.process_time()
try:
    parse(text, "f")
except RulesError as error:
    print(time.process_time() - began, greatest() - before, len(error.faults))
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_little(name: str) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], input=HOSTILE[name], capture_output=True, text=True, check=True, cwd=root
    )
    seconds, megabytes, faults = map(float, run.stdout.split())
    assert seconds <= 1
    assert megabytes <= 50
    assert 1 <= faults <= 350
