"""`listener db …` as the role that owns the ERP's tables and nothing more."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import make_conninfo

from listener import database as database_module
from listener.cli import main
from listener.database import connect
from listener.demo import rules_text
from listener.installation import install
from listener.rules import parse
from listener.rules.ruleset import compile_rules
from listener.settings import Settings
from listener.simulator.binaries import find_binaries
from tests.support.world import PATIENCE

TABLES = """
CREATE TABLE public.orders (order_no text PRIMARY KEY, status text, phone text);
CREATE TABLE public."Sổ quỹ" (id int, day date, amount money, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.so_quy_2026 PARTITION OF public."Sổ quỹ" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO public.orders VALUES ('DH1', 'new', '0980000000');
"""
RULES = """
version: 1
accounts: {main: {domain: acme, token: "${CARESOFT_TOKEN}", service_id: 12}}
watch:
  order: {table: public.orders, columns: [status], where: "NEW.status <> '$listener$ {x} %s'"}
  cash: {table: 'public."Sổ quỹ"', columns: [amount], events: [insert, update, delete], where: abs(NEW.id) > 0}
rules:
  order: {on: order, to: new.phone, text: "Don {{ new.order_no }}: {{ new.status }}", expires: 1h}
  cash: {on: cash, to: "'0980000000'", text: "Quy {{ (new or old).amount | vnd }}", expires: 1h}
"""


SHOP = """
CREATE SCHEMA shop;
CREATE TABLE shop.vips (order_no text);
CREATE FUNCTION shop.is_vip(no text) RETURNS boolean LANGUAGE plpgsql STABLE
AS $$ BEGIN RETURN EXISTS (SELECT FROM vips WHERE order_no = no); END $$;
"""


@dataclass
class Owner:
    """Runs verbs as the owner of the tables, who is no superuser."""

    dsn: str
    superuser: str
    rules: Path

    def listener(self, *words: str, dsn: str = "", **environment: str) -> Result:
        env = {"LISTENER_DATABASE_URL": dsn or self.dsn, "LISTENER_RULES": str(self.rules), **environment}
        return CliRunner().invoke(main, words, env=env)

    def json(self, *words: str, code: int = 0) -> Any:
        result = self.listener(*words, "-o", "json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def sql(self, statements: str, dsn: str = "") -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn or self.dsn, autocommit=True) as conn:
            cursor = conn.execute(statements.encode(), prepare=False)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def owner(database: str, tmp_path: Path) -> Iterator[Owner]:
    with psycopg.connect(database, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(
            f"""DO $$ BEGIN CREATE ROLE erp_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                GRANT CREATE ON DATABASE {name} TO erp_owner; GRANT ALL ON SCHEMA public TO erp_owner""".encode()
        )
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    owner = Owner(dsn=make_conninfo(database, user="erp_owner"), superuser=database, rules=rules)
    owner.sql(TABLES)
    yield owner
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DROP OWNED BY erp_owner CASCADE")


def catalogue(owner: Owner) -> list[tuple[Any, ...]]:
    """Everything in the database that is not PostgreSQL's own."""
    return owner.sql(
        """SELECT 'class', relnamespace::regnamespace::text, relname::text FROM pg_class WHERE oid >= 16384
            UNION ALL SELECT 'proc', pronamespace::regnamespace::text, proname::text FROM pg_proc WHERE oid >= 16384
            UNION ALL SELECT 'type', typnamespace::regnamespace::text, typname::text FROM pg_type WHERE oid >= 16384
            UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE oid >= 16384
            UNION ALL SELECT 'schema', '', nspname::text FROM pg_namespace WHERE oid >= 16384
            UNION ALL SELECT 'check', conrelid::regclass::text, conname::text FROM pg_constraint WHERE oid >= 16384
            UNION ALL SELECT 'comment', '', description FROM pg_description WHERE objoid >= 16384
            UNION ALL SELECT 'policy', polrelid::regclass::text, polname::text FROM pg_policy
            UNION ALL SELECT 'grant', relname::text, relacl::text FROM pg_class WHERE oid >= 16384
            ORDER BY 1, 2, 3""",
        owner.superuser,
    )


def changes(owner: Owner) -> list[tuple[Any, ...]]:
    owner.sql("""UPDATE public.orders SET status = 'paid';
                 INSERT INTO public."Sổ quỹ" VALUES (1, '2026-02-01', '12.50')""")
    return owner.sql("SELECT watch, op, key FROM listener.outbox ORDER BY id")


CAPTURED = [("order", "update", "DH1"), ("cash", "insert", "1/2026-02-01")]


def test_from_plan_to_uninstall(owner: Owner) -> None:
    before = catalogue(owner)
    plan = owner.json("db", "plan")
    assert plan["ok"] is False
    assert [step["what"] for step in plan["steps"] if step["step"] == "create"] == [
        "function listener.capture_order",
        "trigger +listener_order_update on public.orders",
        "function listener.capture_cash",
        "trigger +listener_cash_delete on public.Sổ quỹ",
        "trigger +listener_cash_insert on public.Sổ quỹ",
        "trigger +listener_cash_update on public.Sổ quỹ",
        "trigger ~listener_cash_mark on public.Sổ quỹ",
        "trigger +listener_cash_moved_out on public.Sổ quỹ",
        "trigger +listener_cash_moved_in on public.Sổ quỹ",
        "trigger +listener_cash_begin on public.Sổ quỹ",
        "trigger +listener_cash_vanished on public.Sổ quỹ",
        "trigger +listener_cash_end on public.Sổ quỹ",
    ]
    assert catalogue(owner) == before, "plan changes nothing"
    assert owner.json("db", "verify", code=1)["steps"] == plan["steps"]

    assert owner.listener("db", "install").exit_code == 0
    assert owner.json("db", "plan") == {"ok": True, "steps": []}
    installed = owner.sql("SELECT xmin, oid, tgname FROM pg_trigger ORDER BY oid")
    again = owner.listener("db", "install")
    assert again.exit_code == 0
    assert owner.sql("SELECT xmin, oid, tgname FROM pg_trigger ORDER BY oid") == installed, "the second time nothing"
    verified = owner.json("db", "verify")
    assert (verified["ok"], verified["faults"]) == (True, [])
    assert any("TRUNCATE public.Sổ quỹ" in warning for warning in verified["warnings"])
    assert changes(owner) == CAPTURED

    owner.sql("SET listener.mute = 'import'; UPDATE public.orders SET status = 'muted'")
    refused = owner.listener("db", "uninstall")
    assert refused.exit_code == 1 and "would be lost (changes and messages: 3)" in refused.output
    removed = owner.listener("db", "uninstall", "--yes")
    assert removed.exit_code == 0 and "nothing of listener is left" in removed.output
    assert catalogue(owner) == before
    assert owner.listener("db", "uninstall").exit_code == 0, "and again"
    owner.sql("UPDATE public.orders SET status = 'after'")


def test_the_printed_sql_does_what_install_does(owner: Owner, tmp_path: Path) -> None:
    psql = find_binaries() / "psql"
    if not psql.exists():
        pytest.skip("this PostgreSQL comes without psql")
    script = tmp_path / "listener.sql"
    script.write_text(owner.listener("db", "sql").stdout, encoding="utf-8")
    run = subprocess.run(
        [str(psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", owner.dsn, "-f", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "ERROR" not in run.stderr
    assert owner.json("db", "verify")["ok"] is True
    assert changes(owner) == CAPTURED
    assert owner.listener("db", "sql").stdout.startswith("-- nothing to do")


def test_the_printed_sql_gives_way_to_a_transaction_of_the_erp(owner: Owner) -> None:
    script = owner.listener("db", "sql").stdout
    with (
        psycopg.connect(owner.dsn) as erp,
        psycopg.connect(owner.dsn, autocommit=True) as dba,
        ThreadPoolExecutor(1) as pool,
    ):
        # It has the script wait for the second table, and then wants the first one.
        erp.execute('LOCK TABLE public."Sổ quỹ" IN ROW EXCLUSIVE MODE')
        running = pool.submit(dba.execute, script.encode())
        waits = f"SELECT 1 FROM pg_locks WHERE pid = {dba.info.backend_pid} AND NOT granted"
        while not owner.sql(waits):
            assert not running.done(), running.result()
        # PostgreSQL looks for a deadlock a second after a wait began, once: it would end who waits later than that.
        wait([running], 1.5)
        erp.execute("UPDATE public.orders SET status = 'paid'")
        erp.commit()
        assert isinstance(running.exception(), psycopg.errors.LockNotAvailable)


def test_what_the_rules_no_longer_want_is_removed(owner: Owner) -> None:
    assert owner.listener("db", "install").exit_code == 0
    lines = RULES.splitlines(keepends=True)
    owner.rules.write_text("".join(line for line in lines if not line.startswith("  cash:")), encoding="utf-8")
    plan = owner.json("db", "plan")
    assert {step["step"] for step in plan["steps"]} == {"drop"}
    assert {step["watch"] for step in plan["steps"]} == {"cash"}
    assert len(plan["steps"]) == 10
    assert owner.listener("db", "install").exit_code == 0
    assert owner.json("db", "verify")["ok"] is True
    assert changes(owner) == CAPTURED[:1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("public.orders,", "public.order,", "there is no table public.order; did you mean public.orders?"),
        ("columns: [status]", "columns: [statuss]", "public.orders has no column statuss; did you mean status?"),
        ("columns: [status]", "columns: [status], key: order_n", "public.orders has no column order_n"),
        ("{{ new.status }}", "{{ new.state }}", "public.orders has no column state"),
        ("abs(NEW.id)", "absent(NEW.id)", "where: function absent(integer) does not exist"),
        # a function of the ERP that counts on its sessions' search_path, which capture does not have
        (
            "\"NEW.status <> '$listener$ {x} %s'\"",
            "shop.is_vip(NEW.order_no)",
            'where: relation "vips" does not exist: a function called here needs the search_path',
        ),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_done(owner: Owner, old: str, new: str, said: str) -> None:
    owner.sql(SHOP)
    before = catalogue(owner)
    owner.rules.write_text(RULES.replace(old, new), encoding="utf-8")
    for verb in ("plan", "sql"):
        result = owner.listener("db", verb)
        assert result.exit_code == 1 and said in result.output, result.output
    found = owner.json("db", "verify", code=1)
    assert found["ok"] is False and said in "\n".join(found["faults"])
    assert catalogue(owner) == before
    result = owner.listener("db", "install")
    assert result.exit_code == 1 and said in result.output, result.output
    checked = owner.json("check", "--db", code=1)
    said_at = [f for f in checked["faults"] if said.split("; ")[0].removeprefix("where: ") in f["message"]]
    assert said_at and said_at[0]["line"] in range(5, 10), checked


def test_a_where_whose_function_has_a_path_of_its_own_is_installed(owner: Owner) -> None:
    owner.sql(SHOP + "ALTER FUNCTION shop.is_vip SET search_path = shop; INSERT INTO shop.vips VALUES ('DH1')")
    where = ("\"NEW.status <> '$listener$ {x} %s'\"", "shop.is_vip(NEW.order_no)")
    owner.rules.write_text(RULES.replace(*where), encoding="utf-8")
    assert owner.listener("db", "install").exit_code == 0
    owner.sql("UPDATE public.orders SET status = 'paid'")
    assert owner.sql("SELECT key FROM listener.outbox") == [("DH1",)]


def test_missing_rights_are_named(owner: Owner) -> None:
    name = owner.sql("SELECT current_database()")[0][0]
    owner.sql(f"REVOKE CREATE ON DATABASE {name} FROM erp_owner", owner.superuser)
    result = owner.listener("db", "install")
    assert result.exit_code == 1 and "permission denied for database" in result.output
    assert f'let the database\'s owner run GRANT CREATE ON DATABASE "{name}" TO "erp_owner"' in result.output
    owner.sql(f"GRANT CREATE ON DATABASE {name} TO erp_owner", owner.superuser)

    owner.sql("ALTER TABLE public.orders OWNER TO postgres", owner.superuser)
    result = owner.listener("db", "install")
    assert result.exit_code == 1
    assert "trigger +listener_order_update on public.orders: permission denied" in result.output
    assert "as the owner of the table" in result.output
    faults = owner.json("check", "--db", code=1)["faults"]
    assert any("public.orders belongs to another role" in fault["message"] for fault in faults)

    owner.sql(
        """DO $$ BEGIN CREATE ROLE other LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$""", owner.superuser
    )
    result = owner.listener("db", "plan", dsn=make_conninfo(owner.dsn, user="other"))
    assert result.exit_code == 1 and "permission denied" in result.output


def test_a_database_that_quotes_all_names_is_in_order_after_the_install(owner: Owner) -> None:
    (name,) = owner.sql("SELECT current_database()")[0]
    owner.sql(
        f"""ALTER DATABASE {name} SET quote_all_identifiers = on;
            DO $$ BEGIN CREATE ROLE sender LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$""",
        owner.superuser,
    )
    assert owner.listener("db", "install", "--daemon-role", "sender").exit_code == 0
    assert owner.json("db", "plan") == {"ok": True, "steps": []}


@pytest.mark.parametrize(
    ("grantee", "said"),
    [
        ("pg_monitor", "permission denied for table ddl_log (in function audit())"),
        # where our own functions make tables, on a path of their own
        ("PUBLIC", 'relation "ddl_log" does not exist (in function audit())'),
    ],
)
def test_an_event_trigger_that_fails_is_told_as_what_it_is(owner: Owner, grantee: str, said: str) -> None:
    owner.sql(
        f"""CREATE TABLE public.ddl_log (tag text);
            GRANT INSERT ON public.ddl_log TO {grantee};
            CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql AS
                $$BEGIN INSERT INTO ddl_log VALUES (tg_tag); END$$;
            CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION public.audit()""",
        owner.superuser,
    )
    result = owner.listener("db", "install")
    assert result.exit_code == 1 and f"migration 0001_listener: {said}" in result.output, result.output
    assert "GRANT" not in result.output
    owner.sql("DROP EVENT TRIGGER audit", owner.superuser)
    assert owner.listener("db", "install").exit_code == 0


@pytest.mark.parametrize("table", ["mine", "migration"])
def test_a_schema_of_that_name_that_is_not_ours_is_left_alone(owner: Owner, table: str) -> None:
    owner.sql(f"CREATE SCHEMA listener; CREATE TABLE listener.{table} (id int)")
    for verb in ("plan", "install", "verify", "uninstall"):
        result = owner.listener("db", verb)
        assert result.exit_code == 1, result.output
        assert "has a schema `listener` that this program did not make: rename it" in result.output
    assert owner.sql(f"SELECT count(*) FROM listener.{table}") == [(0,)]


def test_a_table_that_stays_locked_is_said_so(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.capture.install._TRIES", 2)
    with psycopg.connect(owner.dsn) as busy:
        busy.execute("LOCK TABLE public.orders IN ROW EXCLUSIVE MODE")
        result = owner.listener("db", "install")
    assert result.exit_code == 1
    assert "+listener_order_update on public.orders: the table is locked by others" in result.output
    assert owner.listener("db", "install").exit_code == 0, "what was done stays done, the rest is done now"
    assert owner.json("db", "verify")["ok"] is True


def test_a_lock_on_our_own_tables_is_no_lost_connection(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, str], database_module._SESSION), "lock_timeout", "100ms")
    assert owner.listener("db", "install").exit_code == 0
    with psycopg.connect(owner.dsn) as busy:
        busy.execute("LOCK TABLE listener.migration IN ACCESS EXCLUSIVE MODE")
        result = owner.listener("db", "verify")
    assert result.exit_code == 1 and "in time" in result.output, result.output


def test_a_newer_or_changed_schema_is_not_touched(owner: Owner) -> None:
    assert owner.listener("db", "install").exit_code == 0
    owner.sql("INSERT INTO listener.migration (number, name, sha256) VALUES (9999, '9999_later', '')")
    result = owner.listener("db", "install")
    assert result.exit_code == 1 and "newer than this program" in result.output
    owner.sql("DELETE FROM listener.migration WHERE number = 9999; UPDATE listener.migration SET sha256 = 'x'")
    result = owner.listener("db", "verify")
    assert result.exit_code == 1 and "is not the one of this program" in result.output


def test_a_schema_of_an_older_version_is_told_with_its_cure(owner: Owner) -> None:
    assert owner.listener("db", "install").exit_code == 0
    owner.sql("DELETE FROM listener.migration WHERE number >= 5; ALTER TABLE listener.calendar DROP failing_since")
    result = owner.listener("status")
    assert result.exit_code == 1 and "run `listener db install` once" in result.output, result.output


def test_an_upgrade_by_hand_waits_for_no_lock_for_as_long_as_the_triggers_do(owner: Owner) -> None:
    assert "lock_timeout = '800ms'" in owner.listener("db", "sql").stdout
    assert owner.listener("db", "install").exit_code == 0
    owner.sql("DELETE FROM listener.migration WHERE number = (SELECT max(number) FROM listener.migration)")
    assert "lock_timeout = '100ms'" in owner.listener("db", "sql").stdout


def test_no_database_is_exit_code_4(owner: Owner) -> None:
    nowhere = "host=127.0.0.1 port=1 dbname=x user=y password=geheim"
    for verb in ("plan", "install", "verify", "uninstall", "sql"):
        result = owner.listener("db", verb, dsn=nowhere)
        assert result.exit_code == 4 and "out of reach" in result.output, (verb, result.output)
        assert "geheim" not in result.output


def test_history_is_never_replayed_by_an_install(owner: Owner) -> None:
    owner.sql("INSERT INTO public.orders SELECT n::text, 'new', '0980000000' FROM generate_series(1, 1000) n")
    for _ in range(2):
        assert owner.listener("db", "install").exit_code == 0
        assert owner.sql("SELECT count(*) FROM listener.outbox") == [(0,)]
        assert owner.listener("db", "uninstall", "--yes").exit_code == 0


async def test_who_installs_while_another_does_waits_and_finds_it_done(erp_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=erp_database, rules=tmp_path / "rules.yaml")
    rules = compile_rules(parse(rules_text(), "rules.yaml"))
    first: list[str] = []
    second: list[str] = []
    async with (
        await connect(settings, "first") as one,
        # as a replica's, whose locks on the ERP's tables must be short
        await connect(settings, "second", lock_timeout="100ms") as other,
        await connect(settings, "looks") as looks,
        await psycopg.AsyncConnection.connect(erp_database) as erp,
    ):
        await erp.execute("LOCK TABLE public.orders")
        installing = [asyncio.create_task(install(one, rules, settings, first.append))]
        async with asyncio.timeout(PATIENCE):
            while not any("the table is busy" in line for line in first):
                await asyncio.sleep(0.01)
            installing.append(asyncio.create_task(install(other, rules, settings, second.append)))
            waits = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while (await (await looks.execute(waits)).fetchone() or {})["n"] == 0:
                assert not installing[-1].done()
                await asyncio.sleep(0.01)
            # longer than that replica waits for a table
            await asyncio.sleep(0.2)
            await erp.rollback()
            await asyncio.gather(*installing)
    assert "create trigger +listener_order_status_update on public.orders" in first
    assert second == []
