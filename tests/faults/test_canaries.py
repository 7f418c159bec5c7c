"""F80 and I8: a token, passwords, a phone, a name and a text that are in every input are in no output of a run of
faults.

Inputs: the environment, the rules file and what replaces it, rows and keys of the ERP, lookups and `ticket.save` that
fail over them, the gateway's answers, the page's forms. Outputs: what replicas and verbs print, metrics, health, the
page without a session and for who may only look, the process list, the limit for core files.
"""

import asyncio
import contextlib
import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import aiohttp
import psycopg
from psycopg.conninfo import make_conninfo

from listener.simulator.gateway import Answer, Break, Fault, GatewaySettings, Moment
from tests.faults.plan import gateway_faults
from tests.support.browser import Person, person
from tests.support.world import World, open_world

TOKEN = "canary7token7f3a9"
PASSWORD = "canary7password7c2"
ADMIN, VIEW = "canary7admin7d4", "canary7view7e5"
DIGITS = "987654321"
PHONE = f"0{DIGITS}"
NAME = "Canary Đặng Thị Ướt"
PLAIN_NAME = "Canary Dang Thi Uot"
TEXT = "canary7text7b8"
CANARIES = (TOKEN, PASSWORD, ADMIN, VIEW, DIGITS, "987 654 321", "987.654.321", NAME, PLAIN_NAME, TEXT)

RULES = """
version: 1
accounts:
  main: {domain: acme, token: "${CANARY_TOKEN}", service_id: 12, rate: 100/s}
defaults: {account: main, max_parts: 4}
watch:
  note:
    table: public.notes
    events: [insert]
    key: topic
    lookup:
      bad: SELECT %(body)s::text::integer AS n
      twin: SELECT count(*) AS n FROM public.notes WHERE phone = %(phone)s
rules:
  plain: {on: note, to: new.phone, text: "{{ new.body }}", ticket: {thread: new.topic, save: "SAVE"}}
  lookup: {on: note, to: new.phone, text: "{{ bad.n }} {{ new.body }}"}
  value: {on: note, to: new.phone, text: "{{ new.body | vnd }}"}
  label: {on: note, to: new.phone, text: "{{ new.body | label('words') }}"}
  long: {on: note, to: new.phone, text: "{{ new.body * 99 }}", max_parts: 1}
  twin: {on: note, when: twin.n < 0, to: new.phone, text: x}
  nobody: {on: note, to: new.body, text: "{{ new.body }}"}
labels: {words: {a: b}}
""".replace("SAVE", "UPDATE public.notes SET saved_ticket = body::bigint + %(ticket_id)s WHERE id = %(id)s")

# refused, with everything that a person might have typed into the wrong place
BROKEN = f"""
version: 1
accounts:
  main: {{domain: acme, token: {TOKEN}, service_id: 12}}
rules:
  plain: {{on: note, to: "'{PHONE}", text: "{{{{ {TEXT}"}}
"""


def found(output: str) -> list[str]:
    """The canaries that an output holds, however it writes them."""
    plain = html.unescape(output)
    with contextlib.suppress(UnicodeDecodeError):
        plain += output.encode().decode("unicode_escape", "replace")
    return [
        canary
        for canary in CANARIES
        if canary in plain or quote(canary) in output or json.dumps(canary)[1:-1] in output
    ]


def assert_none(where: str, output: str) -> None:
    hits = found(output)
    around = (
        re.findall(f".{{0,90}}(?:{'|'.join(map(re.escape, hits))}).{{0,30}}", html.unescape(output)) if hits else []
    )
    assert not hits, f"{where} holds {hits}: {around[:3]}"


def test_a_canary_is_found_however_it_is_written() -> None:
    for output in (f"x{TOKEN}x", json.dumps({"a": NAME}), html.escape(f"<{NAME}>"), quote(NAME), f"+84 {DIGITS}"):
        assert found(output), output
    assert found("098***321 canary") == []


async def business(world: World, stopping: asyncio.Event) -> None:
    """Rows with canaries in each column, a few a second; what the ERP itself may refuse is no matter."""
    n = 0
    async with await psycopg.AsyncConnection.connect(world.settings.database_url, autocommit=True) as erp:
        while not stopping.is_set():
            n += 1
            await erp.execute(
                "INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, %s)",
                [PHONE if n % 7 == 0 else f"DH{n % 20}", f"{TEXT} {NAME} {PHONE} {n}", PHONE],
            )
            await asyncio.sleep(0.05)


async def run_of_faults(world: World, environment: dict[str, str]) -> None:
    """Every kind of end first; then replicas are killed, cut off and given bad rules and answers while business goes
    on."""
    words = f"no {PHONE} {NAME} {TEXT} Bearer {TOKEN}"
    world.gateway.add_fault(Fault(action=Answer(status=400, message=words), content="refused"))
    world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), content="unclear"))
    first = await world.replica(**environment)
    for kind in ("refused", "unclear", "sent"):
        await world.note(f"{kind} {PHONE}", f"{TEXT} {NAME} {kind}", phone=PHONE)
    await world.until(
        "SELECT count(*) = 3 FROM listener.messages "
        "WHERE rule = 'plain' AND state IN ('accepted', 'rejected', 'unknown')"
    )
    await first.said('"ticket_save_failed"')
    for status in (401, 404, 422, 429, 500):
        fault = Fault(action=Answer(status=status, message=words), probability=0.02, times=3, seed=status)
        world.gateway.add_fault(fault)
    for fault in gateway_faults(1, 0.1):
        world.gateway.add_fault(fault)
    good = world.settings.rules.read_text()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(business(world, stopping))
        await world.replica(wait=False, **{**environment, "LISTENER_LOG": "text"})
        await asyncio.sleep(1.5)
        await world.db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'listener %' AND application_name <> 'listener test' "
            "AND datname = current_database()"
        )
        world.settings.rules.write_text(BROKEN)
        await first.said('"rules_refused"')
        world.settings.rules.write_text(good)
        await first.kill()
        await world.replica(**environment)
        await asyncio.sleep(1)
        stopping.set()


def addresses(logs: str) -> list[str]:
    """Where replicas serve, by what they said."""
    return re.findall(r"http://127\.0\.0\.1:\d+", logs)


async def pages(somebody: Person) -> Iterator[tuple[str, str]]:
    """Every page that links lead to from the first one, as far as 60."""
    seen: dict[str, str] = {}
    waiting = ["/", f"/messages?q={PHONE}", f"/story?q={PHONE}", f"/messages.csv?q={PHONE}", "/audit"]
    while waiting and len(seen) < 60:
        path = waiting.pop(0)
        if path in seen:
            continue
        answer = await somebody.get(path)
        # what was asked for is repeated to whoever asked
        seen[path] = answer.text.replace(f"q={PHONE}", "").replace(f'value="{PHONE}"', "")
        links = re.findall(r'href="(/[^"]*)"', answer.text)
        waiting += [html.unescape(link) for link in links if not link.startswith("/static")]
    return iter(seen.items())


async def verbs(environment: dict[str, str]) -> list[tuple[str, str]]:
    """What verbs say when they fail, by the variable that is wrong."""
    said = []
    for words, wrong in (
        (["status"], {"LISTENER_DATABASE_URL": f"postgresql://a:{PASSWORD}@127.0.0.1:1/erp"}),
        (["status"], {"LISTENER_DATABASE_URL": f"postgresql://a:{PASSWORD}@{PASSWORD}@127.0.0.1:1/erp"}),
        (["status"], {"LISTENER_DATABASE_URL": f"password={PASSWORD} x"}),
        (["run", "--once"], {"CANARY_TOKEN": f"{TOKEN} {TOKEN}"}),
        (["run", "--once"], {"LISTENER_CARESOFT_URL": f"https://user:{PASSWORD}@api.example"}),
        (["check", "--db"], {}),
        (["status"], {}),
        (["messages"], {}),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from listener.cli import main; main()", *words,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**environment, **wrong},
        )  # fmt: skip
        out, err = await process.communicate()
        # Whoever may read the database is shown texts and the gateway's words; errors go to everybody's logs.
        shown = b"" if words[0] in ("messages", "status") and not wrong else out
        said.append((" ".join(words), (shown + err).decode()))
    return said


async def test_f80_no_canary_is_in_any_output_of_a_run_of_faults(erp_database: str) -> None:
    """F80, I8: 0 hits for every canary."""
    settings = GatewaySettings(token=TOKEN, per_second=None, per_hour=None)
    async with open_world(erp_database, rules=RULES, gateway=settings) as world:
        await world.db.execute(f"CREATE ROLE canary_daemon SUPERUSER LOGIN PASSWORD '{PASSWORD}'".encode())
        try:
            dsn = make_conninfo(erp_database, user="canary_daemon", password=PASSWORD)
            world.settings = replace(world.settings, database_url=dsn, http_timeout=1.0)
            environment = {
                "CANARY_TOKEN": TOKEN,
                "LISTENER_ADMIN_TOKEN": ADMIN,
                "LISTENER_VIEW_TOKEN": VIEW,
                "PYTHONASYNCIODEBUG": "1",
                "PYTHONDEVMODE": "1",
            }
            await run_of_faults(world, environment)
            await outputs(world, environment)
        finally:
            for replica in world.replicas:
                await replica.kill()
            await world.db.execute("DROP ROLE canary_daemon")


async def outputs(world: World, environment: dict[str, str]) -> None:
    """Looks into everything that is to be seen of a world where faults have been."""
    # Every kind of end was met, or nothing is shown by what follows.
    states = {row["state"] for row in await world.rows("SELECT DISTINCT state FROM listener.messages")}
    assert states >= {"accepted", "rejected", "unknown"}
    assert found(json.dumps([row["text"] for row in await world.messages()]))
    alive = [replica for replica in world.replicas if replica.process.returncode is None]
    assert len(alive) == 2
    for replica in alive:
        await replica.said("serving")
        proc = Path(f"/proc/{replica.pid}")
        assert_none("the process list", (proc / "cmdline").read_text() + (proc / "comm").read_text())
        assert re.search(r"Max core file size\s+0\s+0", (proc / "limits").read_text())
    for address in {a for replica in alive for a in addresses(replica.log.read_text())}:
        async with aiohttp.ClientSession() as http:
            for path in ("/metrics", "/healthz", "/readyz", "/login", "/", "/messages", f"/story?q={quote(NAME)}"):
                async with http.get(address + path) as response:
                    body = await response.text() + str(dict(response.headers))
                    assert_none(f"{path} without a session", body)
            async with http.post(f"{address}/login", data={"token": f"{TOKEN}{PASSWORD}", "name": NAME}) as response:
                assert_none("a refused login", await response.text())
        async with person(address, VIEW) as somebody:
            visited = dict(await pages(somebody))
            assert len(visited) > 15
            for path, text in visited.items():
                assert_none(f"{path} for who may only look", text)
    whole = {**world.environment(), **environment, "PATH": "/usr/bin:/bin"}
    for words, said in await verbs(whole):
        assert_none(f"listener {words}", said)
    for replica in alive:
        await replica.said("login_refused")
    logs = world.logs()
    assert all(event in logs for event in ("rules_refused", "ticket_save_failed", "login_refused"))
    assert_none("the logs", logs)
