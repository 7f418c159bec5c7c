"""The bench's job on Procrastinate: `python -m tests.bench.peer_procrastinate fill|work DSN URL JOBS`.

On psycopg, 64 jobs at once, finished jobs deleted. A job that was being done when its worker died stays as it is until
somebody decides about it; there is no pace, and an order only for jobs with a lock.
"""

import asyncio
import sys

import aiohttp
from procrastinate import App, PsycopgConnector

from listener.cli.common import loop_factory
from tests.bench.bare_sender import IN_FLIGHT, SMS

# jobs put in the queue by one statement
AT_ONCE = 50_000


async def main(verb: str, dsn: str, url: str, jobs: int) -> None:
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=4, max_size=16))
    async with (
        app.open_async(),
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=IN_FLIGHT, force_close=True),
            headers={"Authorization": "Bearer made-up", "Accept": "application/json"},
        ) as http,
    ):

        @app.task(name="sms")
        async def send() -> None:
            async with http.post(url, json=SMS) as answer:
                assert (await answer.json())["code"] == "ok"

        if verb == "fill":
            if not await app.check_connection_async():
                await app.schema_manager.apply_schema_async()
            for done in range(0, jobs, AT_ONCE):
                await send.batch_defer_async(*({} for _ in range(min(AT_ONCE, jobs - done))))
        else:
            await app.run_worker_async(
                concurrency=IN_FLIGHT, wait=False, delete_jobs="always", install_signal_handlers=False
            )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
