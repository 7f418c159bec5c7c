"""The bench's job on PgQueuer: `python -m tests.bench.peer_pgqueuer fill|work DSN URL JOBS`.

On asyncpg, as its documentation prefers, with a pool; permits are fetched and results written 32 at a time, and 64 jobs
are under way at most (twice the batch is the least that it takes). A job that was being done when its worker died is
given to another one, so what was POSTed may be POSTed twice; there is no pace and no order of a thread.
"""

import asyncio
import sys

import aiohttp
import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.types import QueueExecutionMode
from psycopg.conninfo import conninfo_to_dict

from listener.cli.common import loop_factory
from tests.bench.bare_sender import IN_FLIGHT, SMS

ENTRYPOINT = "sms"
# jobs put in the queue by one statement
AT_ONCE = 50_000


async def main(verb: str, dsn: str, url: str, jobs: int) -> None:
    # asyncpg reads no keywords
    where = conninfo_to_dict(dsn)
    where["database"] = where.pop("dbname")
    async with asyncpg.create_pool(**where, min_size=2, max_size=4) as pool:
        pgq = PgQueuer.from_asyncpg_pool(pool)
        if verb == "fill":
            await fill(pgq, jobs)
        else:
            await work(pgq, url)


async def fill(pgq: PgQueuer, jobs: int) -> None:
    queries = pgq.qm.queries
    if not await queries.has_table(queries.qbe.settings.queue_table):
        await queries.install()
    for done in range(0, jobs, AT_ONCE):
        some = min(AT_ONCE, jobs - done)
        await queries.enqueue([ENTRYPOINT] * some, [None] * some, [0] * some)


async def work(pgq: PgQueuer, url: str) -> None:
    """Until no job is left."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT, force_close=True),
        headers={"Authorization": "Bearer made-up", "Accept": "application/json"},
    ) as http:

        @pgq.entrypoint(ENTRYPOINT)
        async def send(_: Job) -> None:
            async with http.post(url, json=SMS) as answer:
                assert (await answer.json())["code"] == "ok"

        await pgq.run(mode=QueueExecutionMode.drain, batch_size=IN_FLIGHT // 2, max_concurrent_tasks=IN_FLIGHT)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
