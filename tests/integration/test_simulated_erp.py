"""The sample ERP: the rows everybody counts on, and the business done in it."""

import asyncio
import random
from decimal import Decimal

import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from listener.errors import ListenerError
from listener.simulator import erp
from listener.simulator.postgres import Server


async def balance(conn: erp.Connection, account_no: str) -> Decimal:
    cursor = await conn.execute("SELECT balance FROM public.accounts WHERE account_no = %s", (account_no,))
    row = await cursor.fetchone()
    assert row is not None
    return Decimal(row[0])


async def test_the_sample_rows(erp_database: str) -> None:
    async with await AsyncConnection.connect(erp_database) as conn:
        customers = await (await conn.execute("SELECT id, full_name, phone FROM customers ORDER BY id")).fetchall()
        assert len(customers) == 12
        assert customers[6] == (7, "Đặng Thị Ướt", "0980000000")
        assert [phone for _, _, phone in customers].count(None) == 1
        counts = await conn.execute("SELECT (SELECT count(*) FROM accounts), count(*), count(ticket_id) FROM orders")
        assert await counts.fetchone() == (20, 20, 1)


async def test_money_moves(erp_database: str) -> None:
    async with await AsyncConnection.connect(erp_database) as conn:
        told = await erp.withdraw(conn, "A1", Decimal(60_000))
        assert told == "60.000 VND withdrawn from A1, which now holds 90.000 VND"
        assert await erp.deposit(conn, "A1", Decimal(5)) == "5 VND paid into A1, which now holds 90.005 VND"
        await erp.rolled_back_change(conn, "A1", Decimal(80_000))
    async with await AsyncConnection.connect(erp_database) as other:
        assert await balance(other, "A1") == 90_005


async def test_an_order_goes_its_way_to_the_end(erp_database: str) -> None:
    async with await AsyncConnection.connect(erp_database, autocommit=True, row_factory=dict_row) as conn:
        told = [await erp.advance_order(conn, "DH1001") for _ in range(3)]
        assert told[-1] == "order DH1001 went from shipped to delivered"
        with pytest.raises(ListenerError, match="is delivered"):
            await erp.advance_order(conn, "DH1001")
        assert await erp.place_order(conn, 7, Decimal(1_000)) == "order DH1021 placed, 1.000 VND"
        rows = await conn.execute("SELECT status FROM orders WHERE order_no IN ('DH1001', 'DH1021') ORDER BY order_no")
        assert await rows.fetchall() == [{"status": "delivered"}, {"status": "new"}]


async def test_what_is_not_there_is_named(erp_database: str) -> None:
    async with await AsyncConnection.connect(erp_database) as conn:
        for deed in (erp.withdraw(conn, "A99", Decimal(1)), erp.advance_order(conn, "DH99")):
            with pytest.raises(ListenerError, match="99"):
                await deed


async def deeds(dsn: str, seed: int, count: int) -> list[str]:
    stopping = asyncio.Event()
    told = []
    async with await AsyncConnection.connect(dsn) as conn:
        async for deed in erp.traffic(conn, random.Random(seed), stopping, per_second=10_000):
            told.append(deed)
            if len(told) == count:
                stopping.set()
    return told


async def test_traffic_is_varied_ends_when_asked_and_repeats(
    erp_database: str, server: Server, erp_template: str
) -> None:
    first = await deeds(erp_database, seed=7, count=100)
    assert len(first) == 100
    for words in ("withdrawn from", "paid into", "went from", "placed", "rolled back"):
        assert any(words in deed for deed in first), words
    twin = server.create_database("twin", erp_template)
    try:
        assert await deeds(twin, seed=7, count=100) == first
    finally:
        server.drop_database("twin")


async def test_traffic_waiting_for_its_next_deed_ends_at_once(erp_database: str) -> None:
    stopping = asyncio.Event()
    async with await AsyncConnection.connect(erp_database) as conn:
        async with asyncio.timeout(30):
            async for _ in erp.traffic(conn, random.Random(1), stopping, per_second=1e-9):
                asyncio.get_running_loop().call_soon(stopping.set)
