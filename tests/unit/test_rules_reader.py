"""A rules file to frozen nouns, or to all its faults with their places."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

import listener.rules
from listener.cli import main
from listener.errors import Fault, RulesError
from listener.model import Mode, Op
from listener.rules import Rules, load, parameters, parse, read
from listener.rules.editors import json_schema
from listener.rules.forms import Cap, Rate
from listener.rules.schema import Accents, Parts, Priority

BAD = sorted((Path(__file__).parent / "bad_rules").glob("*.yaml"))

SMALLEST = """\
version: 1
accounts:
  main:
    domain: acme
    token: ${CARESOFT_TOKEN}
    service_id: 12
watch:
  orders:
    table: public.orders
    columns: [status, total]
    lookup:
      customer: SELECT phone FROM public.customers WHERE id = %(customer_id)s;
rules:
  shipped:
    on: orders
    to: customer.phone
    text: "ACME: Don {{ new.order_no }} dang giao."
"""

# The example that the documentation shows to admins.
EXAMPLE = """\
# yaml-language-server: $schema=listener/rules.schema.json
version: 1

accounts:
  main:
    domain: acme
    token: ${CARESOFT_TOKEN}
    service_id: 12
    rate: 12/s
    parts: {unaccented: [160, 306, 459, 612], accented: [70, 134, 201, 268]}

defaults:
  account: main
  accents: strip
  max_parts: 2
  expires: 6h
  quiet_hours: {from: 21:00, to: 07:00}
  time_zone: Asia/Ho_Chi_Minh

labels:
  order_status: {confirmed: đã xác nhận, shipped: đang giao, delivered: đã giao}

watch:
  balance:
    table: public.accounts
    columns: [balance]
    key: account_no
    where: NEW.balance IS NOT NULL
    lookup:
      customer: SELECT full_name, phone FROM public.customers WHERE id = %(customer_id)s
  order_status:
    table: public.orders
    columns: [status]
    key: order_no
    lookup:
      customer: SELECT full_name, phone FROM public.customers WHERE id = %(customer_id)s

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
    change: {status: {to: [confirmed, shipped, delivered]}}
    to: customer.phone
    text: "ACME: Don {{ new.order_no }} {{ new.status | label('order_status') }}."
    ticket: {id: new.ticket_id}
    supersedes: [order_reminder]

tests:
  - name: a fall below 100.000 is told once
    on: balance
    old: {account_no: A1, balance: 150000, customer_id: 7}
    new: {account_no: A1, balance: 90000, customer_id: 7}
    lookup: {customer: {full_name: Đặng Thị Ướt, phone: "0980000000"}}
    at: 2026-11-22T10:00:00+07:00
    expect:
      - rule: low_balance
        to: "0980000000"
        text: "ACME: TK A1 con 90.000 VND luc 22/11/2026 10:00. LH 19001234"
        parts: 1
"""

EVERYTHING = """\
version: 1
accounts:
  main: {domain: acme, token_file: /run/secrets/caresoft, service_id: "0012", rate: 0.5/s, parts: {accented: [70]}}
  second: {domain: ACME-2, token: "${TOKEN_2}", service_id: 7, rate: 600/m}
defaults: {account: second, cap: 3/day, quiet_hours: {from: 21:00, to: "7:00"}, ticket: {id: new.ticket_id}}
labels: {size: {1: nhỏ, yes: có, 010: mười}}
watch:
  stock:
    table: '"KeToan"."SoDu"'
    columns: qty
    events: [insert, update, delete]
    key: [branch, item]
    where: NEW.qty > 0 AND (NEW.note IS NULL OR NEW.note <> ';)')
    on_capture_error: abort
    lookup: {owner: "select phone from owners where note like 'A%%' and id = %(owner_id)s and b = %(branch)s"}
  added: {table: orders, events: insert}
  due: {every: 08:00, select: SELECT * FROM public.invoices WHERE due = current_date, key: invoice_no, catch_up: 2h}
rules:
  low:
    on: stock
    change:
      qty: {from: [1.5, null, true, text], crosses_below: 10, crosses_above: -3.25, increases_by: 1, decreases_by: 0.5}
    to: [owner.phone, new.phone]
    text: |
      ACME: con {{ new.qty }}
    quiet_hours: none
    cap: none
    ticket: none
    coalesce: {wait: 30s}
    mode: allowlist
    allowlist: [0980000000, "0912345678"]
  welcome:
    on: added
    to: new.phone
    text: ACME chao {{ new.name }}
    enabled: false
    account: main
    accents: keep
    max_parts: 10
    expires: 2d
    time_zone: UTC
    priority: bulk
    ticket: {thread: new.phone, save: "UPDATE orders SET ticket = %(ticket_id)s WHERE id = %(id)s;"}
    supersedes: low
    mode: redirect
    redirect_to: 0980000000
    if_unsure: resend
    brake: 500/h
    recheck: true
    channel: sms
    approved: ["ACME chao {P1}"]
    migrate_old: true
    max_block: 30m
    first_match: greeting
  reminder: {on: due, when: op == 'insert', to: new.phone, text: ACME nhac no}
tests:
  - name: a delete is quiet
    on: stock
    old: {qty: 3, note: null, ok: true, at: 2026-01-02}
    lookup: {owner: null}
    expect: []
    skipped: not decided yet
  - name: new
    on: added
    new: {id: 1}
    at: 2026-11-22 10:00Z
    expect: [{rule: welcome, to: "0980000000", text: x, ticket_id: 5}]
"""


def faults(text: str) -> list[Fault]:
    with pytest.raises(RulesError) as caught:
        parse(text, "rules.yaml")
    return caught.value.faults


def changed(*pairs: tuple[str, str], text: str = SMALLEST) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_names_every_fault_and_its_place(path: Path) -> None:
    """Each file begins with a line `# expect: LINE:COL part of message (hint)` for each of its faults, and no more."""
    text = path.read_text(encoding="utf-8")
    expected = re.findall(r"^# expect: (\d+:\d+) ?(.*)$", text, re.MULTILINE)
    assert expected
    found = [(f"{fault.line}:{fault.col}", f"{fault.message} ({fault.hint})") for fault in faults(text)]
    assert [place for place, _ in found] == [place for place, _ in expected]
    for (_, told), (_, part) in zip(found, expected, strict=True):
        assert part in told
    assert all(fault.hint for fault in faults(text)), "each fault has a cure"


def test_there_are_many_bad_files() -> None:
    assert len(BAD) >= 100


def test_the_example_becomes_nouns() -> None:
    rules = parse(EXAMPLE, "rules.yaml")
    account = rules.accounts["main"]
    assert (account.domain, account.token, account.token_file, account.service_id) == (
        "acme",
        "${CARESOFT_TOKEN}",
        None,
        "12",
    )
    assert account.rate == Rate(count=Decimal(12), seconds=1)
    assert account.parts == Parts(unaccented=(160, 306, 459, 612), accented=(70, 134, 201, 268))
    watch = rules.watch["balance"]
    assert (watch.table, watch.columns, watch.key, watch.events) == (
        "public.accounts",
        ("balance",),
        ("account_no",),
        (Op.UPDATE,),
    )
    assert parameters(watch.lookup["customer"]) == ("customer_id",)
    low, status = rules.rules["low_balance"], rules.rules["order_status"]
    assert (low.name, low.on, low.to, low.when) == (
        "low_balance",
        "balance",
        ("customer.phone",),
        "not customer.phone is none",
    )
    assert low.change["balance"].crosses_below == Decimal(100000)
    assert low.coalesce is not None
    assert (low.coalesce.wait, low.coalesce.max_wait) == (timedelta(seconds=30), timedelta(minutes=5))
    assert (low.priority, status.priority) == (Priority.URGENT, Priority.NORMAL)
    assert status.change["status"].to == ("confirmed", "shipped", "delivered")
    assert status.ticket is not None
    assert (status.ticket.id, status.supersedes) == ("new.ticket_id", ("order_reminder",))
    assert status.quiet_hours is not None
    assert (status.quiet_hours.start, status.quiet_hours.end) == (time(21), time(7))
    [test] = rules.tests
    assert (test.op, test.at) == (Op.UPDATE, datetime(2026, 11, 22, 3, tzinfo=UTC))
    assert test.new == {"account_no": "A1", "balance": Decimal(90000), "customer_id": Decimal(7)}
    assert (test.expect[0].to, test.expect[0].parts) == ("0980000000", 1)


def test_every_word_of_the_file() -> None:
    rules = parse(EVERYTHING, "rules.yaml")
    main, second = rules.accounts["main"], rules.accounts["second"]
    assert (main.token, main.token_file, main.service_id) == (None, "/run/secrets/caresoft", "12")
    assert (main.rate.per_second, second.rate.per_second) == (0.5, 10.0)
    assert (main.parts.unaccented, main.parts.accented) == ((160, 306, 459, 612), (70,))
    assert rules.labels == {"size": {"1": "nhỏ", "yes": "có", "010": "mười"}}
    stock, added, due = rules.watch["stock"], rules.watch["added"], rules.watch["due"]
    assert (stock.columns, stock.key, stock.on_capture_error) == (("qty",), ("branch", "item"), "abort")
    assert set(stock.events) == {"insert", "update", "delete"}
    assert parameters(stock.lookup["owner"]) == ("owner_id", "branch")
    assert (added.events, added.columns, added.key) == (("insert",), (), ())
    assert (due.table, due.every, due.catch_up) == (None, time(8), timedelta(hours=2))
    low, welcome, reminder = rules.rules.values()
    change = low.change["qty"]
    assert change.from_ == (Decimal("1.5"), None, True, "text")
    assert (change.to, change.crosses_below, change.crosses_above) == ((), Decimal(10), Decimal("-3.25"))
    assert (change.increases_by, change.decreases_by) == (Decimal(1), Decimal("0.5"))
    assert low.to == ("owner.phone", "new.phone")
    assert low.coalesce is not None
    assert low.coalesce.max_wait == timedelta(seconds=30)
    assert (low.mode, low.allowlist) == (Mode.ALLOWLIST, ("0980000000", "0912345678"))
    assert welcome.ticket is not None
    assert welcome.ticket.save == "UPDATE orders SET ticket = %(ticket_id)s WHERE id = %(id)s"
    assert (welcome.accents, welcome.expires, welcome.time_zone) == (Accents.KEEP, timedelta(days=2), "UTC")
    assert (welcome.supersedes, welcome.redirect_to, welcome.approved) == (("low",), "0980000000", ("ACME chao {P1}",))
    assert welcome.brake == Cap(count=500, per=timedelta(hours=1))
    assert (welcome.max_block, welcome.first_match, welcome.enabled) == (timedelta(minutes=30), "greeting", False)
    assert (reminder.accents, reminder.max_parts, reminder.expires) == (Accents.STRIP, 2, timedelta(hours=6))
    delete, insert = rules.tests
    assert (delete.op, delete.new, delete.lookup, delete.at) == (Op.DELETE, None, {"owner": None}, None)
    assert delete.old == {"qty": Decimal(3), "note": None, "ok": True, "at": "2026-01-02"}
    assert (insert.op, insert.expect[0].ticket_id) == (Op.INSERT, "5")


def test_a_rules_own_value_wins_whole_over_the_defaults() -> None:
    low, welcome, reminder = parse(EVERYTHING, "rules.yaml").rules.values()
    assert (low.quiet_hours, low.cap, low.ticket) == (None, None, None)
    assert (low.account, welcome.account, reminder.account) == ("second", "main", "second")
    assert reminder.cap == Cap(count=3, per=timedelta(days=1))
    assert reminder.quiet_hours is not None
    # whole: the default's `id` is not mixed into the rule's ticket
    assert welcome.ticket is not None
    assert welcome.ticket.id is None
    assert reminder.ticket is not None
    assert reminder.ticket.id == "new.ticket_id"


def test_a_rule_taken_out_may_be_superseded_by_one_with_a_name_somewhat_like_it() -> None:
    text = changed(("  shipped:\n", "  order_shipped:\n    supersedes: [order_confirmed]\n"))
    assert parse(text, "f").rules["order_shipped"].supersedes == ("order_confirmed",)


def test_the_only_account_is_the_account() -> None:
    assert parse(SMALLEST, "f").rules["shipped"].account == "main"


def test_a_closing_semicolon_is_taken_off() -> None:
    assert parse(SMALLEST, "f").watch["orders"].lookup["customer"].endswith("%(customer_id)s")


def test_the_nouns_are_frozen() -> None:
    rules = parse(SMALLEST, "f")
    with pytest.raises(ValidationError):
        rules.rules["shipped"].text = "changed"


def test_an_odd_blank_of_a_text_is_no_fault() -> None:
    folded = SMALLEST.replace("text: ", "text: >-\n      LH:\u00a019001234\n      ").replace('"', "")
    rules = parse(folded, "rules.yaml")
    assert rules.rules["shipped"].text.startswith("LH:\u00a019001234")


@pytest.mark.parametrize("text", ["|\n      ACME:\n      \u00a0LH: 19001234", '"ACME:\n      \u00a0 LH: 19001234"'])
@pytest.mark.parametrize(("fault", "told"), [("on: ordres", "there is no watch"), ("on orders", "a `:` is missing")])
def test_an_odd_blank_of_a_text_hides_no_fault(text: str, fault: str, told: str) -> None:
    source = re.sub("text: .*", lambda _: f"text: {text}", SMALLEST)
    with pytest.raises(RulesError) as caught:
        parse(source + f"\n  last:\n    {fault}\n    to: new.phone\n", "rules.yaml")
    assert not any("blank" in f.message for f in caught.value.faults)
    assert any(told in f.message for f in caught.value.faults), caught.value.faults


def test_two_readings_are_equal() -> None:
    assert parse(EVERYTHING, "a") == parse(EVERYTHING, "b")


def test_a_file_is_read_and_named_in_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode())
    assert read(path) == parse(SMALLEST, "f")
    path.write_text(changed(("service_id: 12", "service_id: x")), encoding="utf-8")
    with pytest.raises(RulesError, match=re.escape(f"{path}:6:17: expected the service's number")):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        changed(("${CARESOFT_TOKEN}", "S3CRETTOKEN")),
        changed(("${CARESOFT_TOKEN}", '"${S3CRETTOKEN} "')),
        changed(("${CARESOFT_TOKEN}", "[S3CRETTOKEN]")),
        changed(("${CARESOFT_TOKEN}", "S3CRETTOKEN: x: y")),
        changed(("${CARESOFT_TOKEN}", "!S3CRETTOKEN x")),
        changed(("${CARESOFT_TOKEN}", "*S3CRETTOKEN")),
        changed(("token: ${CARESOFT_TOKEN}", "tokn: S3CRETTOKEN")),
        changed(("domain: acme", "domain: https://S3CRETTOKEN@acme")),
        changed(("  main:\n    domain: acme\n    token: ${CARESOFT_TOKEN}\n    service_id: 12", "  main: S3CRETTOKEN")),
        changed(("service_id: 12", "service_id: S3CRETTOKEN")),
    ],
)
def test_a_literal_token_is_refused_and_not_repeated(text: str) -> None:
    assert "S3CRET" not in "\n".join(map(str, faults(text)))


@pytest.mark.parametrize(
    "more",
    ["redirect_to: 091234567", "allowlist: [091234567]", "mode: 0912345678", "0912345678: x", "supersedes: 0912345678"],
)
def test_a_phone_number_is_not_repeated(more: str) -> None:
    told = "\n".join(map(str, faults(changed(("    on: orders", f"    {more}\n    on: orders")))))
    assert "1234" not in told


def test_a_line_of_a_long_text_is_named() -> None:
    text = changed(('"ACME: Don {{ new.order_no }} dang giao."', "|\n      ACME\n      {{ new.order_no | vdn }}"))
    [fault] = faults(text)
    assert (fault.line, fault.col) == (17, 11)
    assert fault.message.endswith(", in line 2 of this text")


def test_faults_of_every_sort_are_told_together() -> None:
    """What YAML, the words, the names and the templates have to say comes in one go."""
    text = changed(
        ("version: 1", "version: 1\nversion: 1"),
        ("service_id: 12", "service_id: sms"),
        ("on: orders", "on: ordres"),
        ("order_no }}", "order_no | vdn }}"),
    )
    assert [fault.line for fault in faults(text)] == [2, 7, 16, 18]


def test_many_like_faults_are_cut_off_and_stay_in_the_files_order() -> None:
    many = changed(("    on: orders", "    on: orders\n" + "".join(f"    key{i}: 1\n" for i in range(500)).rstrip()))
    found = faults(many)
    assert len(found) == 100
    assert found == sorted(found)


def test_the_example_agrees_with_its_schema() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for text in (EXAMPLE, EVERYTHING, SMALLEST):
        jsonschema.validate(load(text, "f").data, schema, jsonschema.Draft202012Validator)


def test_the_shipped_schema_is_the_printed_one() -> None:
    """Editors take the file; `listener schema > listener/rules.schema.json` makes it anew."""
    shipped = Path(listener.rules.__file__).parent.parent / "rules.schema.json"
    printed = CliRunner().invoke(main, ["schema"])
    assert printed.exit_code == 0
    assert printed.stdout == shipped.read_text(encoding="utf-8")


def test_the_schema_is_json_and_speaks_both_languages() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema

    def bare(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in bare(item)]
        if not isinstance(node, dict):
            return []
        properties = node.get("properties", {})
        told = [name for name, value in properties.items() if " / " not in value.get("description", "")]
        # what `if` adds to a word is described where the word is
        return told + [name for key, value in node.items() if key != "then" for name in bare(value)]

    assert bare(schema) == []
    assert "name" not in schema["$defs"]["Rule"]["properties"]


Edit = Callable[[dict[str, Any]], object]

STRUCTURE: dict[str, Edit] = {
    "as it is": dict,
    "no version": lambda d: d.pop("version"),
    "version 2": lambda d: d.update(version=2),
    "unknown key": lambda d: d.update(rule={}),
    "no rules": lambda d: d.update(rules={}),
    "rules a list": lambda d: d.update(rules=[]),
    "a rule's name": lambda d: d["rules"].update({"Shipped!": d["rules"].pop("shipped")}),
    "unknown key in a rule": lambda d: d["rules"]["shipped"].update(txt="x"),
    "a name in a rule": lambda d: d["rules"]["shipped"].update(name="shipped"),
    "no text": lambda d: d["rules"]["shipped"].pop("text"),
    "text a number": lambda d: d["rules"]["shipped"].update(text=5),
    "text empty": lambda d: d["rules"]["shipped"].update(text=" "),
    "to a list": lambda d: d["rules"]["shipped"].update(to=["new.phone"]),
    "to an empty list": lambda d: d["rules"]["shipped"].update(to=[]),
    "enabled a word": lambda d: d["rules"]["shipped"].update(enabled="yes"),
    "when nothing": lambda d: d["rules"]["shipped"].update(when=None),
    "expires": lambda d: d["rules"]["shipped"].update(expires="90m"),
    "expires a number": lambda d: d["rules"]["shipped"].update(expires=6),
    "expires zero": lambda d: d["rules"]["shipped"].update(expires="0h"),
    "max_parts 10": lambda d: d["rules"]["shipped"].update(max_parts=10),
    "max_parts 11": lambda d: d["rules"]["shipped"].update(max_parts=11),
    "cap none": lambda d: d["rules"]["shipped"].update(cap="none"),
    "cap some": lambda d: d["rules"]["shipped"].update(cap="some"),
    "quiet hours": lambda d: d["rules"]["shipped"].update(quiet_hours={"from": "21:00", "to": "7:00"}),
    "quiet hours by another name": lambda d: d["rules"]["shipped"].update(
        quiet_hours={"start": "21:00", "end": "7:00"}
    ),
    "quiet hours at 24": lambda d: d["rules"]["shipped"].update(quiet_hours={"from": "24:00", "to": "07:00"}),
    "coalesce without max_wait": lambda d: d["rules"]["shipped"].update(coalesce={"wait": "5s"}),
    "ticket empty": lambda d: d["rules"]["shipped"].update(ticket={}),
    "change": lambda d: d["rules"]["shipped"].update(change={"status": {"from": None, "to": [1, "x"]}}),
    "change empty": lambda d: d["rules"]["shipped"].update(change={"status": {}}),
    "change crosses text": lambda d: d["rules"]["shipped"].update(change={"total": {"crosses_below": "1"}}),
    "change by less than nothing": lambda d: d["rules"]["shipped"].update(change={"total": {"increases_by": 0}}),
    "mode": lambda d: d["rules"]["shipped"].update(mode="shadow"),
    "mode unknown": lambda d: d["rules"]["shipped"].update(mode="test"),
    "redirect_to": lambda d: d["rules"]["shipped"].update(redirect_to="0980000000"),
    "redirect_to short": lambda d: d["rules"]["shipped"].update(redirect_to="098000000"),
    "text in defaults": lambda d: d.update(defaults={"text": "x"}),
    "defaults": lambda d: d.update(defaults={"accents": "keep"}),
    "token twice": lambda d: d["accounts"]["main"].update(token_file="/x"),
    "no token": lambda d: d["accounts"]["main"].pop("token"),
    "token file": lambda d: (d["accounts"]["main"].pop("token"), d["accounts"]["main"].update(token_file="/x")),
    "token literal": lambda d: d["accounts"]["main"].update(token="made-up"),
    "service_id text": lambda d: d["accounts"]["main"].update(service_id="7"),
    "service_id word": lambda d: d["accounts"]["main"].update(service_id="sms"),
    "service_id true": lambda d: d["accounts"]["main"].update(service_id=True),
    "domain a url": lambda d: d["accounts"]["main"].update(domain="https://acme"),
    "rate": lambda d: d["accounts"]["main"].update(rate="700/m"),
    "rate odd": lambda d: d["accounts"]["main"].update(rate="12"),
    "no table": lambda d: d["watch"]["orders"].pop("table"),
    "table and every": lambda d: d["watch"]["orders"].update(every="08:00", select="SELECT 1"),
    "events": lambda d: d["watch"]["orders"].update(events=["insert", "update"]),
    "events unknown": lambda d: d["watch"]["orders"].update(events=["truncate"]),
    "columns a word": lambda d: d["watch"]["orders"].update(columns="status"),
    "lookup name": lambda d: d["watch"]["orders"].update(lookup={"Customer": "SELECT 1"}),
    "labels": lambda d: d.update(labels={"a": {"1": "x"}}),
    "labels of numbers": lambda d: d.update(labels={"a": {"1": 5}}),
    "a test": lambda d: d.update(tests=[{"name": "x", "on": "orders", "new": {"a": None}, "expect": []}]),
    "a test without expect": lambda d: d.update(tests=[{"name": "x", "on": "orders", "new": {"a": 1}}]),
    "a test with a list": lambda d: d.update(tests=[{"name": "x", "on": "orders", "new": {"a": []}, "expect": []}]),
    "a test with a reason": lambda d: d.update(
        tests=[{"name": "x", "on": "orders", "new": {}, "expect": [], "skipped": "y"}]
    ),
    "a test with a reason and a message": lambda d: d.update(
        tests=[
            {
                "name": "x",
                "on": "orders",
                "new": {},
                "expect": [{"rule": "shipped", "to": "0980000000", "text": "x"}],
                "skipped": "y",
            }
        ]
    ),
    "a test without a zone": lambda d: d.update(
        tests=[{"name": "x", "on": "orders", "new": {}, "expect": [], "at": "2026-11-22T10:00:00"}]
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_the_schema_and_the_reader_judge_alike(name: str) -> None:
    data = load(SMALLEST, "f").data
    STRUCTURE[name](data)
    by_schema = jsonschema.Draft202012Validator(json_schema()).is_valid(data)
    try:
        # JSON is YAML as long as its strings are quoted
        by_reader = isinstance(parse(json.dumps(data), "f"), Rules)
    except RulesError:
        by_reader = False
    assert by_reader == by_schema


def test_the_schema_judges_both_ways() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())

    def verdict(edit: Edit) -> bool:
        data = load(SMALLEST, "f").data
        edit(data)
        return validator.is_valid(data)

    verdicts = [verdict(edit) for edit in STRUCTURE.values()]
    assert verdicts.count(True) >= 15
    assert verdicts.count(False) >= 30
