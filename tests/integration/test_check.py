"""`check --db`: the rules against the database they are for."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from listener.cli import main

SHIPPED = Path(__file__).parent.parent.parent / "rules.yaml"

RULES = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}
labels:
  order_status: {shipped: dang giao, delivered: da giao}
watch:
  orders:
    table: TABLE
    columns: [status]
    events: [insert, update]
    key: order_no
    lookup:
      customer: LOOKUP
rules:
  shipped:
    on: orders
    to: customer.phone
    max_parts: 1
    text: TEXT
"""
LOOKUP = (
    "SELECT full_name, phone, birthday, full_name::varchar(40) AS name FROM public.customers WHERE id = %(customer_id)s"
)


def check(
    database: str,
    folder: Path,
    text: str = "ACME: Don {{ new.order_no }}",
    table: str = "public.orders",
    lookup: str = LOOKUP,
) -> dict[str, Any]:
    """What `check --db -o json` says of the rules with this text."""
    path = folder / "rules.yaml"
    rules = RULES.replace("TEXT", json.dumps(text)).replace("TABLE", table).replace("LOOKUP", lookup)
    path.write_text(rules, encoding="utf-8")
    env = {"LISTENER_DATABASE_URL": database}
    installed = CliRunner().invoke(main, ["db", "install", "--rules", str(path)], env=env)
    said = CliRunner().invoke(main, ["check", str(path), "--db", "-o", "json"], env=env)
    report: dict[str, Any] = json.loads(said.stdout)
    assert said.exit_code == (0 if report["ok"] else 1)
    assert report["ok"] is (report["faults"] == [])
    assert report["faults"] or installed.exit_code == 0, installed.output
    return report


def parts(report: dict[str, Any]) -> list[str]:
    """The warnings about length."""
    assert report["faults"] == []
    assert all(w["line"] == 19 for w in report["warnings"] if "max_parts" in w["message"])
    return [w["message"] for w in report["warnings"] if "parts" in w["message"]]


def test_the_sample_rules_fit_the_sample_erp(erp_database: str) -> None:
    env = {"LISTENER_DATABASE_URL": erp_database}
    assert CliRunner().invoke(main, ["db", "install", "--rules", str(SHIPPED)], env=env).exit_code == 0
    said = CliRunner().invoke(main, ["check", str(SHIPPED), "--db"], env=env)
    assert said.exit_code == 0
    assert said.stdout == f"{SHIPPED}: in order, 3 rules\n"
    # order_no is `text` in the sample: nothing bounds it
    assert "nothing bounds the length of new.order_no" in said.stderr


@pytest.mark.parametrize(
    "text",
    [
        "ACME: {{ new.total | vnd }} {{ new.status | label('order_status') }} {{ customer.name }}",
        "ACME: Don {{ new.order_no | shorten(20) }} {{ new.payment_due | date }} {{ at | datetime }}",
        "ACME: {{ customer.birthday | date }} {{ new.customer_id }} {{ customer.full_name | shorten(30) }}",
    ],
)
def test_a_text_that_always_fits_gives_no_warning(erp_database: str, tmp_path: Path, text: str) -> None:
    assert parts(check(erp_database, tmp_path, text)) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ACME: {{ new.order_no }}", "nothing bounds the length of new.order_no: more than 1 parts are rejected"),
        ("{{ customer.full_name }}", "nothing bounds the length of customer.full_name: more than 1 parts"),
        ("{{ customer.name }}" * 5, "the longest values of its columns make 2 parts, which max_parts: 1 rejects"),
        ("{{ new.total }}" + "x" * 150, "the longest values of its columns make 2 parts"),
        # of several columns only those are named that the text does not bound itself
        (
            "{{ customer.full_name | shorten(30) }} {{ new.status | label('order_status') }} {{ new.order_no }}",
            "nothing bounds the length of new.order_no: more than 1 parts",
        ),
        (
            "{{ customer.full_name[:9] }} {{ customer.phone | default(new.order_no) }} {{ new.status | date }}",
            "nothing bounds the length of customer.phone: more than 1 parts",
        ),
        ("{{ customer.full_name | shorten(90) }}" * 2, "the longest values of its columns make 2 parts"),
    ],
)
def test_a_text_that_may_get_too_long(erp_database: str, tmp_path: Path, text: str, told: str) -> None:
    [said] = parts(check(erp_database, tmp_path, text))
    assert told in said


@pytest.mark.parametrize(
    ("change", "line", "told", "hint"),
    [
        ({"table": "public.order"}, 8, "there is no table public.order", ""),
        ({"text": "{{ new.order_nr }}"}, 19, "public.orders has no column order_nr", "did you mean order_no?"),
        ({"lookup": LOOKUP.replace("customer_id)", "custmer_id)")}, 13, "has no column custmer_id", "customer_id"),
        ({"lookup": LOOKUP.replace("birthday", "birthdy")}, 13, "the database refuses this lookup", ""),
        ({"text": "{{ customer.fone }}"}, 19, "the lookup customer gives no column fone", "did you mean phone?"),
        ({"text": "{{ new.total | date }}"}, 19, "this cannot be worked out for columns of these types: new.total", ""),
        ({"text": "{{ customer.birthday + 1 }}"}, 19, "this cannot be worked out for columns of these types", ""),
        ({"lookup": "SELECT 1/0 FRM x"}, 13, "the database refuses this lookup: syntax error", ""),
        ({"lookup": LOOKUP.replace("birthday", "id::text AS phone")}, 13, "gives phone twice", "AS"),
        ({"lookup": f"{LOOKUP} FOR UPDATE"}, 13, "cannot execute SELECT FOR UPDATE in a read-only transaction", ""),
        ({"lookup": "WITH x AS (DELETE FROM customers RETURNING *) TABLE x"}, 13, "must be at the top level", ""),
        ({"lookup": LOOKUP.replace("%(customer_id)s", "$1")}, 13, "other parameters than its %(column)s", ""),
    ],
)
def test_what_the_database_does_not_have(
    erp_database: str, tmp_path: Path, change: dict[str, str], line: int, told: str, hint: str
) -> None:
    [fault] = check(erp_database, tmp_path, **change)["faults"]
    assert fault["line"] == line
    assert told in fault["message"]
    assert hint in fault["hint"]


@pytest.mark.parametrize(
    ("kind", "asked", "told"),
    [
        ("boolean", "yes", "paid is of the type boolean, and never is `yes` (write true or false)"),
        ("boolean", "[true, 1]", "never is `1`"),
        ("integer", '"02"', "never is `02`"),
        ("integer", "1.5", "never is `1.5`"),
        ("char(4)", '"B "', "never is `B `"),
        ("varchar(3)", "paid", "never is `paid`"),
        ("public.mood", "[glad, sat]", "never is `sat` (look in psql how the column has it)"),
        ("public.small", "7", "never is `7`"),
        ("date", "22/11/2026", "never is `22?***`"),
        ("boolean", "[true, null]", None),
        ("numeric(8,2)", "[1, 2.50, NaN]", None),
        ("char(4)", "B", None),
        ("public.mood", "glad", None),
        ("date", "2026-11-22", None),
        ("jsonb", "paid", None),
        ("public.picky", "7", None),
    ],
)
def test_a_value_that_a_column_never_holds(
    erp_database: str, tmp_path: Path, kind: str, asked: str, told: str | None
) -> None:
    with psycopg.connect(erp_database) as conn:
        conn.execute("CREATE TYPE public.mood AS ENUM ('sad', 'glad')")
        conn.execute("CREATE DOMAIN public.small AS int CHECK (VALUE < 5)")
        conn.execute("""CREATE FUNCTION public.pick(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'""")
        conn.execute("CREATE DOMAIN public.picky AS int CHECK (public.pick(VALUE))")
        conn.execute(f"CREATE TABLE public.bills (no int PRIMARY KEY, paid {kind})".encode())
    path = tmp_path / "rules.yaml"
    path.write_text(PAID.replace("ASKED", asked), encoding="utf-8")
    said = CliRunner().invoke(main, ["check", str(path), "--db"], env={"LISTENER_DATABASE_URL": erp_database})
    if told is None:
        assert "no `listener` schema of this version" in said.stdout, "nothing is wrong but that"
    else:
        assert f"{path}:7:" in said.stdout
        assert told in said.stdout
    assert said.stderr.endswith("\n1 fault\n")


PAID = """\
version: 1
accounts: {main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}}
watch:
  bill: {table: public.bills, columns: [paid]}
rules:
  paid: {on: bill, to: "'0980000000'", text: "ACME: Da nhan tien",
    change: {paid: {to: ASKED}}}
"""
BY_DATE = """\
version: 1
accounts:
  main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}
watch:
  birthday:
    every: 08:00
    key: KEY
    select: SELECT
rules:
  birthday: {on: birthday, to: new.phone, text: "{{ new.full_name }}"}
  moved: {on: orders, change: {payment_due: {increases_by: 1}}, to: "'0980000000'", text: moved}
"""
ORDERS = "watch:\n  orders: {table: public.orders, columns: [payment_due], key: order_no}\n"


@pytest.mark.parametrize(
    ("select", "key", "told"),
    [
        (
            "SELECT id, full_nam FROM public.customers",
            "id",
            ['9:13 the database refuses this query: column "full_nam"'],
        ),
        (
            "SELECT id, full_name FROM public.customers",
            "nr",
            ["8:10 this `select` has no column nr", "11:32 this `select` has no column phone"],
        ),
        ("SELECT id, phone, full_name FROM public.customers WHERE birthday = %(day)s", "id", []),
        (
            "SELECT c.*, d.id FROM public.customers c JOIN public.customers d USING (phone)",
            "id",
            ["9:13 this `select` gives id tw"],
        ),
        ("SELECT c.*, d.id FROM public.customers c JOIN public.customers d USING (phone)", "phone", []),
    ],
)
def test_a_watch_by_date_and_a_change_that_is_no_number(
    erp_database: str, tmp_path: Path, select: str, key: str, told: list[str]
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(BY_DATE.replace("watch:\n", ORDERS).replace("SELECT", select).replace("KEY", key), encoding="utf-8")
    said = CliRunner().invoke(
        main, ["check", str(path), "--db", "-o", "json"], env={"LISTENER_DATABASE_URL": erp_database}
    )
    found = [f"{f['line']}:{f['col']} {f['message']}" for f in json.loads(said.stdout)["faults"]]
    for fault, part in zip(found, [*told, "12:32 payment_due is a date, which is no number"], strict=True):
        assert fault.startswith(part)


def test_a_text_of_a_watch_by_date_that_may_get_too_long(erp_database: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    rules = BY_DATE.partition("  moved:")[0].replace("KEY", "id")
    rules = rules.replace("SELECT", "SELECT id, phone, full_name FROM public.customers")
    path.write_text(rules.replace("{{ new", "{{ '' if op == 'update' else new"), encoding="utf-8")
    env = {"LISTENER_DATABASE_URL": erp_database}
    assert CliRunner().invoke(main, ["db", "install", "--rules", str(path)], env=env).exit_code == 0
    said = CliRunner().invoke(main, ["check", str(path), "--db", "-o", "json"], env=env)
    assert [w["message"] for w in json.loads(said.stdout)["warnings"] if "parts" in w["message"]] == [
        "nothing bounds the length of new.full_name: more than 2 parts are rejected"
    ]


@pytest.mark.parametrize(
    ("save", "told"),
    [
        ("UPDATE public.orders SET tickt_id = %(ticket_id)s WHERE order_no = %(order_no)s", 'column "tickt_id" of'),
        ("UPDATE public.order SET ticket_id = %(ticket_id)s", 'relation "public.order" does not exist'),
        ("INSERT INTO public.orders (order_no) VALUES (nothing(%(ticket_id)s))", "function nothing(bigint) does not"),
        ("UPDATE public.orders SET ticket_id = %(ticket_id)s WHER true", "syntax error"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_a_ticket_save_that_the_database_refuses(
    erp_database: str, tmp_path: Path, save: str, told: str, installed: bool
) -> None:
    path = tmp_path / "rules.yaml"
    head = RULES.replace("TEXT", "x").replace("TABLE", "public.orders").replace("LOOKUP", LOOKUP)
    env = {"LISTENER_DATABASE_URL": erp_database}
    if installed:
        assert check(erp_database, tmp_path)["ok"]
    path.write_text(f'{head}    ticket: {{save: "{save}"}}\n', encoding="utf-8")
    said = CliRunner().invoke(main, ["check", str(path), "--db", "-o", "json"], env=env)
    assert said.exit_code == 1
    [fault] = json.loads(said.stdout)["faults"]
    assert fault["message"].startswith(f"the database refuses this statement: {told}")
    assert (fault["line"], fault["col"]) == (20, 20)


def test_a_schema_that_whoever_asks_may_not_use_is_told_once(erp_database: str, tmp_path: Path) -> None:
    """Of a watch by date, of a `ticket.save` and of a lookup, each at its place."""
    path = tmp_path / "rules.yaml"
    orders = "watch:\n  orders: {table: public.orders, columns: [status], key: order_no"
    looks = f"{orders}, lookup: {{one: SELECT x FROM shut.t}}}}\n"
    by_date = BY_DATE.replace("SELECT", "SELECT x AS full_name, x AS phone FROM shut.t").replace("KEY", "phone")
    by_date = by_date.partition("  moved:")[0]
    save = """{on: orders, to: "'0980000000'", text: paid, ticket: {save: UPDATE shut.t SET x = %(ticket_id)s}}"""
    with psycopg.connect(erp_database) as erp:
        erp.execute("CREATE SCHEMA shut; CREATE TABLE shut.t (x text); CREATE ROLE looks_only LOGIN")
        erp.execute("GRANT SELECT ON shut.t TO looks_only; GRANT UPDATE ON shut.t TO looks_only")
    url = psycopg.conninfo.make_conninfo(erp_database, user="looks_only")

    def faults(rules: str) -> list[tuple[int, str]]:
        path.write_text(rules, encoding="utf-8")
        said = CliRunner().invoke(main, ["check", str(path), "--db", "-o", "json"], env={"LISTENER_DATABASE_URL": url})
        return [(f["line"], f["message"]) for f in json.loads(said.stdout)["faults"]]

    denied = "permission denied for schema shut"
    try:
        assert faults(by_date.replace("watch:\n", f"{orders}}}\n") + f"  paid: {save}\n") == [
            (9, f"the database refuses this statement: {denied}"),
            (12, f"the database refuses this statement: {denied}"),
        ]
        assert faults(by_date.replace("watch:\n", looks)) == [(5, f"the database refuses this lookup: {denied}")]
    finally:
        with psycopg.connect(erp_database) as erp:
            erp.execute("DROP OWNED BY looks_only; DROP ROLE looks_only")


def test_triggers_that_are_not_as_the_rules_want(erp_database: str, tmp_path: Path) -> None:
    assert check(erp_database, tmp_path)["ok"]
    with psycopg.connect(erp_database) as erp:
        erp.execute('ALTER TABLE public.orders DISABLE TRIGGER "+listener_orders_update"')
    said = CliRunner().invoke(
        main, ["check", str(tmp_path / "rules.yaml"), "--db"], env={"LISTENER_DATABASE_URL": erp_database}
    )
    assert said.exit_code == 1
    assert "(run `listener db install`)" in said.stdout


def test_a_database_out_of_reach_is_exit_code_4(tmp_path: Path) -> None:
    env = {"LISTENER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    said = CliRunner().invoke(main, ["check", str(SHIPPED), "--db"], env=env)
    assert said.exit_code == 4
