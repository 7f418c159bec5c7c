"""The tests that stand beside rules: what they find, how they say it, and the files they come in."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from listener.cli import main
from listener.rules import build, load
from listener.rules.trial import run, untested
from tests.unit.test_rules_reader import EXAMPLE

SHIPPED = Path(__file__).parent.parent.parent / "rules.yaml"

# The example of the documentation, with quiet hours, coalesce and supersedes.
RULES = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}
defaults:
  max_parts: 2
  quiet_hours: {from: 21:00, to: 07:00}
labels:
  order_status: {confirmed: đã xác nhận, shipped: đang giao}
watch:
  balance:
    table: public.accounts
    columns: [balance]
    key: account_no
    lookup:
      customer: SELECT full_name, phone FROM public.customers WHERE id = %(customer_id)s
  order_status: {table: public.orders, columns: [status], events: [update, delete], key: [shop, order_no]}
rules:
  low_balance:
    on: balance
    change: {balance: {crosses_below: 100000}}
    when: not customer.phone is none
    to: customer.phone
    text: "ACME: TK {{ new.account_no }} con {{ new.balance | vnd }} luc {{ at | datetime }}. LH 19001234"
    coalesce: {wait: 30s, max_wait: 5m}
    priority: urgent
  order_status:
    on: order_status
    mode: shadow
    change: {status: {to: [confirmed, shipped]}}
    to: [new.phone, new.phone2]
    text: "ACME: Don {{ key }} {{ new.status | label('order_status') }}."
    ticket: {id: new.ticket_id}
  gone:
    on: order_status
    when: op == 'delete'
    to: old.phone
    text: "ACME: Don {{ old.order_no }} da xoa."
  off: {on: order_status, to: new.phone, text: off, enabled: false}
tests:
"""
LOW = """\
  - name: a fall below 100.000 is told once
    on: balance
    old: {account_no: A1, balance: 150000, customer_id: 7}
    new: {account_no: A1, balance: 90000, customer_id: 7}
    lookup: {customer: {full_name: Đặng Thị Ướt, phone: "0980000000"}}
    at: 2026-11-22T10:00:00+07:00
    expect:
      - {rule: low_balance, to: "0980000000", text: "ACME: TK A1 con 90.000 VND luc 22/11/2026 10:00. LH 19001234",
         parts: 1}
"""
SHIP = """\
  - name: shipped
    on: order_status
    old: {shop: 1, order_no: D/2, status: confirmed, phone: 0980 000 000, phone2: "+84912345678", ticket_id: 55}
    new: {shop: 1, order_no: D/2, status: shipped, phone: 0980 000 000, phone2: "+84912345678", ticket_id: 55}
    expect: EXPECT
"""
BOTH = r"""
      - {rule: order_status, to: "0912345678", text: 'ACME: Don 1/D\/2 dang giao.', ticket_id: 55}
      - {rule: order_status, to: "0980000000", text: 'ACME: Don 1/D\/2 dang giao.', parts: 1}"""


def differences(test: str) -> list[str]:
    """What the only test says."""
    document = load(RULES + test, "rules.yaml")
    rules = build(document)
    [trial] = run(rules, rules.tests, document)
    return list(trial.differences)


def listener(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_the_example_passes() -> None:
    assert differences(LOW) == []


def test_the_documentations_own_example_passes() -> None:
    document = load(EXAMPLE, "rules.yaml")
    rules = build(document)
    assert [trial.differences for trial in run(rules, rules.tests, document)] == [()]


def test_the_sample_rules_pass_their_tests() -> None:
    document = load(SHIPPED.read_text(encoding="utf-8"), "rules.yaml")
    rules = build(document)
    trials = list(run(rules, rules.tests, document))
    assert len(trials) >= 4
    assert [trial for trial in trials if not trial.passed] == []
    assert untested(rules, rules.tests) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("con 90.000", "còn 90.000", "low_balance to 0980000000: the text differs at character 14 (expected U+00F2"),
        ('LH 19001234",', 'LH 1900",', "the text differs at character 57 (expected the end, got U+0031)"),
        ("parts: 1", "parts: 2", "low_balance to 0980000000: expected 2 parts, it has 1 part"),
        ("parts: 1", "ticket_id: 9", "low_balance to 0980000000: expected ticket 9, it goes without one"),
        (
            '{rule: low_balance, to: "0980000000"',
            '{rule: low_balance, to: "0912345678"',
            "of low_balance to 0912345678, but there is none",
        ),
        ("balance: 150000", "balance: 95000", "none: balance did not fall below 100000"),
        ('phone: "0980000000"', "phone: null", "but there is none: `when` is not true: not customer.phone is none"),
        ('customer: {full_name: Đặng Thị Ướt, phone: "0980000000"}', "customer: null", "lookup customer found no row"),
        (
            "    lookup: {customer: {full_name: Đặng Thị Ướt,",
            "    # {",
            "the test does not say what lookup customer finds",
        ),
        ("new: {account_no: A1, balance: 90000,", "new: {balance: 90000,", 'new has no column "account_no"'),
        ("old: {account_no: A1, balance: 150000,", "old: {", "rejected: the row has no balance"),
        ("22/11/2026 10:00", "22/11/2026 03:00", "the text differs at character 43 (expected U+0030, got U+0031)"),
    ],
)
def test_a_difference_is_told(old: str, new: str, told: str) -> None:
    assert LOW.count(old) >= 1
    said = "\n".join(differences(LOW.replace(old, new)))
    assert told in said


def test_the_difference_is_pointed_at() -> None:
    [said] = differences(LOW.replace("con 90.000", "con 91.000"))
    _, expected, got, mark = said.split("\n")
    assert expected[mark.index("^")] == "1"
    assert got[mark.index("^")] == "0"


def test_an_sms_nobody_expected_is_a_difference() -> None:
    said = differences(LOW[: LOW.index("expect:")] + "expect: []\n")
    assert said == [
        "no SMS of low_balance to 0980000000 was expected, but there is one: "
        '"ACME: TK A1 con 90.000 VND luc 22/11/2026 10:00. LH 19001234"'
    ]


def test_several_messages_in_any_order_shadow_or_live() -> None:
    assert differences(SHIP.replace("EXPECT", BOTH)) == []


def test_the_ticket_must_be_the_expected_one() -> None:
    assert differences(SHIP.replace("EXPECT", BOTH.replace("ticket_id: 55", "ticket_id: 56"))) == [
        "order_status to 0912345678: expected ticket 56, it goes on 55"
    ]


def test_a_test_that_does_not_say_when_is_not_in_quiet_hours() -> None:
    """And in quiet hours the SMS is made all the same: it only waits."""
    at_night = LOW.replace("T10:00", "T23:30").replace(" 10:00", " 23:30")
    assert differences(at_night) == []


@pytest.mark.parametrize(
    ("skipped", "passes"),
    [
        ("status is not confirmed or shipped now", True),
        ("STATUS IS NOT", True),
        ("order_status: status", True),
        ("no such reason", False),
    ],
)
def test_the_reason_for_no_message(skipped: str, passes: bool) -> None:
    test = SHIP.replace("status: shipped", "status: lost").replace("EXPECT", f"[]\n    skipped: '{skipped}'")
    said = differences(test)
    assert (said == []) is passes
    assert passes or "the rules say: order_status: status is not confirmed or shipped now; gone: `when`" in said[0]


def test_a_rejected_message_is_no_sms_and_its_reason_counts() -> None:
    test = SHIP.replace("0980 000 000", "024 3825 1234").replace('"+84912345678"', "null")
    assert differences(test.replace("EXPECT", "[]\n    skipped: landline")) == []


def test_a_delete_is_told_by_its_old_row() -> None:
    test = """\
  - name: deleted
    on: order_status
    old: {order_no: D2, phone: "0980000000", status: shipped}
    expect: [{rule: gone, to: "0980000000", text: ACME: Don D2 da xoa.}]
""".replace("ACME: Don D2 da xoa.", '"ACME: Don D2 da xoa."')
    assert differences(test) == []


def test_a_rule_that_is_off_says_so() -> None:
    test = SHIP.replace("EXPECT", BOTH + "\n      - {rule: off, to: '0980000000', text: off}")
    assert differences(test) == ["expected an SMS of off to 0980000000, but there is none: the rule is switched off"]


def test_rules_without_a_test_are_named() -> None:
    rules = build(load(RULES + LOW, "rules.yaml"))
    assert untested(rules, rules.tests) == ["order_status", "gone"]


def test_the_verb_and_its_report(tmp_path: Path) -> None:
    path, report = tmp_path / "rules.yaml", tmp_path / "report.xml"
    path.write_text(RULES + LOW + SHIP.replace("EXPECT", "[]"), encoding="utf-8")
    said = listener("test", path, "--junit", report)
    assert said.exit_code == 1
    assert f"FAILED {path}:49:5: shipped\n  no SMS of order_status" in said.stdout
    assert said.stdout.endswith("1 of 2 tests passed\n")
    assert "no test expects an SMS of the rule gone" in said.stderr
    suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314
    assert suite is not None
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == (str(path), "2", "1")
    good, bad = suite.findall("testcase")
    assert good.find("failure") is None
    assert (bad.get("name"), bad.get("classname"), bad.get("line")) == ("shipped", "order_status", "49")
    failure = bad.find("failure")
    assert failure is not None and failure.text is not None
    assert failure.text.startswith("no SMS of order_status to 0980000000 was expected")


def test_the_report_holds_any_name(tmp_path: Path) -> None:
    path, report = tmp_path / "rules.yaml", tmp_path / "report.xml"
    odd = LOW.replace("a fall below 100.000 is told once", r'"<a & \" đ>"')
    path.write_text(RULES + odd, encoding="utf-8")
    said = listener("test", path, "--junit", report)
    assert said.exit_code == 0, said.output
    case = ET.parse(report).getroot().find("testsuite/testcase")  # noqa: S314
    assert case is not None
    assert case.get("name") == '<a & " đ>'


def test_programs_get_json(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES + LOW, encoding="utf-8")
    said = listener("test", path, "-o", "json")
    assert said.exit_code == 0
    report = json.loads(said.stdout)
    assert report["ok"] is True
    assert report["untested"] == ["order_status", "gone"]
    [test] = report["tests"]
    assert (test["name"], test["line"], test["ok"]) == ("a fall below 100.000 is told once", 40, True)


def test_a_file_of_tests_alone_runs_on_the_rules_file(tmp_path: Path) -> None:
    rules, more = tmp_path / "rules.yaml", tmp_path / "more.yaml"
    rules.write_text(RULES + LOW, encoding="utf-8")
    more.write_text("tests:\n" + SHIP.replace("EXPECT", BOTH), encoding="utf-8")
    for args in ([rules, more], ["--rules", rules, more]):
        said = listener("test", *args)
        assert (said.exit_code, said.stdout) == (0, "2 of 2 tests passed\n")


def test_two_rules_files_are_tested_each_by_itself(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(RULES + LOW, encoding="utf-8")
    two.write_text((RULES + LOW).replace("100000}", "80000}"), encoding="utf-8")
    said = listener("test", one, two)
    assert said.exit_code == 1
    assert "1 of 2 tests passed" in said.stdout
    assert f"FAILED {two}:40:5" in said.stdout


ONE = "tests:\n  - {name: x, on: balance, new: {a: 1}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            ONE.replace("balance", "balanc") + ", expect: []}",
            ":2:19: there is no watch `balanc` (did you mean balance?)",
        ),
        (ONE + ", expect: [], lookup: {custmer: null}}", ":2:62: watch `balance` has no lookup `custmer`"),
        ("tests: []\ndefaults: {}\n", ":2:1: unknown key `defaults` in a file of tests"),
        (ONE + ", skipped: why, expect: [{rule: low_balance, to: a, text: b}]}", ":2:50: `skipped` says why there"),
        ("tests:\n\t- x\n", ":2:1: a tab indents this line"),
        ("test: []\n", ":1:1: unknown key `test`"),
    ],
)
def test_a_bad_file_of_tests_is_refused_with_the_place(tmp_path: Path, text: str, fault: str) -> None:
    rules, more = tmp_path / "rules.yaml", tmp_path / "more.yaml"
    rules.write_text(RULES + LOW, encoding="utf-8")
    more.write_text(text, encoding="utf-8")
    said = listener("test", rules, more)
    assert said.exit_code == 1
    assert f"{more}{fault}" in said.stdout
    as_json = json.loads(listener("test", rules, more, "-o", "json").stdout)
    assert as_json["ok"] is False
    assert as_json["faults"][0]["file"] == str(more)


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES + LOW, encoding="utf-8")
    said = listener("test", path, "--junit", tmp_path / "no" / "report.xml")
    assert said.exit_code == 1
    assert "--junit: the file cannot be written" in said.stderr
