"""A service manager's ear: the socket of `NOTIFY_SOCKET`, and what was said to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 20.0
Said = dict[str, str]


@dataclass(slots=True)
class Manager(asyncio.DatagramProtocol):
    """`said` grows by one mapping of names to values for each datagram."""

    path: str
    said: list[Said] = field(default_factory=list)

    def datagram_received(self, data: bytes, _address: object) -> None:
        self.said.append(dict(line.split("=", 1) for line in data.decode().splitlines()))

    def environment(self, watchdog: float | None = None) -> dict[str, str]:
        """What a process needs to talk to it; `watchdog` in seconds."""
        asked = {} if watchdog is None else {"WATCHDOG_USEC": str(int(watchdog * 1e6))}
        return {"NOTIFY_SOCKET": self.path, **asked}

    async def hears(self, since: int = 0, /, **values: str) -> int:
        """Waits for a datagram from number `since` on that has every name, its value beginning as given; the number of
        the next one. Raises TimeoutError."""
        heard = since
        async with asyncio.timeout(PATIENCE):
            while True:
                while heard < len(self.said):
                    heard += 1
                    if all(self.said[heard - 1].get(name, "\0").startswith(value) for name, value in values.items()):
                        return heard
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_manager(folder: Path) -> AsyncIterator[Manager]:
    """Listens in `folder` while it is entered."""
    manager = Manager(path=str(folder / "notify"))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: manager, local_addr=manager.path, family=1)
    try:
        yield manager
    finally:
        transport.close()
