"""The list of messages, as a page and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from aiohttp import web

from listener.database import LOST
from listener.errors import OutOfReachError, describe
from listener.model import State
from listener.pauses import audit
from listener.web.access import SESSION
from listener.web.bulk_page import asked, offered
from listener.web.page import moment, render, sees_texts, shown_key, shown_phone, shown_why
from listener.web.search import (
    COLUMNS,
    RANGES,
    Meaning,
    Place,
    counts,
    one_page,
)
from listener.web.store import Store

log = structlog.get_logger()

# rows asked for at a time
_EXPORT = 1000
_TIMES = frozenset({"created_at", "due_at", "settled_at"})
# what a spreadsheet takes for the beginning of a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Messages:
    """Answers `/messages` and `/messages.csv`, which take the same query."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, request: web.Request) -> web.Response:
        async with self._store.reading() as conn:
            f, found = await asked(conn, request)
            rows, more = await one_page(conn, f, found)
            count = await counts(conn, f, found)
        older = f.query(before=Place(at=rows[-1]["created_at"], id=rows[-1]["id"])) if more else None
        return render(
            request,
            "messages.html",
            f=f,
            found=found,
            rows=rows,
            counts=count,
            total=sum(count.values()),
            older=older,
            ranges=list(RANGES),
            by_hours=found.meaning in (None, Meaning.RULE),
            story=found.meaning in (Meaning.PHONE, Meaning.KEY),
            all_states=list(State),
            deeds=offered(f, count),
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        """CSV of all that fits the filter, written as it is read."""
        session = request[SESSION]
        answer = web.StreamResponse(
            headers={
                "Content-Type": "text/csv; charset=utf-8",
                "Content-Disposition": f'attachment; filename="messages-{datetime.now(UTC):%Y%m%d-%H%M%S}.csv"',
            }
        )
        async with self._store.reading() as conn:
            f, found = await asked(conn, request)
            count = await counts(conn, f, found)
        whole = sees_texts(session)
        if session is not None and whole:
            wanted = sum(count.get(state, 0) for state in f.states or count)
            async with self._store.acting() as conn:
                await audit(conn, session.who, "reveal", {"csv": f.query(q=shown_key(f.q))}, wanted, None)
        await answer.prepare(request)
        # The mark tells spreadsheets that this is UTF-8.
        await answer.write(("\ufeff" + _line(COLUMNS)).encode())
        try:
            more = True
            while more:
                async with self._store.reading() as conn:
                    rows, more = await one_page(conn, f, found, _EXPORT)
                await answer.write("".join(_line(cells(row, whole=whole)) for row in rows).encode())
                if rows:
                    f = replace(f, before=Place(at=rows[-1]["created_at"], id=rows[-1]["id"]))
            await answer.write_eof()
        except (*LOST, OutOfReachError, ConnectionError) as error:
            # A file that ends early must be seen to: the connection breaks, so that the download fails.
            log.warning("export_broken_off", error=describe(error))
            if request.transport is not None:
                request.transport.abort()
        return answer


def cells(row: Mapping[str, Any], *, whole: bool) -> list[str]:
    """One message as CSV cells; nothing in them is taken for a formula. `whole` for those who may read texts."""
    shown = {**row}
    if not whole:
        masked = {"phone": shown_phone(row["phone"]), "key": shown_key(row["key"])}
        shown |= {**masked, "text": None, "reason": shown_why(row["reason"], "en", None)}
    shown |= {name: moment(row[name]) for name in _TIMES}
    return [_cell(shown[name]) for name in COLUMNS]


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) and text != "-" else text


def _line(values: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(values)
    return out.getvalue()
