"""F82: every fault of the database and of the gateway turns the right lights within a minute, and nothing personal is
told to anybody who has not logged in.

The lights are the sentence of the first screen, `/healthz` and `/metrics`. What is waited for out of patience (parts
that stand still, changes that nobody looks at) is waited for less long here; `LISTENER_LONG=1` waits in earnest.
"""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from listener import doorbell
from listener.simulator.gateway import Answer, Break, Fault, GatewaySettings, Moment, Port
from listener.simulator.postgres import Server
from listener.web import concerns, health, metrics, overview_page
from tests.faults.test_soak import LONG
from tests.support.browser import ADMIN, Person, person
from tests.support.proxy import Connection, Direction, Mode, Proxy
from tests.support.world import World, open_world, rules_text

WITHIN = 60.0
PHONE, NAME = "0912345678", "canary-of-lan"
OURS = "datname = current_database() AND application_name LIKE 'listener %' AND application_name <> 'listener test'"
LEFT = """SELECT current_setting('max_connections')::int - count(*) AS n FROM pg_stat_activity
           WHERE backend_type = 'client backend'"""
# before the fixture makes them shorter
IN_EARNEST = {
    "told": metrics._OLD + overview_page._FRESH,
    "stands still": health.STALE,
    "not looked at": concerns.UNMATCHED,
    # rung, and rung again when the first was not heard
    "not heard": 2 * doorbell.SELF_TEST,
    "not captured": overview_page._GAPS_FRESH,
}
PASSES_LATE = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # what is asked for is shared and kept for a moment, which is no part of what is tested
    monkeypatch.setattr(overview_page, "_FRESH", 0.1)
    monkeypatch.setattr(overview_page, "_GAPS_FRESH", 0.1)
    monkeypatch.setattr(metrics, "_FRESH", 0.1)
    monkeypatch.setattr(metrics, "_OLD", 0.1)
    if not LONG:
        monkeypatch.setattr(health, "STALE", 3.0)
        monkeypatch.setattr(concerns, "UNMATCHED", 1.0)
        monkeypatch.setattr(doorbell, "SELF_TEST", 0.3)


def test_patience_in_earnest_ends_within_a_minute() -> None:
    """What the fixture makes shorter, as it is: how long until it is noticed, and until it is told."""
    told = IN_EARNEST["told"]
    for name in ("stands still", "not looked at", "not heard", "not captured"):
        assert IN_EARNEST[name] + told < WITHIN, name


@dataclass(slots=True)
class Lights:
    """A running replica, and somebody who looks at it: logged in, and not."""

    world: World
    boss: Person
    anybody: aiohttp.ClientSession
    address: str

    async def sentence(self) -> str:
        """The first screen's verdict and what needs a person, or the words of the page that stands for it."""
        answer = await self.boss.get("/")
        said = re.findall(
            r'class="sentence">([^<]*)<|<h1>([^<]*)</h1>|aria-hidden="true">[✕!]</span><span>([^<]*)<', answer.text
        )
        return html.unescape(" | ".join(one for words in said for one in words if one))

    async def metrics(self) -> dict[tuple[str, str], float]:
        """Values by name and the values of their labels."""
        text = await self._open("/metrics")
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def healthy(self) -> bool:
        await self._open("/readyz")
        async with self.anybody.get(f"{self.address}/healthz") as answer:
            self._nothing_personal(await answer.text())
            return answer.status == 200

    async def show(self, words: str, metric: str, value: float, *labels: str, healthy: bool = True) -> None:
        """Waits until all three lights say so. Raises TimeoutError, with what they said last."""
        last: object = None
        try:
            async with asyncio.timeout(WITHIN):
                while True:
                    said, figures = await self.sentence(), await self.metrics()
                    shown, well = figures.get((metric, ",".join(labels)), None), await self.healthy()
                    last = said, shown, well
                    if words in said and shown is not None and shown >= value and well == healthy:
                        break
                    if value == 0 and words in said and shown == 0 and well == healthy:
                        break
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(last) from None
        await self._open("/login")
        await self._open("/")

    async def _open(self, path: str) -> str:
        async with self.anybody.get(f"{self.address}{path}") as answer:
            text = await answer.text()
        self._nothing_personal(text)
        return text

    def _nothing_personal(self, text: str) -> None:
        for canary in (PHONE, PHONE[1:], NAME, ADMIN, self.world.token_file.read_text()):
            assert canary not in text


@asynccontextmanager
async def lights(world: World, **settings: Any) -> AsyncIterator[Lights]:
    """A replica of the world and all who look at it."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(world.service(admin_token=ADMIN, **settings))
        assert service.address is not None
        boss = await stack.enter_async_context(person(service.address))
        anybody = await stack.enter_async_context(aiohttp.ClientSession())
        found = Lights(world=world, boss=boss, anybody=anybody, address=service.address)
        await found.show("Sẵn sàng", "listener_database_up", 1)
        yield found


# -- the gateway

GATEWAY: Mapping[str, tuple[Callable[[World], Any], str, str]] = {
    "rate": (
        lambda w: w.gateway.add_fault(Fault(action=Answer(status=429), times=None)),
        "CareSoft báo quá nhiều yêu cầu",
        "rate",
    ),
    "lockout": (lambda w: w.gateway.block(3600), "CareSoft khóa tài khoản trong 15 phút", "lockout"),
    "token": (
        lambda w: w.gateway.add_fault(Fault(action=Answer(status=401), times=None)),
        "CareSoft từ chối token (401)",
        "token",
    ),
    "path": (
        lambda w: w.gateway.add_fault(
            Fault(action=Answer(status=404, message=f"no such thing for {NAME} {PHONE}"), times=None)
        ),
        "CareSoft trả lời 404",
        "config",
    ),
    "redirect": (
        lambda w: w.gateway.add_fault(
            Fault(action=Answer(status=307, headers={"Location": "https://elsewhere.example/"}), times=None)
        ),
        "CareSoft trả lời 307",
        "config",
    ),
    "unreachable": (lambda w: w.gateway.refuse(Port.PRIMARY), "không kết nối được với CareSoft", "unreachable"),
    "black hole": (
        lambda w: w.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_EFFECT), times=None)),
        "CareSoft không trả lời rõ ràng",
        "unsure",
    ),
}


@pytest.mark.parametrize("fault", GATEWAY)
async def test_a_gateway_that_does_not_take_messages(erp_database: str, fault: str) -> None:
    break_it, words, kind = GATEWAY[fault]
    settings = GatewaySettings(per_second=None, per_hour=None, block_message_minutes=15)
    async with open_world(erp_database, gateway=settings) as world, lights(world) as seen:
        break_it(world)
        await world.notes([(f"t{n}", f"{NAME} {n}") for n in range(30)], phone=PHONE)
        await seen.show(words, "listener_account_stopped", 1, "main", kind)
        if fault == "black hole":
            await seen.show("không rõ đã gửi đi hay chưa", "listener_messages", 1, "unknown")
            assert (await seen.metrics())["listener_oldest_unknown_seconds", ""] > 0
        else:
            assert (await seen.metrics())["listener_messages", "waiting"] > 0


async def test_a_gateway_that_refuses_one_message_or_loses_an_answer(erp_database: str) -> None:
    async with open_world(erp_database) as world, lights(world) as seen:
        world.gateway.add_fault(Fault(action=Answer(status=400, message=f"{NAME}?"), times=1))
        await world.note("a", f"{NAME} bad", phone=PHONE)
        await seen.show("1 tin không gửi được trong 24 giờ", "listener_messages_finished", 1, "rejected")
        world.gateway.add_fault(Fault(action=Break(moment=Moment.BEFORE_ANSWER), times=1))
        await world.note("b", f"{NAME} lost", phone=PHONE)
        await seen.show("1 tin không rõ đã gửi đi hay chưa", "listener_messages", 1, "unknown")


# -- the database


@pytest.mark.parametrize("how", [Mode.RESET, Mode.HOLD] if LONG else [Mode.RESET])
@PASSES_LATE
async def test_a_database_that_is_gone_or_silent_and_its_return(erp_database: str, how: Mode) -> None:
    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        lights(world, database_url=proxy.dsn) as seen,
    ):
        proxy.switch(how)
        await seen.show("Không kết nối được cơ sở dữ liệu", "listener_database_up", 0, healthy=False)
        proxy.switch(Mode.PASS)
        if how is Mode.HOLD:
            proxy.cut()
        await seen.show("Sẵn sàng", "listener_database_up", 1)


@PASSES_LATE
async def test_a_database_that_may_only_be_read(server: Server, erp_database: str) -> None:
    async with open_world(erp_database) as world, lights(world) as seen:
        name = (await world.one("SELECT current_database() AS name"))["name"]

        async def only_read(on: str) -> None:
            await world.db.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {on}'.encode())
            await world.db.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}".encode())

        await only_read("on")
        await seen.show("Không kết nối được cơ sở dữ liệu", "listener_database_up", 0, healthy=False)
        await only_read("off")
        await seen.show("Sẵn sàng", "listener_database_up", 1)


@PASSES_LATE
async def test_connections_that_are_all_taken(crashable: Server, crashable_database: str) -> None:
    async with open_world(crashable_database) as world, lights(world) as seen:
        async with AsyncExitStack() as stack:

            async def take_all() -> None:
                while True:
                    try:
                        taken = await psycopg.AsyncConnection.connect(crashable_database, connect_timeout=5)
                        await stack.enter_async_context(taken)
                    except psycopg.OperationalError:
                        await asyncio.sleep(0.02)

            taking = asyncio.create_task(take_all())
            try:
                # what is freed by ours is taken by whoever comes first: until ours has none and nothing is left
                async with asyncio.timeout(WITHIN):
                    while (
                        await world.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
                        or (await world.one(LEFT))["n"] > 0
                    ):
                        await asyncio.sleep(0.02)
                await seen.show("Không kết nối được cơ sở dữ liệu", "listener_database_up", 0, healthy=False)
            finally:
                taking.cancel()
        await seen.show("Sẵn sàng", "listener_database_up", 1)


@PASSES_LATE
async def test_a_listener_that_hears_nothing(erp_database: str) -> None:
    def swallow(connection: Connection, direction: Direction, data: bytes) -> None:
        if direction is Direction.DOWN and b"listener listen" in connection.greeting:
            connection.switch(Mode.DROP if data.startswith(b"A") else Mode.PASS, Direction.DOWN)

    async with (
        Proxy.to_database(erp_database) as proxy,
        open_world(erp_database) as world,
        lights(world, database_url=proxy.dsn) as seen,
    ):
        proxy.watch(swallow)
        await seen.show("Không nghe được tín hiệu của cơ sở dữ liệu", "listener_deaf", 1)


@PASSES_LATE
async def test_a_matcher_that_stands_still(erp_database: str) -> None:
    async with open_world(erp_database) as world, lights(world) as seen:
        async with await psycopg.AsyncConnection.connect(erp_database, autocommit=True) as other:
            await other.execute("SELECT pg_advisory_lock(7466382154)")
            await world.note("a", NAME, phone=PHONE)
            await seen.show("1 thay đổi từ ERP chưa được xử lý", "listener_outbox_oldest_seconds", 1)
        await world.settled()
        await seen.show("Mọi thứ hoạt động tốt", "listener_outbox_changes", 0)


async def test_a_replica_that_died(erp_database: str) -> None:
    async with open_world(erp_database) as world, lights(world) as seen:
        other = await world.replica()
        await world.until("SELECT count(*) = 2 FROM listener.replica")
        if LONG:
            # One that began shortly before is taken for its successor, as in a rolling restart.
            await world.until("SELECT bool_and(started_at < now() - interval '31 s') FROM listener.replica", seconds=60)
        await other.kill()
        if not LONG:
            # half a minute passes for the one that is dead, and it was the last to come
            await world.db.execute(
                """UPDATE listener.replica r
                      SET seen_at = seen_at - CASE WHEN r.started_at = l.last THEN interval '30 s' ELSE '0' END,
                          started_at = started_at - interval '1 h'
                     FROM (SELECT max(started_at) AS last FROM listener.replica) AS l"""
            )
        await seen.show("1 tiến trình đã dừng đột ngột", "listener_replicas_lost", 1)


# -- capture and rules


async def test_captures_that_fail_triggers_that_are_off_and_rules_that_are_broken(erp_database: str) -> None:
    async with open_world(erp_database) as world, lights(world) as seen:
        await world.db.execute("ALTER TABLE listener.outbox ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
        await world.note("a", NAME, phone=PHONE)
        await seen.show("1 lần ghi nhận thay đổi từ ERP bị lỗi", "listener_capture_failures_total", 1)
        await world.db.execute("ALTER TABLE listener.outbox DROP CONSTRAINT full_disk")

        await world.db.execute("ALTER TABLE public.notes DISABLE TRIGGER ALL")
        await seen.show("enable trigger +listener_note_insert on public.notes", "listener_capture_gaps", 1)
        await world.db.execute("ALTER TABLE public.notes ENABLE TRIGGER ALL")

        world.use_rules(world.settings.rules.read_text().replace("to: new.phone", "too: new.phone"))
        await seen.show("Tệp quy tắc có", "listener_rules_faults", 1)


async def test_a_mass_mistake_and_what_a_person_paused(erp_database: str) -> None:
    rules = rules_text(defaults="brake: 3/h")
    async with open_world(erp_database, rules=rules) as world, lights(world) as seen:
        await world.notes([(f"t{n}", f"{NAME} {n}") for n in range(9)], phone=PHONE)
        await seen.show("Phanh đang chặn quy tắc note (tạo quá nhiều tin); 6 tin đang giữ", "listener_brakes", 1)
        form = {"target": "all", "reason": f"ask {NAME}"}
        assert (await seen.boss.post("/interventions/pause", form)).status == 303
        await seen.show("Đang tạm dừng tất cả", "listener_account_stopped", 1, "main", "person")


async def test_a_restored_database_waits_for_a_person(erp_database: str) -> None:
    async with open_world(erp_database) as world:
        await world.once()
        await world.db.execute("UPDATE listener.fleet SET server = '1'")
        async with world.service(admin_token=ADMIN) as service, person(service.address) as boss:
            assert service.address is not None
            async with aiohttp.ClientSession() as anybody:
                seen = Lights(world=world, boss=boss, anybody=anybody, address=service.address)
                await seen.show("Không gửi gì cho đến khi có người xác nhận", "listener_database_unconfirmed", 1)
                assert (await boss.post("/interventions/resume", {"target": "all"})).status == 303
                await seen.show("Sẵn sàng", "listener_database_unconfirmed", 0)


# -- how much it costs to look


@pytest.mark.skipif(not LONG, reason="half a minute; LISTENER_LONG=1")
@pytest.mark.timeout(120)
async def test_a_hundred_scrapes_a_second_are_answered_at_once(erp_database: str) -> None:
    """p99 <= 50 ms, of a replica at work in a process of its own; on a machine that has no time, not slower than an
    answer for which nothing is asked."""
    async with open_world(erp_database) as world, aiohttp.ClientSession() as anybody:
        replica = await world.replica()
        await replica.said('"serving"')
        found = re.search(r'"address":\s*"([^"]+)"', replica.log.read_text())
        assert found
        took: dict[str, list[float]] = {"/metrics": [], "/readyz": []}
        loop = asyncio.get_running_loop()

        async def ask(path: str) -> None:
            begun = loop.time()
            async with anybody.get(f"{found[1]}{path}") as answer:
                assert answer.status == 200
                await answer.read()
            took[path].append(loop.time() - begun)

        begun = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(3000):
                await asyncio.sleep(max(0.0, begun + number / 100 - loop.time()))
                if number % 100 == 0:
                    await world.note(f"t{number}", f"n{number}")
                tasks.create_task(ask("/metrics"))
                if number % 2 == 0:
                    tasks.create_task(ask("/readyz"))
        slow = {path: sorted(times)[len(times) * 99 // 100] for path, times in took.items()}
        assert slow["/metrics"] <= max(0.05, 2 * slow["/readyz"]), slow
