"""`preview`: what a rule would send for one row, and why not."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from listener.cli import main
from listener.text import clean, count
from tests.unit.test_phones import VECTORS
from tests.unit.test_text import CLEANED, MESSAGES

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"

RULES = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}
defaults: {max_parts: 10}
watch:
  notes: {table: public.notes, columns: [body], key: [shop, id], events: [insert, update, delete]}
  orders:
    table: public.orders
    columns: [status]
    lookup:
      customer: SELECT full_name, phone FROM public.customers WHERE id = %(customer_id)s
  lines: {table: public.lines, columns: [qty], key: [order_no, line], events: [update, delete]}
  made: {table: public.notes, key: id, events: [insert, delete]}
  removed: {table: public.notes, key: id, events: [delete]}
  due: {every: "08:00", select: SELECT 1 AS id, key: id}
rules:
  stripped: {on: notes, to: new.phone, text: "{{ new.body }}"}
  kept: {on: notes, to: new.phone, text: "{{ new.body }}", accents: keep}
  migrated: {on: notes, to: new.phone, text: "{{ new.body }}", migrate_old: true}
  short: {on: notes, to: new.phone, text: "{{ new.body }}", max_parts: 1}
  both: {on: notes, to: [new.phone, new.phone2], text: "{{ new.body }}", ticket: {id: new.ticket, thread: new.topic}}
  silent: {on: notes, to: new.phone, text: "{{ new.body }}", mode: shadow}
  tested: {on: notes, to: new.phone, text: "{{ new.body }}", mode: allowlist, allowlist: [0912345678]}
  moved: {on: notes, change: {body: {from: a, to: b}}, to: new.phone, text: "from {{ old.body }} to {{ new.body }}"}
  joined: {on: notes, change: {body: {from: a, to: b}}, to: new.phone, text: "{{ new.body }}", coalesce: {wait: 30s}}
  low: {on: lines, change: {qty: {crosses_below: 6}}, to: new.phone, text: "{{ new.qty }}", coalesce: {wait: 30s}}
  gone: {on: notes, when: op == 'delete', to: old.phone, text: "{{ old.body }} bi xoa"}
  added: {on: notes, when: op == 'insert' and not old, to: new.phone, text: "{{ new.body }} moi"}
  told: {on: made, change: {body: {to: x}}, to: new.phone, text: "{{ op }} {{ 'of nothing' if not old }}"}
  missed: {on: removed, to: old.phone, text: "{{ op }} {{ old.body }} {{ 'left nothing' if not new }}"}
  off: {on: notes, to: new.phone, text: "{{ new.body }}", enabled: false}
  large: {on: notes, when: new.body == 'big', to: new.phone, text: large, first_match: size}
  other: {on: notes, to: new.phone, text: other, first_match: size}
  always: {on: notes, to: new.phone, text: "{{ new.body }}", quiet_hours: {from: QUIET_FROM, to: QUIET_TO}}
  order:
    on: orders
    to: customer.phone
    text: "{{ customer.full_name }}: {{ new.order_no }} {{ new.total | vnd }}"
  line: {on: lines, to: new.phone, text: "{{ key }} {{ new.qty }}"}
  reminder: {on: due, to: new.phone, text: "{{ op }} {{ key }}"}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules above; the quiet hours of `always` are on now and for two hours more."""
    now = datetime.now(UTC) + timedelta(hours=7)
    hours = [(now + timedelta(hours=h)).strftime("%H:00") for h in (-1, 2)]
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.replace("QUIET_FROM", hours[0]).replace("QUIET_TO", hours[1]), encoding="utf-8")
    return path


def call(rules: Path, rule: str, *args: str, database: str = NOWHERE) -> Result:
    env = {"LISTENER_DATABASE_URL": database}
    return CliRunner().invoke(main, ["preview", rule, "--rules", str(rules), *args], env=env)


def preview(rules: Path, rule: str, row: object, database: str = NOWHERE) -> dict[str, Any]:
    """The verdict on a row; exit code 1 goes with a rejection alone."""
    said = call(rules, rule, "--row", json.dumps(row), "-o", "json", database=database)
    verdict: dict[str, Any] = json.loads(said.stdout)
    assert said.exit_code == (1 if verdict["verdict"] == "reject" else 0)
    assert verdict["rule"] == rule
    return verdict


def note(body: str = "x", phone: str | None = "0980000000", **more: object) -> dict[str, object]:
    return {"shop": 1, "id": "A/1", "body": body, "phone": phone, **more}


def test_the_shape_is_the_documented_one(rules: Path) -> None:
    verdict = preview(rules, "stripped", note("Đơn hàng"))
    [message] = verdict["messages"]
    assert list(verdict) == ["rule", "verdict", "reason", "messages"]
    # `reason` is ours: of several recipients one may be refused
    assert list(message) == ["to", "text", "parts", "encoding", "ticket_id", "thread", "due_at", "reason"]
    due_at = datetime.fromisoformat(message.pop("due_at"))
    assert abs(due_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (verdict["verdict"], verdict["reason"]) == ("send", None)
    assert message == {
        "to": "0980000000",
        "text": "Don hang",
        "parts": 1,
        "encoding": "GSM-7",
        "ticket_id": None,
        "thread": r"notes:1/A\/1",
        "reason": None,
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v[0])
def test_every_phone(rules: Path, vector: tuple[str, str, str, str, str]) -> None:
    _, written, status, number, reason = vector
    verdict = preview(rules, "stripped", note(phone=written))
    if status == "ok":
        assert [m["to"] for m in verdict["messages"]] == [number]
        return
    assert (verdict["verdict"], verdict["messages"][0]["to"]) == ("reject", None)
    words = {
        "landline": "landline",
        "service_number": "1800 and 1900 numbers are services",
        "length": "the number of digits is wrong",
        "prefix": "begins with 03, 05, 07, 08 or 09",
        "foreign": "another country",
        "format": "not one phone number",
        "empty": "there is no phone number",
        "": f"old 11-digit number was replaced in 2018 and may be someone else's now; its new form is {number[:3]}***",
    }
    assert words[reason] in verdict["reason"]
    if status == "migrated":
        found = preview(rules, "migrated", note(phone=written))
        assert (found["verdict"], found["reason"]) == ("send", None)
        told = "the row holds an old 11-digit number; this is its new form"
        assert [(m["to"], m["reason"]) for m in found["messages"]] == [(number, told)]


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda v: v[0])
def test_every_message(rules: Path, vector: tuple[Any, ...]) -> None:
    name, text, _, encoding, _, segments, _, _, carrier_parts, plain_units, plain_parts = vector
    stripped, kept = (preview(rules, rule, note(text)) for rule in ("stripped", "kept"))
    if not text:
        assert (stripped["verdict"], stripped["reason"]) == ("reject", "the text is empty")
        assert (kept["verdict"], kept["reason"]) == ("reject", "the text is empty")
        return
    [plain], [own] = stripped["messages"], kept["messages"]
    assert plain["encoding"] == "GSM-7"
    assert count(plain["text"]).units == plain_units
    # M34: an escape pair at the border takes the standard one part more
    assert plain["parts"] == (3 if name == "M34" else plain_parts)
    if clean(text) == text:
        assert (own["text"], own["encoding"], own["parts"]) == (text, encoding, max(segments, carrier_parts))
    else:
        assert own["text"] == clean(text)
        assert own["parts"] <= max(segments, carrier_parts)
    too_long = name == "M20"
    assert kept["verdict"] == ("reject" if too_long else "send")
    assert not too_long or kept["reason"] == "the text is too long: 15 parts, the rule allows 10"


@pytest.mark.parametrize("vector", CLEANED, ids=lambda v: v[0])
def test_every_cleaning(rules: Path, vector: tuple[str, str, str, str]) -> None:
    _, text, cleaned, plain = vector
    assert preview(rules, "kept", note(text))["messages"][0]["text"] == cleaned
    assert preview(rules, "stripped", note(text))["messages"][0]["text"] == plain


@pytest.mark.parametrize(
    ("rule", "row", "verdict", "reason"),
    [
        ("short", note("a" * 161), "reject", "the text is too long: 2 parts, the rule allows 1"),
        ("stripped", note("a" * 1001), "reject", "the text is too long: 1001 characters, CareSoft takes 1000"),
        ("stripped", note("🎉"), "reject", "the text is empty"),
        ("stripped", {"phone": "0980000000", "body": None}, "reject", "new.body is NULL"),
        ("stripped", {"phone": "0980000000"}, "reject", 'new has no column "body"'),
        ("silent", note(), "skip", "mode shadow: shown, not sent"),
        ("tested", note(), "skip", "mode allowlist: not on the list"),
        ("tested", note(phone="0912345678"), "send", None),
        ("moved", {"old": note("a"), "new": note("b")}, "send", None),
        ("moved", {"old": note("c"), "new": note("b")}, "skip", "body was not a before"),
        ("moved", {"old": note("a"), "new": note("c")}, "skip", "body is not b now"),
        ("moved", {"old": note("b"), "new": note("b")}, "skip", "body did not change"),
        ("moved", {"old": None, "new": note("b")}, "skip", "body was not a before"),
        ("moved", note("b"), "reject", "the row before the change is not known here"),
        ("moved", note("c"), "skip", "body is not b now"),
        ("joined", {"old": note("a"), "new": note("b")}, "send", None),
        ("joined", note("b"), "send", None),
        ("joined", note("c"), "skip", "body is not b now"),
        ("gone", {"old": note("Don 5"), "new": None}, "send", None),
        ("gone", {"old": note("Don 5")}, "send", None),
        ("gone", {"old": note("a"), "new": note("b")}, "skip", "`when` is not true: op == 'delete'"),
        ("off", note(), "send", None),
        ("other", {"old": note("a"), "new": note("big")}, "skip", "an earlier rule of the group size has answered"),
        ("other", {"old": note("a"), "new": note("small")}, "send", None),
    ],
)
def test_verdicts_and_their_reasons(
    rules: Path, rule: str, row: dict[str, object], verdict: str, reason: str | None
) -> None:
    said = preview(rules, rule, row)
    assert (said["verdict"], said["reason"]) == (verdict, reason)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("told", "insert of nothing"),
        ("added", "x moi"),
        ("gone", "x bi xoa"),
        ("missed", "delete x left nothing"),
        ("reminder", "insert A/1"),
        ("stripped", "x"),
    ],
)
def test_a_row_alone_is_the_change_that_the_watch_captures(rules: Path, rule: str, text: str) -> None:
    assert [m["text"] for m in preview(rules, rule, note())["messages"]] == [text]


def test_several_recipients_and_the_ticket(rules: Path) -> None:
    row = note("x", "+84980000000", phone2="024 3825 1234", ticket="0055", topic="T1")
    said = preview(rules, "both", row)
    assert said["verdict"] == "send"
    good, bad = said["messages"]
    assert (good["to"], good["ticket_id"], good["thread"], good["reason"]) == ("0980000000", 55, "T1", None)
    assert (bad["to"], bad["due_at"], bad["reason"]) == (
        None,
        None,
        "this is a landline, which cannot receive SMS; it reads 024***234",
    )
    # the same person twice is one message
    assert len(preview(rules, "both", {**row, "phone2": "0980.000.000"})["messages"]) == 1


def test_quiet_hours_show_in_the_time(rules: Path) -> None:
    [message] = preview(rules, "always", note())["messages"]
    assert datetime.fromisoformat(message["due_at"]) > datetime.now(UTC) + timedelta(minutes=50)


def test_people_get_lines(rules: Path) -> None:
    said = call(rules, "stripped", "--row", json.dumps(note("Đơn 5")))
    assert said.exit_code == 0
    first, *lines = said.stdout.splitlines()
    assert first == "stripped: send"
    assert dict(line.split(maxsplit=1) for line in lines if line)["text"] == "Don 5"
    said = call(rules, "moved", "--row", json.dumps(note("c")))
    assert said.stdout == "moved: skip, because body is not b now\n"


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["stripped"], 2, "give either --key or --row"),
        (["stripped", "--key", "1", "--row", "{}"], 2, "give either --key or --row"),
        (["striped", "--row", "{}"], 1, "the rules have no rule striped; did you mean stripped?"),
        (["stripped", "--row", "{"], 2, "--row is not JSON"),
        (["stripped", "--row", "[1]"], 2, "--row must be an object"),
        (["stripped", "--row", "[" * 100_000], 2, "--row is nested too deeply"),
        (["stripped", "--row", '{"id": 1e999999999}'], 2, "a number has more digits than any column can hold"),
        (["stripped", "--row", '{"id": -1e-999999999}'], 2, "a number has more digits than any column can hold"),
        (["stripped", "--row", '{"old": null, "new": null}'], 2, "--row: `old` and `new` are both empty"),
        (["stripped", "--key", "1"], 4, "the database is out of reach"),
        (["order", "--row", '{"order_no": "D1"}'], 4, "the database is out of reach"),
    ],
)
def test_errors(rules: Path, args: list[str], code: int, told: str) -> None:
    said = call(rules, *args)
    assert said.exit_code == code
    assert told in said.stderr
    assert "Traceback" not in said.output


# -- with the sample ERP


@pytest.fixture
def erp(erp_database: str) -> str:
    """The sample ERP without listener, and a table with a key of two columns."""
    with psycopg.connect(erp_database) as erp:
        erp.execute(
            "CREATE TABLE public.lines (order_no text, line int, qty int, phone text, PRIMARY KEY (order_no, line))"
        )
        erp.execute("INSERT INTO public.lines VALUES ('A/1', 2, 5, '0980000000'), ('A', 12, 6, '0980000000')")
    return erp_database


def by_key(rules: Path, rule: str, key: str, database: str) -> Result:
    return call(rules, rule, "--key", key, "-o", "json", database=database)


def test_the_row_of_a_key_with_its_lookup(rules: Path, erp: str) -> None:
    verdict = json.loads(by_key(rules, "order", "DH1001", erp).stdout)
    assert verdict["verdict"] == "send"
    [message] = verdict["messages"]
    assert (message["to"], message["text"]) == ("0980000000", "Dang Thi Uot: DH1001 450.000 VND")
    # a landline, found by the lookup
    assert json.loads(by_key(rules, "order", "DH1010", erp).stdout)["verdict"] == "reject"


def test_a_key_of_two_columns(rules: Path, erp: str) -> None:
    for key, text in ((r"A\/1/2", r"A\/1/2 5"), ("A/12", "A/12 6")):
        [message] = json.loads(by_key(rules, "line", key, erp).stdout)["messages"]
        assert (message["text"], message["thread"]) == (text, f"lines:{key}")


def test_a_row_with_its_key_is_taken_to_have_just_become_so_by_a_rule_that_joins_changes_too(
    rules: Path, erp: str
) -> None:
    [message] = json.loads(by_key(rules, "low", r"A\/1/2", erp).stdout)["messages"]
    assert (message["to"], message["text"]) == ("0980000000", "5")
    said = json.loads(by_key(rules, "low", "A/12", erp).stdout)
    assert (said["verdict"], said["reason"]) == ("skip", "qty is not below 6")


def test_a_given_row_has_the_key_that_capture_would_give_it(rules: Path, erp: str) -> None:
    """Without `key:` that is the table's primary key, wherever its columns stand in the row."""
    text = rules.read_text(encoding="utf-8")
    rules.write_text(text.replace("columns: [qty], key: [order_no, line], ", "columns: [qty], "), encoding="utf-8")
    row = {"qty": 5, "phone": "0980000000", "line": 2, "order_no": "A/1"}
    for given in (row, {"old": {**row, "qty": 4}, "new": row}):
        said = call(rules, "line", "--row", json.dumps(given), "-o", "json", database=erp)
        [message] = json.loads(said.stdout)["messages"]
        assert (message["text"], message["thread"], said.stderr) == (r"A\/1/2 5", r"lines:A\/1/2", "")
        assert message == json.loads(by_key(rules, "line", r"A\/1/2", erp).stdout)["messages"][0] | {
            "due_at": message["due_at"]
        }


@pytest.mark.parametrize("there", [True, False])
def test_a_key_that_is_a_guess_is_told_as_one(rules: Path, erp: str, there: bool) -> None:
    """Without the database, or the table's primary key in it."""
    text = rules.read_text(encoding="utf-8")
    rules.write_text(text.replace("columns: [qty], key: [order_no, line], ", "columns: [qty], "), encoding="utf-8")
    with psycopg.connect(erp) as conn:
        conn.execute("DROP TABLE public.lines")
    row = json.dumps({"qty": 5, "phone": "0980000000", "line": 2, "order_no": "A/1"})
    said = call(rules, "line", "--row", row, "-o", "json", database=erp if there else NOWHERE)
    assert json.loads(said.stdout)["messages"][0]["thread"] == "lines:5"
    assert said.stderr == (
        "note: watch lines names no `key:` and no primary key is known here, so the row's first value is taken for "
        "the key\n"
    )
    assert call(rules, "stripped", "--row", json.dumps(note())).stderr == ""


def test_a_key_that_is_not_there(rules: Path, erp: str) -> None:
    said = by_key(rules, "order", "DH1", erp)
    assert said.exit_code == 1
    assert "public.orders has no row with the key DH1" in said.stderr
    said = by_key(rules, "reminder", "1", erp)
    assert (said.exit_code, "give its row with --row" in said.stderr) == (1, True)


def test_a_lookup_of_a_given_row(rules: Path, erp: str) -> None:
    row = {"order_no": "D9", "total": 5, "customer_id": 7}
    assert preview(rules, "order", row, erp)["messages"][0]["text"] == "Dang Thi Uot: D9 5 VND"
    nobody = preview(rules, "order", {**row, "customer_id": 4711}, erp)
    assert (nobody["verdict"], nobody["reason"]) == ("reject", "lookup customer found no row")
    unasked = preview(rules, "order", {"order_no": "D9", "total": 5}, erp)
    assert "lookup customer needs customer_id" in unasked["reason"]


def test_the_remembered_ticket(rules: Path, erp: str) -> None:
    assert json.loads(by_key(rules, "order", "DH1001", erp).stdout)["messages"][0]["ticket_id"] is None
    sample = Path(__file__).parent.parent.parent / "rules.yaml"
    installed = CliRunner().invoke(main, ["db", "install", "--rules", str(sample)], env={"LISTENER_DATABASE_URL": erp})
    assert installed.exit_code == 0
    with psycopg.connect(erp) as conn:
        conn.execute("INSERT INTO listener.thread (account, name, ticket_id) VALUES ('main', 'orders:DH1001', 77)")
    assert json.loads(by_key(rules, "order", "DH1001", erp).stdout)["messages"][0]["ticket_id"] == 77


def test_a_code_of_fixed_width_is_the_code_itself(rules: Path, erp: str) -> None:
    """SQL compares a char(n) without its padding, and so do the conditions, labels, texts and threads of a rule."""
    text = RULES.split("rules:")[0].replace("QUIET", "") + (
        "rules:\n  done: {on: parcels, change: {st: {to: ok}}, when: \"new.st == 'ok' and same.st == 'ok'\", "
        "to: new.phone, text: \"{{ new.st | label('done') }}, {{ same.st }}.\", ticket: {thread: new.st}}\n"
        "labels: {done: {ok: xong}}\n"
    )
    lookup = "SELECT st FROM public.parcels WHERE st = %(st)s AND id = %(id)s"
    parcels = f"watch:\n  parcels: {{table: public.parcels, columns: [st], lookup: {{same: '{lookup}'}}}}\n"
    rules.write_text(text.replace("watch:\n", parcels), encoding="utf-8")
    with psycopg.connect(erp) as conn:
        conn.execute("CREATE TABLE public.parcels (id char(5) PRIMARY KEY, st char(3), phone char(12))")
        conn.execute("INSERT INTO public.parcels VALUES ('P1', 'ok', '0980000000')")
    verdict = json.loads(by_key(rules, "done", "P1", erp).stdout)
    assert (verdict["verdict"], verdict["reason"]) == ("send", None)
    [message] = verdict["messages"]
    assert (message["text"], message["thread"]) == ("xong, ok.", "ok")
