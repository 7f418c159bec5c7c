"""The least that turns a change into a POST: LISTEN, and send what the notification says. No outbox, no memory.

The yardstick of the latency bench; arguments are the channel, the DSN, the URL to POST to, the token, and `keep`
for one connection to the gateway or `new` for one for each POST.
"""

import asyncio
import json
import sys

import aiohttp
import psycopg


async def main(channel: str, dsn: str, url: str, token: str, connections: str) -> None:
    async with (
        aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(force_close=connections == "new"),
        ) as http,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn,
    ):
        await conn.execute(f"LISTEN {channel}".encode())
        print("listening", flush=True)
        async for notification in conn.notifies():
            async with http.post(url, json=json.loads(notification.payload)) as answer:
                assert (await answer.json())["code"] == "ok"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
