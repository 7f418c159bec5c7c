"""An ERP that many sessions write to, and that remembers which COMMITs were acknowledged.

Every write is one row of `public.notes` (see `world`): its number stands in the body and so comes back in the SMS. Some
writes are rolled back on purpose: their numbers must never be seen again.
"""

import asyncio
import random
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

import psycopg

# stands in every text, so that any output which shows a text can be told from one that does not
CANARY = "kenari"
PHONE = "0980000000"
# the server went away or is starting: not the doing of a trigger
_GONE = frozenset({"57P01", "57P02", "57P03", "53300"})


class Fate(StrEnum):
    """What the ERP knows of one of its transactions."""

    ACKNOWLEDGED = "acknowledged"
    ROLLED_BACK = "rolled back"
    # the connection broke before an answer to COMMIT: only the table can tell
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One transaction; `began` and `ended` are monotonic seconds around it."""

    number: int
    key: str
    body: str
    fate: Fate
    began: float
    ended: float


@dataclass(slots=True, kw_only=True)
class ErpDriver:
    """Sessions that write to the database of `dsn`. The same `seed` makes the same choices."""

    dsn: str
    keys: list[str]
    seed: int
    phone: str = PHONE
    rollbacks: float = 0.1
    writes: list[Write] = field(default_factory=list)
    # errors that no injected fault explains: (SQLSTATE, class)
    errors: list[str] = field(default_factory=list)
    _numbers: int = 0

    async def run(self, per_second: float, stopping: asyncio.Event, *, sessions: int = 4) -> None:
        """Writes at random moments, `per_second` in all, until `stopping`; sessions come back after a crash."""
        rng = random.Random(self.seed)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(sessions):
                tasks.create_task(self._session(per_second / sessions, random.Random(rng.random()), stopping))

    async def write_each_key(self) -> None:
        """One acknowledged write for every key."""
        async with await self._connect() as conn:
            for key in self.keys:
                await self._write(conn, key, roll_back=False)

    async def write(self, count: int) -> None:
        """So many acknowledged writes, one transaction each, over the keys in turn."""
        async with await self._connect() as conn:
            for number in range(count):
                await self._write(conn, self.keys[number % len(self.keys)], roll_back=False)

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, application_name="erp", connect_timeout=5
        )

    async def _session(self, per_second: float, rng: random.Random, stopping: asyncio.Event) -> None:
        conn = None
        try:
            while not await _set_within(stopping, rng.expovariate(per_second)):
                try:
                    if conn is None:
                        conn = await self._connect()
                    await self._write(conn, rng.choice(self.keys), roll_back=rng.random() < self.rollbacks)
                except psycopg.OperationalError:
                    if conn is not None:
                        await conn.close()
                    conn = None
        finally:
            if conn is not None:
                await conn.close()

    async def _write(self, conn: psycopg.AsyncConnection[tuple[object, ...]], key: str, *, roll_back: bool) -> None:
        """Raises OperationalError when the connection is of no more use."""
        self._numbers += 1
        number = self._numbers
        body = f"{CANARY} {number:06d}/{self.seed} {key}"
        began = monotonic()
        fate = Fate.ROLLED_BACK if roll_back else Fate.ACKNOWLEDGED
        insert = "INSERT INTO public.notes (topic, body, phone) VALUES (%s, %s, %s)"
        try:
            if roll_back:
                async with conn.transaction(force_rollback=True):
                    await conn.execute(insert, [key, body, self.phone])
            else:
                await conn.execute(insert, [key, body, self.phone])
        except psycopg.OperationalError as error:
            fate = Fate.ROLLED_BACK if roll_back else Fate.UNCLEAR
            if error.sqlstate is not None and error.sqlstate not in _GONE:
                self.errors.append(f"{error.sqlstate} {type(error).__name__}")
            raise
        except psycopg.Error as error:
            fate = Fate.ROLLED_BACK
            self.errors.append(f"{error.sqlstate} {type(error).__name__}")
        finally:
            self.writes.append(Write(number=number, key=key, body=body, fate=fate, began=began, ended=monotonic()))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
