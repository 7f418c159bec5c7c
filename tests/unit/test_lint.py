"""What `check` says beyond faults, and the sample rows it tries texts with."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from listener.cli import main
from listener.errors import RulesError
from listener.rules import build, load, parse
from listener.rules.lint import warnings
from listener.rules.samples import World, longest, never_works, widest
from listener.templates import Environment
from listener.text import count, unaccent
from tests.unit.test_trial import SHIPPED

# The keys of each rule are put in for RULES.
FILE = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12, rate: RATE}
labels:
  order_status: {shipped: LABEL}
watch:
  orders:
    table: public.orders
    columns: [status, total, qty]
    events: EVENTS
    lookup:
      customer: SELECT full_name, phone FROM public.customers WHERE id = %(customer_id)s
  other: {table: public.others, columns: [status]}
rules:
RULES
"""
PLAIN = "ACME: Don {{ new.order_no }} da giao. LH 19001234"


def file(*rules: dict[str, Any], rate: str = "12/s", label: str = "đang giao", events: str = "[update]") -> str:
    """A file with these rules, called r1, r2 ..."""
    lines = [
        f"  r{n}: {json.dumps({'on': 'orders', 'to': 'customer.phone', 'text': PLAIN, **rule}, ensure_ascii=False)}"
        for n, rule in enumerate(rules, 1)
    ]
    text = FILE.replace("RATE", rate).replace("LABEL", json.dumps(label)).replace("EVENTS", events)
    return text.replace("RULES", "\n".join(lines))


def lint(*rules: dict[str, Any], **more: str) -> list[str]:
    """What is said but for rules without tests."""
    document = load(file(*rules, **more), "rules.yaml")
    told = [f"{w.message} ({w.hint})" for w in warnings(document, build(document))]
    return [line for line in told if "no test expects" not in line]


def say(text: str, **rule: Any) -> str:
    return "\n".join(lint({"text": text, **rule}))


def test_the_sample_rules_give_no_warning() -> None:
    document = load(SHIPPED.read_text(encoding="utf-8"), "rules.yaml")
    assert warnings(document, build(document)) == []
    assert lint({}) == []


@pytest.mark.parametrize("char", "#&%[]{}\\<>@^~|")
def test_a_character_that_carriers_refuse_is_named(char: str) -> None:
    assert f"some carriers refuse an SMS with {char} (" in say(f"ACME {char} ok")
    # a column may hold it: that is not what the admin wrote
    assert say("ACME {{ '" + ("\\\\" if char == "\\" else char) + "' }} ok") == ""


@pytest.mark.parametrize(
    ("char", "told"),
    [
        ("`", '"`" (U+0060 GRAVE ACCENT) is sent as "\'", since'),
        ("–", "\"–\" (U+2013 EN DASH) is sent as '-', since it would make the SMS 70 characters a part"),
        ("\u00a0", '" " (U+00A0 NO-BREAK SPACE) is sent as a blank, since'),
        ("₫", "(U+20AB DONG SIGN) is sent as 'VND'"),
        ("\u200b", '" " (U+200B ZERO WIDTH SPACE) is left out, since'),
        ("🎉", '"🎉" (U+1F389 PARTY POPPER) is left out, since'),
        ("ß", '"ß" (U+00DF LATIN SMALL LETTER SHARP S) is left out'),
        ("Ð", "(U+00D0 LATIN CAPITAL LETTER ETH) is sent as 'D'"),
    ],
)
def test_a_character_that_would_change_the_encoding_is_named_with_what_becomes_of_it(char: str, told: str) -> None:
    assert told in say(f"ACME{char}ok")


def test_accents_that_are_stripped_are_no_news() -> None:
    assert say("Kính gửi Đặng Thị Ướt, đơn hàng ĐÃ GIAO") == ""
    # nor are they when a Mac wrote them
    assert say("Kính gửi") == ""


def test_accents_that_are_kept_are_named_once_a_text() -> None:
    assert say("Nhà hang", accents="keep") == (
        '"à" (U+00E0 LATIN SMALL LETTER A WITH GRAVE) makes each SMS 70 characters a part instead of 160 '
        "(`accents: strip` sends it without accents)"
    )
    assert "makes each SMS 70 characters a part instead of 160, as do 2 more of its characters" in say(
        "Đơn hàng", accents="keep"
    )
    kept = say("ACME – ok 🎉", accents="keep")
    assert "\"–\" (U+2013 EN DASH) is sent as '-' (" in kept
    assert '"🎉" (U+1F389 PARTY POPPER) makes each SMS' in kept


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("KHUYẾN MÃI lon", "khuyến mãi"),
        ("khuyen  mai lon", "khuyến mãi"),
        ("giảm giá", "giảm giá"),
        ("Giam gia 50", "giảm giá"),
        ("uu dai", "ưu đãi"),
        ("được tặng 1", "tặng"),
        ("tang quy khach", "tặng"),
        ("mua ngay", "mua ngay"),
        ("Voucher 50k", "voucher"),
    ],
)
def test_advertising_words_accented_or_not(text: str, word: str) -> None:
    assert f'"{word}" makes this an advertising message' in say(text)


@pytest.mark.parametrize("text", ["số dư tăng", "tầng 3", "bang gia", "uudai", "tangiable", "giá giảm"])
def test_words_that_only_look_alike_are_no_advertising(text: str) -> None:
    assert say(text) == ""


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("xem https://acme.vn/x?y=1", "https://acme.vn/x?y=1"),
        ("xem http://1.2.3.4", "http://1.2.3.4"),
        ("xem www.acme.com.", "www.acme.com."),
        ("bit.ly/abc", "bit.ly/abc"),
        ("(zalo.me)", "zalo.me"),
        ("ACME.COM.VN", "ACME.COM.VN"),
        ("don-hang.acme.com.vn.", "don-hang.acme.com.vn"),
    ],
)
def test_links_and_bare_domains(text: str, link: str) -> None:
    assert f'"{link}" is a link' in say(text)


@pytest.mark.parametrize("text", ["22.11.2026", "1.234.567 VND", "da giao.Me oi", "TP.HCM", "v.v", "Q.1,P.2"])
def test_dots_that_make_no_link(text: str) -> None:
    assert say(text) == ""


def test_labels_become_text_too() -> None:
    said = lint({}, label="đang giảm giá & giao, xem bit.ly")
    assert [line.split(" (")[0] for line in said] == [
        '"bit.ly" is a link',
        '"giảm giá" makes this an advertising message, for which the law asks consent, hours and a label',
        "some carriers refuse an SMS with &",
    ]


@pytest.mark.parametrize(("rate", "told"), [("14/s", 0), ("840/m", 0), ("15/s", 1), ("14.5/s", 1), ("900/m", 1)])
def test_a_rate_that_leaves_nothing_for_others(rate: str, told: int) -> None:
    assert len([line for line in lint({}, rate=rate) if "a rate above 14/s" in line]) == told


@pytest.mark.parametrize(
    ("rate", "domain", "warned"), [("7/s", "acme", False), ("12/s", "acme", True), ("12/s", "other", False)]
)
def test_accounts_of_one_domain_share_its_limit(rate: str, domain: str, warned: bool) -> None:
    first = f"service_id: 12, rate: {rate}}}"
    second = f'second: {{domain: {domain}, token: "${{TOKEN2}}", service_id: 13, rate: {rate}}}'
    text = file({"account": "main"}, rate=rate).replace(first, f"{first}\n  {second}")
    document = load(text, "rules.yaml")
    told = [w for w in warnings(document, build(document)) if "no test expects" not in w.message]
    expected = "main, second are one account at CareSoft, acme, which allows 15/s; their rates together are 24/s"
    assert [(w.message, w.hint) for w in told] == ([(expected, "write rate: 6/s for each")] if warned else [])


OVERLAP = "the rule r2 can answer the same change as r1: several SMS to one person"


@pytest.mark.parametrize(
    ("one", "two", "overlap"),
    [
        ({}, {}, True),
        ({}, {"on": "other", "to": "new.phone"}, False),
        ({}, {"to": "new.phone"}, False),
        ({}, {"to": ["new.phone", " customer . phone "]}, True),
        ({}, {"enabled": False}, False),
        ({"first_match": "g"}, {"first_match": "g"}, False),
        ({"first_match": "g"}, {"first_match": "h"}, True),
        ({"change": {"status": {"to": "a"}}}, {"change": {"status": {"to": ["a", "b"]}}}, True),
        ({"change": {"status": {"to": "a"}}}, {"change": {"status": {"to": "b"}}}, False),
        ({"change": {"status": {"from": "a"}}}, {"change": {"status": {"to": "b"}}}, True),
        ({"change": {"status": {"from": "a"}}}, {"change": {"status": {"to": "a"}}}, False),
        ({"change": {"status": {"to": 3}}}, {"change": {"status": {"to": "3"}}}, True),
        ({"change": {"status": {"to": "a"}}}, {"change": {"total": {"increases_by": 1}}}, True),
        ({"change": {"total": {"crosses_below": 5}}}, {"change": {"total": {"crosses_below": 9}}}, True),
        ({"change": {"total": {"crosses_below": 5}}}, {"change": {"total": {"crosses_above": 9}}}, False),
        ({"change": {"total": {"decreases_by": 5}}}, {"change": {"total": {"increases_by": 9}}}, False),
        ({"change": {"total": {"crosses_below": 5}}}, {"change": {"total": {"to": [7]}}}, False),
        ({"change": {"total": {"crosses_below": 5}}}, {"change": {"total": {"to": [4]}}}, True),
        ({"change": {"total": {"crosses_above": 5}}}, {"change": {"total": {"from": [6]}}}, False),
        ({"when": "new.a"}, {}, True),
        ({"when": "new.a"}, {"when": "new.b"}, False),
        ({"when": "new.a"}, {"when": "new.a "}, True),
    ],
)
def test_rules_that_answer_one_change_together(one: dict[str, Any], two: dict[str, Any], overlap: bool) -> None:
    assert (OVERLAP in "\n".join(lint(one, two))) is overlap


def test_many_rules_that_answer_one_change_are_told_once_each() -> None:
    told = [line for line in lint(*[{} for _ in range(8)]) if "the same change" in line]
    assert len(told) == 7
    assert told[0].startswith(OVERLAP)
    assert told[1].startswith("the rule r3 can answer the same change as r1, r2: several SMS to one person")
    assert told[6].startswith("the rule r8 can answer the same change as r1, r2, r3, r4, r5, and 2 more: several")


# -- texts that no row can satisfy


@pytest.mark.parametrize(
    "text",
    [
        "{{ new.balance | vnd }} {{ new.at | datetime }} {{ new.day | date }} {{ new.hour | time }}",
        "{{ new.status | label('order_status') }}{{ new.status | upper }}",
        "{{ customer.full_name.split(' ')[-1] | title | shorten(10) }}{{ new.code[20] }}",
        "{{ new.a + new.b * 2 }}{{ 'x' if new.a < new.b else new.c | upper }}",
        "{% for line in new.lines %}{{ line.name }} x{{ line.qty | number }}{% endfor %}",
        "{{ new.tags | join(', ') }}{{ new.address.street }}",
        "{{ new.paid.sum | vnd }} {{ new.paid.day | date }} {{ new.paid.by.first_name.upper() }}",
        "{{ new.sent.order.customer.address.street }} {{ new.sent.lines | length }} {{ new.sent.total + 1 }}",
        "{% for line in new.lines %}{{ line.due | date }} {{ line.product.name }} {{ line.price * 2 }}{% endfor %}",
        "{% for name in new.names.shown %}{{ new.names[name] | upper }}{% endfor %}",
        "{{ new.grid | map('join', '-') | join(' ') }}",
        "{% if new.x is none %}ok{% else %}{{ 1 / 0 }}{% endif %}",
        "{% if old.total > new.total and new.day == '2026-11-22' %}{{ old.d | date }}{% endif %}{{ key | int }}",
        "{{ at | datetime }} {{ op }} {{ key }} {{ 1 / (new.n - 1) }}",
        "{% if new.a %}{{ new.a | date }}{% endif %}{{ new.b ~ new.c }}",
    ],
)
def test_a_text_that_some_row_satisfies_is_in_order(text: str) -> None:
    parse(file({"text": text}), "rules.yaml")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"text": "{{ 1 / 0 }}"}, "division by zero"),
        ({"text": "{{ new.a }} {{ at | vnd }}"}, "at: a value of type datetime is not an exact number"),
        ({"text": "{{ new }}"}, "new is a row and has no text of its own"),
        ({"text": "{{ customer | upper }}"}, "customer is a row"),
        ({"text": "{{ new.status | label('order_status') | vnd }}"}, "new.status | label"),
        ({"text": "{{ new.status | vnd }} {{ new.status | label('order_status') | date }}"}, "label"),
        ({"text": "{{ new.status | label('order_status') }}{{ op | date }}"}, "op | date"),
        ({"when": "new.total > at"}, "neither is more"),
        ({"to": ["customer.phone", "customer.phone + at"]}, "at is a date or time, not a number"),
        ({"ticket": {"id": "key.x"}}, "key is a text"),
        ({"ticket": {"thread": "at | upper | date"}}, "at | date"),
    ],
)
def test_a_text_that_no_row_satisfies_is_a_fault(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse(file(rule), "rules.yaml")
    [fault] = caught.value.faults
    assert fault.line == 15
    assert fault.message.startswith("this cannot be worked out for any row: ")
    assert why in fault.message


def test_what_is_never_there_is_a_fault() -> None:
    """An insert has no row before it, a delete none after; with both events one of them may use it."""
    for events, text in (("[insert]", "{{ old.total }}"), ("[delete]", "{{ new.total }}")):
        with pytest.raises(RulesError, match=r"this cannot be worked out for any row: (old|new) is NULL"):
            parse(file({"text": text}, events=events), "f")
        parse(file({"text": text}, events="[insert, update, delete]"), "f")


def test_a_text_that_takes_too_long_to_try_is_left_to_its_rows() -> None:
    loops = "{% for a in range(4000) %}{% for b in range(4000) %}x{% endfor %}{% endfor %}"
    compiled = Environment({}, _zone()).compile_text(loops)
    world = World(op="update", key="1", rows=("old", "new"))
    assert never_works(compiled.render, [world], []) == "the template loops too often or handles too much text"


# -- how long a text can get


def _zone() -> ZoneInfo:
    return ZoneInfo("Asia/Ho_Chi_Minh")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("character varying(5)", "WWWWW"),
        ("varchar(3)", "WWW"),
        ("bpchar(2)", "WW"),
        ("numeric(6,2)", Decimal("-9999.99")),
        ("numeric(3,0)", Decimal(-999)),
        ("integer", Decimal(-2147483648)),
        ("int8", Decimal(-9223372036854775808)),
        ("date", "2026-12-31"),
    ],
)
def test_the_longest_value_of_a_type(kind: str, value: object) -> None:
    found = widest(kind, "W")
    assert found is not None
    assert found[0] == value


@pytest.mark.parametrize("kind", ["text", "jsonb", "citext", "character varying", "", "integer[]"])
def test_types_without_a_longest_value(kind: str) -> None:
    assert widest(kind, "W") is None


@pytest.mark.parametrize(
    ("text", "length", "unbounded"),
    [
        ("Don {{ new.code }}: {{ new.total | vnd }}", len("Don WWWWW: -100.000.000 VND"), []),
        ("{{ new.status | label('s') }}", len("a longer word"), []),
        ("{% if new.code == 'x' %}{{ new.code }} and more{% else %}{{ new.code }}{% endif %}", 5, []),
        ("{{ new.note | shorten(12) }}", 12, []),
        ("{{ at | datetime }} {{ new.day | date }}", len("22/11/2026 10:00 31/12/2026"), []),
        ("{{ c.name }}", 2000, [("c", "name")]),
    ],
)
def test_the_longest_text(text: str, length: int, unbounded: list[tuple[str, str]]) -> None:
    labels = {"s": {"a": "short", "b": "a longer word"}}
    types = {
        ("new", "code"): "character varying(5)",
        ("new", "total"): "numeric(10,2)",
        ("new", "status"): "text",
        ("new", "note"): "text",
        ("new", "day"): "date",
    }
    found = longest(
        Environment(labels, _zone()).compile_text(text).render,
        World(op="update", key="K", rows=("old", "new", "c")),
        types,
        ["a", "b"],
        lambda said: count(unaccent(said)).units,
        letter="W",
        endless=True,
    )
    assert found is not None
    assert len(found[0]) == length
    assert [column for column in found[1] if column != ("new", "status")] == unbounded


# -- the verb


def test_warnings_do_not_fail_and_stand_beside_the_faults(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(file({"text": "ACME & co"}), encoding="utf-8")
    said = CliRunner().invoke(main, ["check", str(path)])
    assert said.exit_code == 0
    assert said.stdout == f"{path}: in order, 1 rule\n"
    assert f"warning: {path}:15:56: some carriers refuse an SMS with & (write it in words)" in said.stderr
    assert f"warning: {path}:15:3: no test expects an SMS of the rule r1" in said.stderr
    report = json.loads(CliRunner().invoke(main, ["check", str(path), "-o", "json"]).stdout)
    assert (report["ok"], report["faults"]) == (True, [])
    assert [sorted(warning) for warning in report["warnings"]] == [["col", "file", "hint", "line", "message"]] * 2


def test_faults_come_alone_and_fail(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(file({"text": "ACME & {{ nwe.x }}"}), encoding="utf-8")
    said = CliRunner().invoke(main, ["check", str(path)])
    assert said.exit_code == 1
    assert said.stdout == f"{path}:15:56: there is no name `nwe` here (did you mean new?)\n"
    assert said.stderr == "1 fault\n"
    report = json.loads(CliRunner().invoke(main, ["check", str(path), "-o", "json"]).stdout)
    assert (report["ok"], len(report["faults"]), report["warnings"]) == (False, 1, [])


def test_a_rule_that_could_give_way_but_does_not_exist_is_named() -> None:
    gone = "there is no rule order_reminder whose messages could give way"
    assert lint({"supersedes": ["order_reminder"]})[0].startswith(gone)
    assert lint({"supersedes": ["r2"]}, {"to": "new.phone"}) == []


@pytest.mark.parametrize("recheck", [True, False])
def test_a_recheck_of_what_no_table_holds_is_named(recheck: bool) -> None:
    by_date = 'every: "08:00", key: no, select: SELECT no FROM public.bills WHERE due = %(day)s'
    text = file({"on": "due", "to": "'0912345678'", "text": "ACME: {{ key }}", "recheck": recheck})
    document = load(text.replace("rules:", f"  due: {{{by_date}}}\nrules:"), "rules.yaml")
    told = [warning.message.split(":")[0] for warning in warnings(document, build(document))]
    assert ("recheck does nothing here" in told) == recheck


def test_each_link_of_a_text_is_named() -> None:
    told = say("Xem zalo.me/123 va www.acme.example, zalo.me/123")
    assert told.count("is a link") == 2


@pytest.mark.parametrize(
    "text",
    [
        "{{ new.note.split('#')[1] }}",
        "{{ new.mail.split('@')[1] | upper }}",
        "{{ new.lines[12].price | vnd }}",
        "{{ new.sold.items[0].price | vnd }}",
        "{{ new.sold.to.name.upper() }}",
        "{{ new.sold.at | date }}",
    ],
)
def test_data_may_be_longer_and_deeper_than_a_sample(text: str) -> None:
    assert say(text) == ""


@pytest.mark.parametrize(
    ("text", "approved", "fits"),
    [
        ("{{ new.note }}", "Da giao", True),
        ("ACME: Don {{ key }}", "ACME: Don DH7", True),
        ("ACME: {{ new.total | vnd }}", "ACME: {x} VND", True),
        ("ACME: {{ new.total | vnd }}", "ACME: {x} dong", False),
        ("ACME: {{ new.status | label('order_status') }}", "ACME: dang giao", True),
        ("ACME: {% if new.total > 5 %}nhieu{% endif %}", "ACME: it", True),  # not to be told from here
    ],
)
def test_a_text_that_none_of_its_wordings_can_fit_is_a_fault(text: str, approved: str, fits: bool) -> None:
    if fits:
        assert lint({"text": text, "approved": approved}) == []
    else:
        with pytest.raises(RulesError, match="none of these wordings"):
            lint({"text": text, "approved": approved})
