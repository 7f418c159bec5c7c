"""Three accounts at 12/s each with more to send than they can; one of them is locked out by the gateway half-way. The
others must not feel it: their rate during the lock-out, against what they are allowed and against what they had before.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from aiohttp import ClientSession, web

from listener.simulator.gateway import Gateway, GatewaySettings
from listener.simulator.postgres import Server
from tests.bench.report import Figure, Report
from tests.support.world import open_world

RATE = 12
LOCKED_OUT = "north"
OTHERS = ("centre", "south")
ACCOUNTS = (LOCKED_OUT, *OTHERS)
# the part of a time that is not looked at, after the beginning and after the lock-out
SETTLING = 0.2
RULES = """
version: 1
accounts:
{accounts}
watch:
  note: {{table: public.notes, events: [insert], key: topic}}
rules:
{rules}
"""


def run(*, short: bool) -> Report:
    return asyncio.run(_run(0.5 if short else 45.0))


async def _run(seconds: float) -> Report:
    server = Server()
    await asyncio.to_thread(server.start)
    try:
        dsn = await asyncio.to_thread(server.create_database, "bench")
        async with AsyncExitStack() as stack:
            gateways = {
                name: await stack.enter_async_context(Gateway(GatewaySettings(domain=name))) for name in ACCOUNTS
            }
            world = await stack.enter_async_context(open_world(dsn, rules=_rules()))
            world.settings = replace(world.settings, caresoft_url=await stack.enter_async_context(_front(gateways)))
            count = int(2 * ((1 + SETTLING) * seconds + 2) * RATE)
            await world.notes([(f"topic {n}", f"body {n}") for n in range(count)])
            await world.replica()
            await gateways[LOCKED_OUT].wait_for(1)
            before = await _rates(gateways, seconds)
            state = gateways[LOCKED_OUT].state
            state.limiter.block(state.now(), state.settings.block_seconds)
            during = await _rates(gateways, seconds)
            stopped = await world.rows("SELECT name, pause_kind FROM listener.account WHERE paused_until IS NOT NULL")
            assert [(row["name"], row["pause_kind"]) for row in stopped] == [(LOCKED_OUT, "lockout")]
    finally:
        await asyncio.to_thread(server.close)
    return Report(
        bench="accounts",
        rounds={name: [before[name], during[name]] for name in ACCOUNTS},
        figures=[
            *(Figure(name=f"{name}, before", value=before[name] / RATE, unit="x", least=0.95) for name in ACCOUNTS),
            *(
                Figure(
                    name=f"{name}, one locked out",
                    value=during[name] / RATE,
                    unit="x",
                    least=0.95,
                    readme=f"3 accounts at 12/s, one locked out: {name}, of its rate",
                )
                for name in OTHERS
            ),
            *(
                Figure(name=f"{name}, one locked out : before", value=during[name] / before[name], unit="x", least=0.95)
                for name in OTHERS
            ),
            Figure(name=f"{LOCKED_OUT}, locked out", value=during[LOCKED_OUT], unit="/s", most=0),
        ],
    )


def _rules() -> str:
    accounts = (
        f"  {name}: {{domain: {name}, token_file: TOKEN_FILE, service_id: 12, rate: {RATE}/s}}" for name in ACCOUNTS
    )
    rules = (
        f'  {name}: {{on: note, account: {name}, to: new.phone, text: "{{{{ new.body }}}}", expires: 6h}}'
        for name in ACCOUNTS
    )
    return RULES.format(accounts="\n".join(accounts), rules="\n".join(rules))


async def _rates(gateways: Mapping[str, Gateway], seconds: float) -> dict[str, float]:
    """What each gateway accepts a second, for so long."""
    await asyncio.sleep(SETTLING * seconds)
    loop = asyncio.get_running_loop()
    began, had = loop.time(), {name: len(gateway.state.ledger) for name, gateway in gateways.items()}
    await asyncio.sleep(seconds)
    elapsed = loop.time() - began
    return {name: (len(gateway.state.ledger) - had[name]) / elapsed for name, gateway in gateways.items()}


@asynccontextmanager
async def _front(gateways: Mapping[str, Gateway]) -> AsyncIterator[str]:
    """One address before the gateways, each of which has one domain; yields its URL."""

    async def forward(request: web.Request) -> web.Response:
        gateway = gateways[request.match_info["domain"]]
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with client.request(
            request.method, gateway.url + request.path_qs, headers=headers, data=await request.read()
        ) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type or "text/plain"
            )

    app = web.Application()
    app.router.add_route("*", "/{domain}/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    async with ClientSession() as client:
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
