"""E: what the ERP and the rules file may hold, through a real daemon: each is told, or refused with a reason, and stops
nothing else. (F62 to F68; F69 is in tests/unit/test_quiet.py.)"""

import asyncio
import json
from time import monotonic

import pytest

from listener.errors import RulesError
from listener.rules import parse
from tests.support.verbs import verb
from tests.support.world import PHONE, open_world, rules_text

FORMAT = "this is not one phone number: it may hold digits, spaces, dots, dashes and brackets, and no more"
LENGTH = "the number of digits is wrong; a Vietnamese mobile number has 10"
FOREIGN = "this is a number of another country"
SERVICE = "1800 and 1900 numbers are services and cannot receive SMS"
NONE = "there is no phone number"

# what stands in the ERP's column: the number that is sent to, or why it is refused
PHONES: dict[str | None, str] = {
    "": NONE,
    None: NONE,
    "   ": NONE,
    "khong co": FORMAT,
    "+49151234567": f"{FOREIGN}; it reads 491***567",
    "0049151234567": f"{FOREIGN}; it reads 004***567",
    "0151234567": "a Vietnamese mobile number begins with 03, 05, 07, 08 or 09; it reads 015***567",
    "\u00a00912\u00a0345\u00a0678": "0912345678",
    "٠٩١٢٣٤٥٦٧٨": FORMAT,
    "０９１２３４５６７８": "0912345678",
    "113": LENGTH,
    "9" * 200: f"{LENGTH}; it reads 999***999",
    "0912345678; 0987654321": f"{FORMAT}; it reads 091***321",
    "+84 (0)912 345 678": "0912345678",
    "19001234": SERVICE,
    "8079": LENGTH,
    "0912345678\r\nX: y": f"{FORMAT}; it reads 091***678",
    "0912.345.678": "0912345678",
}


async def test_f62_phone_numbers(erp_database: str) -> None:
    """F62: 18 of 18 as in the table; nothing is requested for those refused; the key goes on."""
    assert len(PHONES) == 18
    async with open_world(erp_database) as world, world.service():
        for n, phone in enumerate(PHONES):
            await world.note("one thread", f"text {n}", phone=phone)  # type: ignore[arg-type]
        await world.note("one thread", "the last")
        await world.settled()
        rows = await world.rows("SELECT * FROM listener.messages WHERE text <> 'the last' ORDER BY change_id")
        found = [row["phone"] if row["state"] == "accepted" else row["reason"] for row in rows]
        assert found == list(PHONES.values())
        wanted = [f"text {n}" for n, said in enumerate(PHONES.values()) if said.isdigit()]
        assert world.arrived() == [*wanted, "the last"]


# a text of the ERP: what is sent of it, or why it is refused
TEXTS: dict[str, str | None] = {
    "": None,
    "   ": None,
    "x" * 5000: None,
    "Cam on \U0001f389 Quy khach": "Cam on  Quy khach",
    "Đặng Thị Ướt".encode().decode(): "Dang Thi Uot",
    "Đa\u0323\u0306ng": "Dang",
    "a\u202egnp.exe\u202cb": "agnp.exeb",
    "a\u0001\u0007\u001b[31mb": "a[31mb",
    "[a] {b} ^c~ \\d|": "[a] {b} ^c~ \\d|",
    "a\r\nb\rc": "a\nb\nc",
    "gi\u00e1\u00a01.000\u20ab": "gia 1.000VND",
    "\u201cxin\u201d \u2013 ch\u00e0o\u2026": '"xin" - chao...',
}


async def test_f63_message_texts(erp_database: str) -> None:
    """F63: 12 of 12 as in the table, the same on every replica; what is refused has a reason and no request.

    NUL and lone surrogates cannot be in a text of PostgreSQL's; what a template makes of them is in test_text.py."""
    assert len(TEXTS) == 12
    rules = rules_text(defaults="max_parts: 4").replace("max_parts: 4\n  expires", "expires")
    async with open_world(erp_database, rules=rules) as world, world.service(), world.service():
        for n, text in enumerate(TEXTS):
            await world.note(f"t{n}", text)
        await world.note("t0", "goes on")
        await world.settled()
        found = {row["key"]: row for row in await world.messages() if row["text"] != "goes on"}
        for n, sent in enumerate(TEXTS.values()):
            row = found[f"t{n}"]
            assert (row["text"] if row["state"] == "accepted" else None) == sent, row
            assert row["state"] == "accepted" or row["reason"].startswith("the text is")
        assert sorted(world.arrived()) == sorted([*filter(None, TEXTS.values()), "goes on"])


# a type and a value of it: what `{{ new.x }}` makes of it, or the reason that it is refused for
NO_TEXT = "has no text of its own"
ODD: tuple[tuple[str, str, str], ...] = (
    ("numeric", "'NaN'", "NaN"),
    ("double precision", "'Infinity'", "Infinity"),
    ("double precision", "1e308", "1" + "0" * 308),
    ("numeric", "12345678901234567890123", "12345678901234567890123"),
    ("timestamptz", "'infinity'", "infinity"),
    ("timestamp", "'0001-01-01'", "0001-01-01T00:00:00"),
    ("date", "'0044-03-15 BC'", "0044-03-15 BC"),
    ("bytea", "'\\xdeadbeef'", "\\xdeadbeef"),
    ("integer[]", "'{1,2}'", NO_TEXT),
    ("public.pair", "ROW(1, 'b')", NO_TEXT),
    ("public.short_text", "'domain'", "domain"),
    ("jsonb", """'{"a": [1, null]}'""", NO_TEXT),
    ("boolean", "true", "true"),
    ("inet", "'10.0.0.1'", "10.0.0.1"),
    ("text GENERATED ALWAYS AS ('made of ' || id) STORED", "DEFAULT", "made of 1"),
)
COLUMN = 'Số "dư" cuối;'


async def test_f64_odd_values_and_names(erp_database: str) -> None:
    """F64: 15 of 15 as in the table, no error in the ERP; the column is called as no column should be."""
    assert len(ODD) == 15
    schema = (
        "CREATE TYPE public.pair AS (a int, b text); CREATE DOMAIN public.short_text AS text CHECK (length(value) < 9);"
    )
    quoted = '"' + COLUMN.replace('"', '""') + '"'
    name = json.dumps(COLUMN, ensure_ascii=False)
    rules = (
        "version: 1\naccounts: {main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: 500/s}}\nwatch:\n"
    )
    told = "rules:\n"
    for n, (kind, _, _) in enumerate(ODD):
        schema += f'CREATE TABLE public."T {n}" (id int PRIMARY KEY, {quoted} {kind}, phone text);'
        rules += f"  w{n}: {{table: 'public.\"T {n}\"', events: [insert]}}\n"
        told += (
            f"""  r{n}: {{on: w{n}, to: new.phone, accents: keep, max_parts: 4, text: 'v {{{{ new[{name}] }}}}'}}\n"""
        )
    async with open_world(erp_database, rules=rules + told, schema=schema) as world, world.service():
        for n, (_, value, _) in enumerate(ODD):
            await world.db.execute(
                f'INSERT INTO public."T {n}" (id, {quoted}, phone) VALUES (1, {value}, %s)'.encode(), [PHONE]
            )
        await world.settled()
        found = {row["rule"]: row for row in await world.messages()}
        for n, (kind, _, want) in enumerate(ODD):
            row = found[f"r{n}"]
            said = row["reason"] if want is NO_TEXT else row["text"]
            assert (said or "").endswith(want if want is NO_TEXT else f"v {want}"), (kind, row["text"], row["reason"])
        failures = await world.one("SELECT is_called FROM listener.capture_failures")
        assert not failures["is_called"]


POISON = """
  absent: {on: note, to: new.phone, text: "{{ new.ticket_id + 1 }}"}
  division: {on: note, to: new.phone, text: "{{ 1 / (new.body | length - 6) }}"}
  type: {on: note, to: new.phone, text: "{{ new.body | vnd }}"}
  memory: {on: note, to: new.phone, text: "{% set x = new.body * 9999 %}{% set x = x ~ x ~ x %}{{ x * 9999 }}"}
  endless:
    on: note
    to: new.phone
    text: "{% for i in range(new.body | length * 500) %}{% for j in range(4999) %}x{% endfor %}{% endfor %}"
"""


async def test_f65_poison_stops_nobody(erp_database: str) -> None:
    """F65: each poisoned message is rejected with its reason; those beside it go at once; no process ends.

    No row can end the process: memory and loops of a text are bounded, so there is nothing to count before it is tried
    again. What the database itself will not take is in test_postgres_poison.py."""
    async with open_world(erp_database, rules=rules_text() + POISON) as world, world.service() as service:
        await world.note("a", "poison")
        await world.note("b", "beside it")
        await world.settled()
        rows = await world.messages()
        told = sorted(row["text"] for row in rows if row["state"] == "accepted")
        assert [text[:9] for text in told] == ["0.3333333", "beside it", "poison"]
        rejected = [row for row in rows if row["state"] == "rejected"]
        assert len(rejected) == 9
        assert all(row["reason"] for row in rejected)
        assert not service.stopping.is_set()


def bad_files(good: str) -> dict[str, bytes]:
    """Twelve files that nobody should follow."""
    return {
        "syntax": good.replace("rules:", "rules: [").encode(),
        "unknown key": good.replace("to: new.phone", "too: new.phone").encode(),
        "duplicate key": good.replace("    on: note\n", "    on: note\n    on: note\n").encode(),
        "tabs": good.replace("    on: note", "\ton: note").encode(),
        "other encoding": good.encode("utf-16"),
        "10 MB": (good + "# " + "x" * 10_000_000).encode(),
        "nested": (good + "x: " + "[" * 5000).encode(),
        "alias bomb": (
            good + "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))
        ).encode(),
        "object": (good + "x: !!python/object/apply:os.system ['touch /tmp/owned']\n").encode(),
        "merge key": good.replace("  note:\n    on", "  note:\n    <<: {cap: 1/day}\n    on").encode(),
        "cut off": good[: len(good) * 2 // 3].encode(),
        "empty": b"",
    }


async def test_f66_a_bad_file_changes_nothing(erp_database: str) -> None:
    """F66: 12 of 12 are refused with line and column, at once; the old rules go on in every replica. Also a file that
    is gone, or a folder. (Seconds and megabytes: test_rules_source.py.)"""
    async with open_world(erp_database) as world, world.service(), world.service():
        good = world.settings.rules.read_text()
        bad = bad_files(good)
        assert len(bad) == 12
        for name, content in bad.items():
            world.settings.rules.write_bytes(content)
            began = monotonic()
            said = await verb(world.environment(), "check")
            assert said.code == 1, name
            assert f"{world.settings.rules}:" in said.err + said.out, name
            assert monotonic() - began < 5, name
        await world.until("SELECT faults <> '[]' FROM listener.fleet")
        world.settings.rules.unlink()
        await world.note("a", "without a file")
        world.settings.rules.mkdir()
        await world.settled()
        await world.note("a", "with a folder")
        await world.settled()
        assert world.arrived() == ["without a file", "with a folder"]
        assert await world.rows("SELECT version FROM listener.rules") == [{"version": 1}]
        world.settings.rules.rmdir()
        world.settings.rules.write_text(good.replace('"{{ new.body }}"', '"new: {{ new.body }}"'))
        await world.until("SELECT rules_version = 2 AND faults = '[]' FROM listener.fleet")


@pytest.mark.parametrize("written", ["+49151234567", "22:30", "010", "no", "on", "1e3", "2026-01-02", "~"])
def test_f67_yaml_converts_nothing_in_silence(written: str) -> None:
    """F67: 8 of 8 are kept as they are written, or refused with a hint to quote."""
    text = (
        rules_text().replace("TOKEN_FILE", "token")
        + f"labels: {{codes: {{{written if written != '~' else 'x'}: {written}}}}}\n"
    )
    try:
        found = parse(text, "rules.yaml")
    except RulesError as error:
        assert '"~"' in str(error), error
    else:
        assert found.labels["codes"] == {written: written}


async def test_f68_replicas_with_different_rules(erp_database: str) -> None:
    """F68: one of three files is changed: the newest text wins for all, no change is told twice or by half."""
    async with open_world(erp_database) as world:
        good = world.settings.rules.read_text()
        files = [world.folder / f"rules{n}.yaml" for n in range(3)]
        for file in files:
            file.write_text(good)
        async with world.service(rules=files[0]), world.service(rules=files[1]), world.service(rules=files[2]):
            stopping = asyncio.Event()

            async def business() -> int:
                n = 0
                while not stopping.is_set():
                    await world.note(f"t{n}", f"n{n};")
                    n += 1
                    await asyncio.sleep(0.01)
                return n

            writing = asyncio.create_task(business())
            files[1].write_text(good.replace('"{{ new.body }}"', '"new: {{ new.body }}"'))
            await world.until("SELECT rules_version = 2 FROM listener.fleet")
            await world.until("SELECT EXISTS (SELECT FROM listener.messages WHERE text LIKE 'new: %')")
            stopping.set()
            written = await writing
            await world.settled()
        rows = await world.rows("SELECT text, rules_version FROM listener.messages ORDER BY id")
        assert len(rows) == written
        assert all(row["text"].startswith("new: ") == (row["rules_version"] == 2) for row in rows)
        versions = [row["rules_version"] for row in rows]
        assert versions == sorted(versions)
        assert sorted(world.arrived()) == sorted(row["text"] for row in rows)
