"""The whole way at full speed: changes that are committed at once become messages, by 50 rules with a lookup and Jinja
texts, and POSTs. A `listener run` process, beside a bare aiohttp loop that POSTs as many bodies to the same gateway, 64
at once, with a new connection for every request. What counts is the time from the COMMIT to the last POST.
"""

import asyncio
from importlib.util import find_spec
from statistics import median
from time import perf_counter

from tests.bench import bare_sender
from tests.bench.deliver import RATE, scene
from tests.bench.process import cpu_seconds
from tests.bench.report import Figure, Report, machine
from tests.bench.sink import Sink
from tests.support.world import World

RULES = 50
SCHEMA = """
CREATE TABLE public.customer (id int PRIMARY KEY, name text NOT NULL, phone text NOT NULL);
CREATE TABLE public.account (id int PRIMARY KEY, customer_id int NOT NULL, balance numeric(18, 2) NOT NULL);
INSERT INTO public.customer
SELECT n, 'Khách ' || n, '09800' || lpad(n::text, 5, '0') FROM generate_series(1, CHANGES) n;
INSERT INTO public.account SELECT n, n, 0 FROM generate_series(1, CHANGES) n;
ANALYZE public.customer, public.account
"""
HEAD = """
version: 1
accounts: {main: {domain: acme, token_file: TOKEN_FILE, service_id: 12, rate: RATE}}
defaults: {account: main, expires: 6h}
watch:
  account:
    table: public.account
    columns: [balance]
    lookup: {customer: "SELECT name, phone FROM public.customer WHERE id = %(customer_id)s"}
rules:
"""
RULE = """  low_{n}:
    on: account
    change: {{balance: {{crosses_below: {limit}}}}}
    to: customer.phone
    text: "{{{{ customer.name }}}}: TK {{{{ new.id }}}} con {{{{ new.balance | vnd }}}} luc {{{{ at | datetime }}}}"
"""
# Each account has a rule of its own: the one with the limit that it stands above, and then falls below.
ABOVE = "UPDATE public.account SET balance = 1000 * (1 + id % 50) + 500"
BELOW = "UPDATE public.account SET balance = balance - 1000"


def run(*, short: bool) -> Report:
    rounds, changes = (1, 30) if short else (9, 2000)
    return asyncio.run(_run(rounds, changes, durable=not short))


async def _run(rounds: int, changes: int, *, durable: bool) -> Report:
    rates: dict[str, list[float]] = {"listener": [], "bare loop": []}
    cpu: list[float] = []
    rules = HEAD.replace("RATE", RATE) + "".join(RULE.format(n=n, limit=1000 * (n + 1)) for n in range(RULES))
    schema = SCHEMA.replace("CHANGES", str(changes))
    async with scene(durable=durable, rules=rules, schema=schema) as (world, replica, sink):
        await _all_fall(world, sink, changes)
        for _ in range(rounds):
            before = cpu_seconds(replica.pid)
            rates["listener"].append(await _all_fall(world, sink, changes))
            cpu.append((cpu_seconds(replica.pid) - before) / changes * 1000)
            await bare_sender.send(sink.url, changes, keep_alive=False)
            rates["bare loop"].append(await sink.rate(changes))
    ratio = median(ours / their for ours, their in zip(rates["listener"], rates["bare loop"], strict=True))
    return Report(
        bench="whole",
        rounds=rates | {"listener, CPU": cpu},
        machine={**machine(), "loop": "uvloop" if find_spec("uvloop") else "asyncio"},
        figures=[
            *(Figure(name=name, value=median(values), unit="/s") for name, values in rates.items()),
            Figure(name="CPU a change: listener", value=median(cpu), unit="ms"),
            Figure(
                name="listener : bare loop",
                value=ratio,
                unit="x",
                least=0.4,
                readme="change to POST, 50 rules, a lookup and a template: against the bare loop",
            ),
        ],
    )


async def _all_fall(world: World, sink: Sink, changes: int) -> float:
    """How many changes a second go the whole way."""
    await world.db.execute(ABOVE)
    await world.settled()
    await world.db.execute(BELOW)
    rate = await sink.rate(changes, since=perf_counter())
    await world.settled()
    return rate
