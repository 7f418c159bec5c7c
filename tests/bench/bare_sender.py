"""The least that POSTs: so many times the same SMS, 64 on their way at once, nothing remembered.

The yardstick of what is delivered; run as a process of its own by `send`. It runs on uvloop where the daemon does.
"""

import asyncio
import os
import subprocess
import sys

import aiohttp

from listener.cli.common import loop_factory
from tests.support.world import PHONE

IN_FLIGHT = 64
# what `tests.bench.queue.fill` puts in the queue
TEXT = "x" * 100
SMS = {"sms": {"service_id": "12", "content": TEXT, "phone": PHONE}}


async def send(url: str, requests: int, *, keep_alive: bool) -> float:
    """Has a process POST `requests` times; returns the seconds of a core that it took to do so."""
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.bare_sender", url, str(requests), "keep-alive" if keep_alive else "close"),
        stdout=subprocess.PIPE,
    )
    out, _ = await script.communicate()
    assert script.returncode == 0
    return float(out)


async def main(url: str, requests: int, keep_alive: bool) -> float:
    left = iter(range(requests))
    began = sum(os.times()[:2])
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT, force_close=not keep_alive),
        headers={"Authorization": "Bearer made-up", "Accept": "application/json"},
    ) as http:

        async def one_of_many() -> None:
            for _ in left:
                async with http.post(url, json=SMS) as answer:
                    assert (await answer.json())["code"] == "ok"

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(one_of_many())
    return sum(os.times()[:2]) - began


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(runner.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "keep-alive")))
