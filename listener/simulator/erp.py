"""Business in the sample ERP of ``sql/demo/erp.sql``, as its own programs would do it.

Each function is one transaction on a connection that is in none, and returns what it did in a sentence without personal
data. An account or order that does not exist is a ListenerError.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from listener.errors import ListenerError

Connection = psycopg.AsyncConnection[Any]

ORDER_STEPS = {"new": "confirmed", "confirmed": "shipped", "shipped": "delivered"}
SMALL_BALANCE = Decimal(20_000)  # VND; nobody withdraws from less

_CHANGE_BALANCE: LiteralString = """
    UPDATE public.accounts SET balance = balance + %(amount)s, updated_at = now()
    WHERE account_no = %(account_no)s RETURNING balance
"""
_STATUS: LiteralString = "SELECT status FROM public.orders WHERE order_no = %(order_no)s FOR UPDATE"
_SET_STATUS: LiteralString = """
    UPDATE public.orders SET status = %(status)s, updated_at = now() WHERE order_no = %(order_no)s
"""
_PLACE_ORDER: LiteralString = """
    INSERT INTO public.orders (order_no, customer_id, total)
    SELECT 'DH' || max(substr(order_no, 3)::bigint) + 1, %(customer_id)s, %(total)s FROM public.orders
    RETURNING order_no
"""
_ACCOUNTS: LiteralString = "SELECT account_no, balance FROM public.accounts ORDER BY account_no"
_OPEN_ORDERS: LiteralString = """
    SELECT order_no FROM public.orders WHERE status IN ('new', 'confirmed', 'shipped') ORDER BY order_no
"""
_CUSTOMERS: LiteralString = "SELECT id FROM public.customers ORDER BY id"


async def withdraw(conn: Connection, account_no: str, amount: Decimal) -> str:
    """Take ``amount`` VND from an account; it may become negative."""
    balance = await _change_balance(conn, account_no, -amount)
    return f"{vnd(amount)} withdrawn from {account_no}, which now holds {vnd(balance)}"


async def deposit(conn: Connection, account_no: str, amount: Decimal) -> str:
    """Put ``amount`` VND into an account."""
    balance = await _change_balance(conn, account_no, amount)
    return f"{vnd(amount)} paid into {account_no}, which now holds {vnd(balance)}"


async def rolled_back_change(conn: Connection, account_no: str, amount: Decimal) -> str:
    """Take ``amount`` VND from an account and roll back, as a program that fails half-way: nobody may hear of it."""
    async with conn.transaction(force_rollback=True):
        await _change_balance(conn, account_no, -amount)
    return f"{vnd(amount)} withdrawn from {account_no} and rolled back"


async def advance_order(conn: Connection, order_no: str) -> str:
    """Move an order one step: new, confirmed, shipped, delivered. The last one and cancelled are a ListenerError."""
    async with conn.transaction():
        (status,) = await _one(conn, _STATUS, f"order {order_no}", order_no=order_no)
        if status not in ORDER_STEPS:
            raise ListenerError(f"order {order_no} is {status} and goes no further")
        await conn.execute(_SET_STATUS, {"order_no": order_no, "status": ORDER_STEPS[status]})
    return f"order {order_no} went from {status} to {ORDER_STEPS[status]}"


async def place_order(conn: Connection, customer_id: int, total: Decimal) -> str:
    """Take a new order under the next number; with two writers at once one may fail on the number's uniqueness."""
    async with conn.transaction():
        (order_no,) = await _one(conn, _PLACE_ORDER, "an order", customer_id=customer_id, total=total)
    return f"order {order_no} placed, {vnd(total)}"


async def traffic(
    conn: Connection, rng: random.Random, stopping: asyncio.Event, per_second: float
) -> AsyncIterator[str]:
    """Do plausible business at random moments, ``per_second`` on average, until ``stopping`` is set; tell each deed.

    The same ``rng`` on the same data does the same business.
    """
    while not stopping.is_set():
        yield await _something(conn, rng)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), rng.expovariate(per_second))


def vnd(amount: Decimal) -> str:
    """An amount for people to read: 1.234.567 VND."""
    return f"{amount:,.0f} VND".replace(",", ".")


async def _something(conn: Connection, rng: random.Random) -> str:
    async with conn.transaction():
        accounts = await _rows(conn, _ACCOUNTS)
        orders = await _rows(conn, _OPEN_ORDERS)
        customers = await _rows(conn, _CUSTOMERS)
    account_no, balance = rng.choice(accounts)
    share = _round(balance * rng.randint(10, 90) / 100)
    deed = rng.choices(("withdraw", "deposit", "advance", "place", "roll back"), (35, 15, 30, 10, 10))[0]
    match deed:
        case "advance" if orders:
            return await advance_order(conn, rng.choice(orders)[0])
        case "advance" | "place":
            return await place_order(conn, rng.choice(customers)[0], Decimal(rng.randint(50, 5_000) * 1_000))
        case "withdraw" if balance >= SMALL_BALANCE:
            return await withdraw(conn, account_no, share)
        case "roll back" if balance >= SMALL_BALANCE:
            return await rolled_back_change(conn, account_no, share)
    return await deposit(conn, account_no, Decimal(rng.randint(100, 3_000) * 1_000))


def _round(amount: Decimal) -> Decimal:
    return amount // 1_000 * 1_000


async def _change_balance(conn: Connection, account_no: str, amount: Decimal) -> Decimal:
    async with conn.transaction():
        (balance,) = await _one(conn, _CHANGE_BALANCE, f"account {account_no}", account_no=account_no, amount=amount)
    return Decimal(balance)


async def _one(conn: Connection, statement: LiteralString, what: str, **values: object) -> tuple[Any, ...]:
    rows = await _rows(conn, statement, **values)
    if not rows:
        raise ListenerError(f"the sample ERP has no {what}")
    return rows[0]


async def _rows(conn: Connection, statement: LiteralString, **values: object) -> list[tuple[Any, ...]]:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()
