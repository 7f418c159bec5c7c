"""F71, F72: the template language: what it gives, which names it uses, what it refuses; nothing in it runs away."""

import time
import tracemalloc
from datetime import UTC, date, datetime
from decimal import Decimal
from unicodedata import normalize
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.errors import ListenerError, RenderError
from listener.sandbox import MAX_ITEMS, MAX_TEXT
from listener.templates import MAX_SOURCE, Environment, Missing, Row, TemplateError, Text

ENV = Environment(
    labels={"order_status": {"confirmed": "đã xác nhận", "shipped": "đang giao", "1": "một", "đã hủy": "hủy"}},
    zone=ZoneInfo("Asia/Ho_Chi_Minh"),
)
NAMES: dict[str, object] = {
    "old": Row({"balance": Decimal(150000)}, "old"),
    "new": Row(
        {
            "account_no": "A1",
            "balance": Decimal("90000.00"),
            "status": "shipped",
            "code": Decimal(1),
            "name": "Đặng Thị Ướt",
            "note": None,
            "amount": "1234567.50",
            "active": True,
            "due": "2026-12-31",
            "items": [Decimal(1), Decimal(2), Decimal(3)],
            "keys": "not a method",
            "lines": [{"sku": "B", "price": Decimal("2.50")}, {"sku": "a", "price": Decimal("0.25")}],
            "extra": {"city": "Huế"},
            "big": Decimal("1E+308"),
        },
        "new",
    ),
    "customer": Row({"full_name": "Đặng Thị Ướt", "phone": "0980000000", "phone2": None}, "customer"),
    "nobody": Missing("lookup nobody found no row"),
    "op": "update",
    "at": "2026-11-22T03:00:00+00:00",
    "key": "A1",
}


def text(source: str) -> str:
    return ENV.compile_text(source).render(NAMES)


def value(source: str) -> object:
    return ENV.compile_expression(source).evaluate(NAMES)


def refused(source: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        ENV.compile_text(source)
    return caught.value


def failing(source: str) -> str:
    compiled = ENV.compile_text(source)
    with pytest.raises(RenderError) as caught:
        compiled.render(NAMES)
    return str(caught.value)


def test_the_sample_text() -> None:
    compiled = ENV.compile_text(
        "ACME: TK {{ new.account_no }} con {{ new.balance | vnd }} luc {{ at | datetime }}. LH 19001234"
    )
    assert compiled.render(NAMES) == "ACME: TK A1 con 90.000 VND luc 22/11/2026 10:00. LH 19001234"
    assert compiled.names == {("new", "account_no"), ("new", "balance"), ("at",)}


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("{{ new.balance }}", "90000.00"),
        ("{{ 1.50 }} {{ 0.1 + 0.2 }} {{ 7 / 2 }} {{ -0.0 }}", "1.5 0.3 3.5 0.0"),
        ("{{ new.active }} {{ not new.active }}", "true false"),
        ("{{ new.balance | number(2) }} {{ new.amount | number(1) }}", "90.000,00 1.234.567,5"),
        ("{{ at | date }} {{ at | time }} {{ new.due | date }}", "22/11/2026 10:00 31/12/2026"),
        (
            "{% for n in [1] %}{% set m = n %}{{ m }}{% endfor %}{% for n in [3] %}{% set m = n %}{{ m }}{% endfor %}",
            "13",
        ),
        ("{{ 1.00 | label('order_status') }} {{ '1.0' | label('order_status') }}", "một một"),
        ("{{ new.status | label('order_status') }} {{ new.code | label('order_status') }}", "đang giao một"),
        (f"{{{{ '{normalize('NFD', 'đã hủy')}' | label('order_status') }}}}", "hủy"),
        ("{{ new.name | unaccent }} {{ new.name | shorten(7) }}", "Dang Thi Uot Đặng..."),
        ("{{ new.note | default('không') }} {{ nobody | default('ai') }} {{ x | d('y') }}", "không ai y"),
        ("{% for line in new.lines %}{{ loop.index }}:{{ line.sku }} {% endfor %}", "1:B 2:a "),
        ("{% for i in [] %}x{% else %}none{% endfor %}", "none"),
        ("{% for i in new.items if i > 1 %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "2,3"),
        ("{% set debt = new.balance * 2 %}{{ debt | vnd }}", "180.000 VND"),
        ("{% if new.balance < 100000 %}thap{% elif op == 'x' %}{% else %}cao{% endif %}", "thap"),
        ("{{ new.extra.city }} {{ new['extra']['city'] }} {{ new['bal' ~ 'ance'] | vnd }}", "Huế Huế 90.000 VND"),
        ("{{ new.extra.ward | default(new.extra.city) }} {{ new.extra['ward'] is none }}", "Huế true"),
        ("{{ new.keys }} {{ new.items[0] }} {{ new.items | last }} {{ new.name[0:4] }}", "not a method 1 3 Đặng"),
        ("{{ new.lines | map(attribute='sku') | sort | join('-') }}", "a-B"),
        ("{{ new.lines | sum(attribute='price') }} {{ new.lines | join('+', attribute='price') }}", "2.75 2.50+0.25"),
        ("{{ new.lines | selectattr('price', 'gt', 1) | map(attribute='sku') | first }}", "B"),
        ("{{ new.lines | rejectattr('price', 'gt', 1) | length }}", "1"),
        (
            "{{ new.items | map('vnd') | join(', ') }} {{ [3, 1, 3] | unique | reverse | join }}",
            "1 VND, 2 VND, 3 VND 13",
        ),
        ("{{ new.items | select('odd') | join }} {{ new.items | max }} {{ new.items | min }}", "13 3 1"),
        ("{{ 'abc'.upper() }} {{ new.account_no.replace('A', 'B') }} {{ 'a b'.split()[1] }}", "ABC B1 b"),
        ("{{ 'x' * 3 }} {{ 'a' + 'b' }} {{ 1 ~ 'a' ~ new.code }}", "xxx ab 1a1"),
        ("{{ 2.5 | round }} {{ -2.5 | round | abs }} {{ 2.3450 | round(2) }} {{ 1250 | round(-2) }}", "3 3 2.35 1300"),
        ("{{ '12.7' | int }} {{ '12.7' | float + 1 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 4 }}", "12 13.7 3 -3 3"),
        ("{{ ' a ' | trim }}{{ 'ab' | capitalize }}{{ 'a b' | title }}{{ 'a b' | wordcount }}", "aAbA B2"),
        ("{% raw %}{{ new.balance }}{% endraw %}{# never seen #}", "{{ new.balance }}"),
        ("{{ '<b>' }} & {{ customer.full_name }}", "<b> & Đặng Thị Ướt"),
        ("{% for i in range(2, 8, 3) %}{{ i }}{% endfor %}", "25"),
        ("a\n", "a"),
    ],
)
def test_text(source: str, want: str) -> None:
    assert text(source) == want


@pytest.mark.parametrize(
    "when",
    [
        "new.status == 'đã thu'",
        "new.status in ['đã hủy', 'đã thu']",
        "'thu' in new.status and new.status | length == 6",
        "new.states[0] == 'đã thu' and new.more.status == 'đã thu'",
        "new.rows | map(attribute='status') | first == 'đã thu'",
    ],
)
def test_a_word_is_the_same_when_the_erp_keeps_its_marks_apart(when: str) -> None:
    apart = normalize("NFD", "đã thu")
    row = {"status": apart, "states": [apart], "more": {"status": apart}, "rows": [{"status": apart}]}
    assert ENV.compile_expression(when).evaluate({"new": Row(row)}) is True


@pytest.mark.parametrize(
    "when",
    [
        "new.code == '7' and '7' == new.code and not new.code != '7'",
        "new.code in ['6', '7'] and new.code is eq('7')",
        "new.code != '07' and new.code not in ['x', none] and new.flag == 'true'",
        "new.day == found.day and not new.day != found.day and found.day == '2026-11-22'",
        "new.moment == found.moment and new.moment in [found.moment]",
        "new.local == found.local and new.hour == found.hour and new.day != found.moment and 'x' != found.moment",
    ],
)
def test_a_value_is_the_same_as_the_text_of_it(when: str) -> None:
    """A captured row has a date as a text, a lookup as a date; a code is a number in one column and a text in another,
    and is taken for the same by `change` too."""
    captured = {"code": Decimal("7.00"), "flag": True, "day": "2026-11-22", "moment": "2026-11-22T03:00:00+00:00"}
    captured |= {"local": "2026-11-22T10:00:00", "hour": "10:00:00"}
    local = datetime(2026, 11, 22, 10)
    vietnam = local.replace(tzinfo=ZoneInfo("Asia/Ho_Chi_Minh"))
    found = {"day": local.date(), "moment": vietnam, "local": local, "hour": local.time()}
    assert ENV.compile_expression(when).evaluate({"new": Row(captured), "found": Row(found)}) is True


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("new.balance * 0.1", Decimal("9000.000")),
        ("(new.balance * 0.1) == 9000", True),
        ("0.1 * 3 == 0.3", True),
        ("new.big * 10 + 0.01 - new.big * 10 == 0.01", True),
        ("(1 / 3 * 3) | round(20) == 1", True),
        ("customer.phone", "0980000000"),
        ("not customer.phone is none", True),
        ("customer.phone2 is none and customer.phone2 == none", True),
        ("[nobody is none, nobody == none, not nobody]", [True, True, True]),
        ("'ok' if nobody else 'no'", "no"),
        ("customer.phone if op == 'insert'", None),
        ("new.note", None),
        ("new.status in ['shipped', 'x'] and 'hip' in new.status and 2 in new.items", True),
        ("new.status not in ('shipped',)", False),
        ("[1 < 2 < 3, 1 < 2 > 3]", [True, False]),
        ("old.balance > new.balance and new.balance >= 90000", True),
        ("[new.code is odd, new.code is even, new.code is integer, 7 is divisibleby 7]", [True, False, True, True]),
        ("[x is defined, new is mapping, 'a' is string, new.code is number]", [False, True, True, True]),
        ("new.balance + new.code - 1 == new.balance", True),
        ("+1 - -1", Decimal(2)),
        ("new.status == 1", False),
        ("[customer.phone, customer.phone2]", ["0980000000", None]),
        ("key ~ '-' ~ op", "A1-update"),
        ("at", "2026-11-22T03:00:00+00:00"),
    ],
)
def test_expression(source: str, want: object) -> None:
    result = value(source)
    assert result == want
    assert type(result) is type(want)


def test_times_are_local() -> None:
    compiled = ENV.compile_text("{{ at }} {{ at.year }} {{ day }} {{ day.month }}")
    moment = datetime(2026, 12, 31, 17, 30, tzinfo=UTC)
    assert compiled.render({"at": moment, "day": date(2026, 1, 2)}) == "01/01/2027 00:30 2027 02/01/2026 1"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ new.balance }}{{ old['balance'] }}{{ key }}", {("new", "balance"), ("old", "balance"), ("key",)}),
        ("{{ new[op] }}", {("new",), ("op",)}),
        ("{{ new.extra.city }}", {("new", "extra")}),
        ("{{ at.year }}", {("at",)}),
        ("{{ new.name.upper() | shorten(new.width) }}", {("new", "name"), ("new", "width")}),
        ("{{ new.lines | join(sep, attribute=new.field) }}", {("new", "lines"), ("sep",), ("new", "field")}),
        ("{% for row in new.lines %}{{ row.sku }}{{ loop.index }}{{ customer.x }}{% endfor %}{{ row }}",
         {("new", "lines"), ("customer", "x"), ("row",)}),
        ("{% for a in new.lines if a.b > new.c %}{% set d = a %}{{ d.e }}{% endfor %}{{ d }}",
         {("new", "lines"), ("new", "c"), ("d",)}),
        ("{% for a, b in new.pairs %}{{ a.x }}{{ b }}{% else %}{{ a.y }}{% endfor %}", {("new", "pairs"), ("a", "y")}),
        ("{{ x.a }}{% set x = new.b %}{{ x.c }}", {("x", "a"), ("new", "b")}),
        ("{% if op %}{% set x = 1 %}{% endif %}{{ x.a }}", {("op",), ("x", "a")}),
        ("{% if op %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x.a }}", {("op",)}),
        ("{% if op %}{% set x = 1 %}{% elif key %}{% else %}{% set x = 2 %}{% endif %}{{ x }}",
         {("op",), ("key",), ("x",)}),
        ("{% if op %}{% set x = 1 %}{% elif key %}{% set x = 2 %}{% else %}{% set x = 3 %}{% endif %}{{ x }}",
         {("op",), ("key",)}),
        ("{% set x = new %}{{ x.balance }}", {("new",)}),
        ("{% for i in range(new.n) %}{{ i }}{% endfor %}", {("new", "n")}),
        ("{{ 'a' if new.a is divisibleby new.b else [new.c, -new.d][new.e:new.f] }}",
         {("new", c) for c in "abcdef"}),
        ("plain", set()),
    ],
)  # fmt: skip
def test_names_of_text(source: str, names: set[tuple[str, ...]]) -> None:
    assert ENV.compile_text(source).names == names


def test_names_of_expression() -> None:
    assert ENV.compile_expression("not customer.phone is none and result.x").names == {
        ("customer", "phone"),
        ("result", "x"),
    }


@pytest.mark.parametrize(
    ("source", "line", "message", "hint"),
    [
        ("a\n{{ new.x | vdn }}", 2, 'there is no filter "vdn"', 'did you mean "vnd"?'),
        ("{{ new.x | upcase }}", 1, 'there is no filter "upcase"', 'did you mean "upper"?'),
        ("{{ 'x' | truncate(3) }}", 1, 'there is no filter "truncate"', "use shorten"),
        ("{{ x is oddd }}", 1, 'there is no test "oddd"', 'did you mean "odd"?'),
        ("{{ rang(3) }}", 1, 'there is no function "rang"', "the one function is range"),
        ("{{ vnd(3) }}", 1, 'there is no function "vnd"', "use a filter: value | vnd"),
        ("{{ x.uper() }}", 1, 'there is no function "uper"', 'did you mean "upper"?'),
        (
            "{{ x | label('order_statu') }}",
            1,
            'there is no set of labels "order_statu"',
            'did you mean "order_status"?',
        ),
        ("{{ x | map('vdn') }}", 1, 'there is no filter "vdn"', 'did you mean "vnd"?'),
        ("\n\n{{ x | shorten }}", 3, "shorten: missing a required argument: 'n'", "give it what"),
        ("{{ x | vnd(1) }}", 1, "vnd: too many positional arguments", "give it what"),
        ("{{ x | number(places=1, y=2) }}", 1, "number: got an unexpected keyword argument 'y'", "give it what"),
        ("{{ x | join(*y) }}", 1, "* and ** are not part of the language", "write each value"),
        ("{{ 2 ** 3 }}", 1, "** is not part of the language", "write a * a"),
        ("{{ {'a': 1} }}", 1, "{...} is not part of the language", "write the words under labels"),
        ("{% set x %}a{% endset %}", 1, "a set block is not part", "write {% set name = value %}"),
        ("{% set new = 1 %}", 1, '"new" has a meaning already', "choose another name"),
        ("{% for at in x %}{% endfor %}", 1, '"at" has a meaning already', "choose another name"),
        (
            "{% set sum = 0 %}{% for x in new.lines %}{% set sum = sum + x.price %}{% endfor %}{{ sum }}",
            1,
            'a for forgets at its end what it sets: "sum" stays as it was',
            "use the filter sum",
        ),
        ("{% for x in y recursive %}{% endfor %}", 1, "a loop cannot be recursive", "remove the word"),
        ("a\nb{% fi %}", 2, "{% fi %} cannot stand here", "a text may use if, elif, else, endif"),
        ("{% if x %}a{% elseif y %}b{% endif %}", 1, "{% elseif %} cannot stand here", "a text may use if, elif"),
        (
            "{% if x %}a{% else if y %}b{% endif %}",
            1,
            "the statement ends before if",
            "write {% if new.total == 5 %}, {% elif",
        ),
        ("{% for x in y %}{% if x %}a{% endfor %}", 1, "a {% if %} is not closed", "write {% endif %}"),
        ("{{ new.balance", 1, "a {{ is not closed", "write }} where"),
        ("{{ new.balance vnd }}", 1, "the value ends before vnd", "put | or ~"),
        ("{{ new.balance | }}", 1, "a name is missing here", "write it behind"),
        ("{{ }}", 1, "something is missing before the closing brace", "write a value"),
        ("{{ (new.balance }}", 1, "} cannot stand here", "look for a bracket"),
        ("{{ 'a }}", 1, "a quote is opened here and not closed", "close it"),
        ("{% if new.a && new.b %}{% endif %}", 1, "& cannot stand here", "write and, or, not"),
        ("{% if new.a %}x", 1, "a {% if %} is not closed", "write {% endif %}"),
        ("{% if new.a %}x{% endfor %}", 1, "a {% if %} is not closed", "write {% endif %}"),
        ("{% if new.a = 3 %}x{% endif %}", 1, "the statement ends before =", "write {% if new.total == 5 %}"),
        ("{{ new['__class__'] }}", 1, "__class__ is not part of the language", "name a column"),
        ("{{ (new.m3 * 15.000) | vnd }}", 1, "15.000: it is unclear whether the dot parts thousands", "write 100000"),
        ("{% if new.balance < 1.000.000 %}x{% endif %}", 1, "1.000: it is unclear whether the dot", "write 100000"),
        ("{{ 1e999 }}", 1, "the number 1e999 has too many digits", "15 digits"),
        ("{{ 0.12345678901234567890 }}", 1, "has too many digits", "15 digits"),
        ("x" * (MAX_SOURCE + 1), 1, "longer than", "shorten it"),
    ],
)
def test_refused_when_compiled(source: str, line: int, message: str, hint: str) -> None:
    error = refused(source)
    assert error.line == line
    assert message in error.message
    assert error.hint.startswith(hint)
    assert isinstance(error, ListenerError)
    assert isinstance(error, ValueError)
    assert str(line) in str(error)


@pytest.mark.parametrize(
    "statement",
    [
        "{% macro m() %}{% endmacro %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}",
        "{% extends 'x' %}", "{% block b %}{% endblock %}", "{% call x() %}{% endcall %}",
        "{% with a = 1 %}{% endwith %}",
        "{% filter upper %}{% endfilter %}", "{% autoescape true %}{% endautoescape %}", "{% do x %}", "{% break %}",
        "{% set x.y = 1 %}",
    ],
)  # fmt: skip
def test_only_if_for_and_set(statement: str) -> None:
    refused(statement)


@pytest.mark.parametrize("source", ["", "a b", "a }}{{ b", "a) }}{{ (b", "if x", "{{ a }}", "a;b", "1 +"])
def test_an_expression_is_one_expression(source: str) -> None:
    with pytest.raises(TemplateError):
        ENV.compile_expression(source)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("new.total = 5", "write =="),
        ("0912345678", "a phone is text"),
        ("0912 345 678", "a phone is text"),
        ("new.total > 5 AND new.note", "write and in small letters"),
        ("new.note IS NULL", "write is in small letters"),
        ("new.note is not NULL", "write none"),
        ("new.note == null", "write none"),
        ("new.phone, new.other", "put text in 'quotes'"),
        ("new.total 100000", "put text in 'quotes', or and, or, ~ between"),
    ],
)
def test_an_expression_as_other_programs_have_them_is_told_the_cure(source: str, hint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ENV.compile_expression(source)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ new.note }}", "new.note is NULL"),
        ("{{ new['note'] | upper }}", "new.note is NULL"),
        ("{{ new.note | vnd }}", "new.note is NULL"),
        ("{{ 'a' ~ new.note }}", "new.note is NULL"),
        ("{{ new.note + 1 }}", "new.note is NULL"),
        ("{{ new.note < 1 }}", "new.note is NULL"),
        ("{{ new.note.upper() }}", "new.note is NULL"),
        ("{% for x in new.note %}{% endfor %}", "new.note is NULL"),
        ("{{ [1, new.note] | join }}", "an item is NULL"),
        ("{{ none }}", "a value is NULL"),
        ("{{ new.extra.ward }}", "new.extra.ward is NULL"),
        ("{{ new.extra.ward.name }}", 'new.extra.ward is NULL and has no "name"'),
        ("{{ new.balanse }}", 'new has no column "balanse"; did you mean "balance"?'),
        ("{{ customer.phon }}", 'customer has no column "phon"; did you mean "phone"?'),
        ("{{ new.balanse is defined }}", 'new has no column "balanse"'),
        ("{{ nobody.phone }}", "lookup nobody found no row"),
        ("{{ nobody.phone | default('x') }}", "lookup nobody found no row"),
        ("{{ nobody }}", "lookup nobody found no row"),
        ("{{ custmer.phone }}", "'custmer' is undefined"),
        ("{{ new }}", "new is a row and has no text of its own"),
        ("{{ new.items }}", "new.items is a list and has no text of its own"),
        ("{{ new.name | vnd }}", "new.name: the text is not a plain number"),
        ("{{ new.name + 1 }}", "new.name is a text, not a number"),
        ("{{ new.name > 1 }}", "new.name is a text and a value is a number"),
        ("{{ new.items == new.items }}", "new.items is a list, which cannot be compared"),
        ("{{ new.name.first }}", 'new.name is a text and has no "first"'),
        ("{{ new.balance.upper() }}", "new.balance is a number and has no upper()"),
        ("{{ new.status | label('order_' ~ 'x') }}", 'there is no set of labels "order_x"'),
        ("{{ new.account_no | label('order_status') }}", 'labels "order_status" have no word for "A1"'),
        ("{{ 1.50 | label('order_status') }}", 'labels "order_status" have no word for "1.5"'),
        ("{{ new.name | date }}", "new.name | date: the text is not an ISO date"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 1 % 0 }}", "division by zero"),
        ("{{ new.items[9] }}", "new.items has only 3 items"),
        ("{{ [] | first }}", "a value | first: it is empty"),
        ("{{ new.items | sort(attribute='x') }}", "an item is a number and has no"),
        ("{{ new.items | join(1) }}", "new.items | join: a separator is a text"),
        ("{{ new.items | sort(attribute=1) }}", "new.items | sort: the filter cannot work with what it is given"),
        ("{{ 'a'.split('') }}", "a value.split(...) is given something it cannot work with"),
        ("{{ [1, 'a'] | sort }}", "a value | sort: the filter cannot work with what it is given"),
        ("{{ [new.items] }}", "a list cannot hold lists"),
        ("{{ true + 1 }}", "a value is true or false, not a number"),
    ],
)
def test_reason_when_rendered(source: str, reason: str) -> None:
    assert reason in failing(source)


def test_errors_do_not_quote_values() -> None:
    for source in ("{{ customer.phone | date }}", "{{ customer.phone + 1 }}", "{{ customer.phone | round(99) }}"):
        assert "0980000000" not in failing(source)


INJECTIONS = ["{{7*7}}", "{{config}}", "{0.__class__}", "%(x)s", "${x}", "#{x}", "`id`", "{% for %}", "{# x #}", "</b>"]


@pytest.mark.parametrize("hostile", INJECTIONS)
def test_data_is_never_a_template(hostile: str) -> None:
    compiled = ENV.compile_text("Kinh gui {{ customer.name }}, {{ customer.name | upper }}{{ '%s' ~ customer.name }}!")
    names = {"customer": Row({"name": hostile})}
    assert compiled.render(names) == f"Kinh gui {hostile}, {hostile.upper()}%s{hostile}!"


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ new.__class__ }}",
    "{{ new['__class__'] }}",
    "{{ new['_columns'] }}",
    "{{ new._columns }}",
    "{{ new._name }}",
    "{{ nobody.reason }}",
    "{{ nobody['reason'] }}",
    "{{ new.items.append(1) }}",
    "{{ new.items.__len__() }}",
    "{{ new.extra.keys() }}",
    "{{ new.extra.items }}",
    "{{ new.name.encode() }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x}'.format_map(new) }}",
    "{{ '{0.__class__}' | format(1) }}",
    "{{ '%s' % 1 }}",
    "{{ '%1000000d' % 1 }}",
    "{{ new | attr('__class__') }}",
    "{{ [new] | map(attribute='__class__') | first }}",
    "{{ [''] | map(attribute='__class__.__mro__') | first }}",
    "{{ [''] | map('attr', '__class__') | first }}",
    "{{ [''] | sort(attribute='__class__') }}",
    "{{ [''] | selectattr('__class__') | first }}",
    "{{ [''] | join(attribute='__class__') }}",
    "{{ range.__init__ }}",
    "{{ range }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ self['x'] }}",
    "{{ context }}",
    "{{ environment }}",
    "{{ lipsum() }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler.__init__ }}",
    "{{ joiner() }}",
    "{{ namespace(a=1) }}",
    "{{ dict(a=1) }}",
    "{{ __builtins__ }}",
    "{{ __import__('os') }}",
    "{{ new.balance.as_tuple() }}",
    "{{ new.balance.real }}",
    "{{ (1).__class__ }}",
    "{{ (1).real }}",
    "{% for x in new %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop(1) }}{% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% for x in [1] %}{{ loop.cycle('a') }}{% endfor %}",
    "{{ undefined_name.__class__ }}",
    "{{ undefined_name['_undefined_obj'] }}",
    "{{ 'x' | random }}",
    "{{ new | tojson }}",
    "{{ new | pprint }}",
    "{{ new | xmlattr }}",
    "{{ 'x' | urlize }}",
    "{{ new | op filter }}",
    "{{ new | string }}",
    "{{ new | list }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    with pytest.raises((TemplateError, RenderError)):
        text(source)


def forever(body: str) -> str:
    return "{% for i in range(4999) %}" + body + "{% endfor %}"


RUNAWAYS = [
    forever("{{ i }}{{ new.name }}"),
    forever(forever("")),
    forever(forever(forever("x"))),
    forever("{% set x = new.huge | unaccent %}"),
    forever("{% set x = new.huge ~ new.huge %}"),
    forever("{% set x = new.huge[::2] %}"),
    forever("{% set x = new.huge | shorten(9) %}"),
    forever("{% if 'zzz' in new.huge %}{% endif %}"),
    forever("{% if new.huge == new.name %}{% endif %}"),
    forever("{% if i in new.many %}{% endif %}"),
    forever("{% set x = new.many | sort %}"),
    forever("{% set x = new.many | sum %}"),
    forever("{% set x = new.many | map('vnd') %}"),
    forever("{% set x = new.many[::-1] %}"),
    forever("{% set x = new.deep | map('sum') %}"),
    forever("{% set x = new.big * new.big * new.big %}"),
    forever("{% set x = new.big | number(20) %}"),
    forever("{% set x = at | datetime %}"),
    forever("{% set x = i | vnd | unaccent | upper | title %}"),
    forever("{% set x = 'a' * 9999 %}"),
    forever("{% if new.deep[0] in new.deep %}{% endif %}"),
    "{{ range(10 * 1000000000) | list }}",
    "{{ 'x' * 100000000 }}",
    "{{ 'x' * new.big }}",
    "{{ ('x' * 9999).replace('x', 'y' * 9999) }}",
    "{{ 'x' * 9999 | replace('', 'y' * 9999) }}",
    "{{ ['x' * 9999, 'x' * 9999] | join('y' * 9999) }}",
    "{{ 'x' | center(100000000) }}",
    "{{ 'x'.ljust(100000000) }}",
    "{{ 'x'.zfill(100000000) }}",
    "{{ '\t'.expandtabs(100000000) }}",
    "{{ 'x' | indent(100000000) }}",
    "{{ 'x' | wordwrap(1) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 10 ** 10000 }}",
    "{{ new.big | round(100000000) }}",
    "{{ 1 | number(100000000) }}",
    "{{ new.enormous }}",
    "{{ new.enormous | int }}",
    "{{ new.enormous + 1 }}",
    "{{ new.enormous // 1 }}",
    "{{ range(new.enormous) }}",
    "{% set x = 'aa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
    "{% set x = [1, 2] %}" + "{% set x = [x, x] %}" * 60 + "{{ x == x }}",
    "{% set x = new.big %}" + "{% set x = x * x %}" * 60 + "{{ x }}",
    "{{ " + "(" * 1900 + "1" + ")" * 1900 + " }}",
    "{{ " + "-" * 3000 + "1 }}",
    "{{ x" + ".x" * 1900 + " }}",
    "{% if 1 %}" * 130 + "{% endif %}" * 130,
    "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "{{ new.extra" + "[0:1]" * 700 + " }}",
]


@pytest.mark.parametrize("source", RUNAWAYS, ids=lambda source: source[:60])
def test_nothing_runs_away(source: str) -> None:
    names = {
        "new": Row(
            {
                "name": "Nguyễn",
                "huge": "ạ" * 300_000,
                "many": [Decimal(n) for n in range(MAX_ITEMS)],
                "deep": [[Decimal(1)] * 500] * 500,
                "big": Decimal("9" * 300),
                "enormous": Decimal("1E+999999"),
                "extra": {"a": "b"},
            }
        ),
        "at": "2026-11-22T10:00:00+07:00",
    }
    try:
        compiled = ENV.compile_text(source)
    except TemplateError:
        return
    outcomes, spent = [], []
    for _ in range(3):
        begin = time.process_time()
        outcomes.append(outcome(compiled, names))
        spent.append(time.process_time() - begin)
    assert len(set(outcomes)) == 1
    assert min(spent) < 0.1
    tracemalloc.start()
    outcome(compiled, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def outcome(compiled: Text, names: dict[str, object]) -> str:
    """What came out of it: a reason, or a text that is no longer than any may be."""
    try:
        rendered = compiled.render(names)
    except RenderError as error:
        return str(error)
    assert len(rendered) <= MAX_TEXT
    return rendered


def test_ordinary_work_is_within_the_bounds() -> None:
    lines = [{"sku": f"S{n}", "price": Decimal(n)} for n in range(200)]
    compiled = ENV.compile_text(
        "{% for line in new.lines if line.price is even %}{{ line.sku | upper }} {{ line.price | vnd }}, {% endfor %}"
    )
    assert compiled.render({"new": Row({"lines": lines})}).endswith("S198 198 VND, ")
    assert len(text(f"{{{{ 'x' * {MAX_TEXT} }}}}")) == MAX_TEXT


def test_one_rendering_does_not_use_up_the_next_one() -> None:
    compiled = ENV.compile_text("{% for i in range(3000) %}{% if i %}{% endif %}{% endfor %}done")
    assert [compiled.render({}) for _ in range(5)] == ["done"] * 5


pieces = st.sampled_from(
    [
        *("new", "old", "customer", "nobody", "at", "op", "x", "loop", "none", "true", "1", "0", "2.5", "'a'", "''"),
        *(
            ".balance",
            ".name",
            ".note",
            ".items",
            ".lines",
            ".extra",
            "['name']",
            "[0]",
            "[1:]",
            ".upper()",
            ".split()",
        ),
        *(" | vnd", " | upper", " | first", " | join", " | sort", " | sum", " | default", " | length", " | list"),
        *(" | label('order_status')", " | map(attribute='sku')", " | shorten(3)", " | round", " | datetime", "|int"),
        *(
            " + ",
            " - ",
            " * ",
            " / ",
            " // ",
            " % ",
            " ~ ",
            " == ",
            " < ",
            " in ",
            " and ",
            " or ",
            " is none",
            " is odd",
        ),
        *(" if ", " else ", "not ", "-", "(", ")", "[", "]", ",", "range(3)"),
        *(
            "{{ ",
            " }}",
            "{% if ",
            " %}",
            "{% endif %}",
            "{% for x in ",
            "{% endfor %}",
            "{% set x = ",
            "{% else %}",
            "\n",
        ),
    ]
)


@settings(max_examples=300)
@given(st.one_of(st.lists(pieces, max_size=14).map("".join), st.text("{}%#|.()[]'\" \\axn1:,=~", max_size=40)))
def test_whatever_is_written_ends_in_a_text_or_a_reason(source: str) -> None:
    for wrapped in (source, "{{ " + source + " }}"):
        try:
            compiled = ENV.compile_text(wrapped)
        except TemplateError as error:
            assert 1 <= error.line <= wrapped.count("\n") + 1
            continue
        assert all(len(name) in (1, 2) for name in compiled.names)
        try:
            rendered = compiled.render(NAMES)
        except RenderError as error:
            assert "object at 0x" not in str(error)
            continue
        assert "None" not in rendered
        assert "object at 0x" not in rendered


@settings(max_examples=200)
@given(st.lists(pieces, max_size=10).map("".join))
def test_whatever_is_written_as_an_expression_ends_in_a_value_or_a_reason(source: str) -> None:
    try:
        compiled = ENV.compile_expression(source)
        result = compiled.evaluate(NAMES)
    except (TemplateError, RenderError):
        return
    assert result is None or isinstance(result, bool | int | Decimal | str | list | tuple | range | Row | Missing)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20),
)
def test_arithmetic_is_exact(a: Decimal, b: Decimal) -> None:
    names = {"a": a, "b": b}
    assert ENV.compile_expression("a + b - b == a and a * b == b * a and a * 10 / 10 == a").evaluate(names) is True
