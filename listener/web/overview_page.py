"""The first screen: does it work, what happened in the last hours, what needs a person."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import psycopg
import structlog
from aiohttp import web

from listener import installation, overview
from listener.database import LOST, Connection
from listener.errors import describe
from listener.settings import Settings
from listener.web import charts, concerns, store
from listener.web.health import Health
from listener.web.page import language, render
from listener.web.store import Store
from listener.web.texts import words
from listener.words import LOCAL

log = structlog.get_logger()

# outcomes as the chart shows them, from the ground up
SERIES: Mapping[str, tuple[str, ...]] = {
    "accepted": ("accepted",),
    "shadow": ("shadow",),
    "other": ("expired", "cancelled", "superseded", "suppressed"),
    "unknown": ("unknown",),
    "rejected": ("rejected",),
}
# however many people look, the figures are asked for once in so many seconds
_FRESH = 0.8
# and whether capture is as the rules need it: a look at the catalogue for each table
_GAPS_FRESH = 15.0


class Overview:
    """The figures of the first screen, shared by all who look at the same time."""

    def __init__(self, settings: Settings, store: Store, health: Health | None) -> None:
        self._settings = settings
        self._store = store
        self._health = health
        self._gaps: list[str] = []
        self._gaps_at = float("-inf")
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._figures: dict[str, Any] = {}

    async def figures(self) -> Mapping[str, Any]:
        """All figures, at most `_FRESH` seconds old."""
        async with self._lock:
            if monotonic() - self._at > _FRESH:
                async with self._store.reading() as conn:
                    figures = await _figures(conn, self._settings)
                    await self._look_for_gaps(conn)
                stuck = self._health.stuck() if self._health is not None else {}
                found = concerns.concerns(
                    figures["status"],
                    sum(bar.values["rejected"] for bar in figures["hours"]),
                    gaps=self._gaps,
                    stuck=stuck,
                )
                self._figures = {
                    **figures,
                    "gaps": self._gaps,
                    "needs": found,
                    "verdict": concerns.sentence(found, figures["status"]),
                }
                self._at = monotonic()
            return self._figures

    async def _look_for_gaps(self, conn: Connection) -> None:
        if monotonic() - self._gaps_at <= _GAPS_FRESH:
            return
        rules = await overview.rules_in_force(conn)
        try:
            self._gaps = await installation.gaps(conn, rules, self._settings) if rules is not None else []
        except LOST:
            raise
        except psycopg.Error as error:
            # A role that may not look at the ERP's schema cannot say; `listener db verify` as its owner can.
            log.warning("capture_not_checked", error=describe(error))
            self._gaps = []
        self._gaps_at = monotonic()

    async def page(self, request: web.Request) -> web.Response:
        figures = await self.figures()
        t = words(language(request))
        names = {name: t[f"s_{name}"] for name in SERIES}
        chart = charts.bars(figures["hours"], names, t["chart_label"])
        return render(request, "overview.html", chart=chart, series=names, **figures)


async def _figures(conn: Connection, settings: Settings) -> dict[str, Any]:
    now = datetime.now(UTC)
    status = await overview.status(conn, settings)
    status["oldest_due_s"] = (await store.first(conn, "oldest_due"))["seconds"]
    status["held_apart"] = (await store.first(conn, "held_apart"))["n"]
    hours = by_hour(await store.rows(conn, "hours"), now)
    midnight = now.astimezone(LOCAL).replace(hour=0, minute=0, second=0, microsecond=0)
    today = per_rule(await store.rows(conn, "by_rule", {"since": midnight}))
    return {
        "status": status,
        "hours": hours,
        "recent": Counter(hours[-1].values) + Counter(hours[-2].values),
        "recent_since": hours[-2].at,
        "midnight": midnight,
        "today": today,
        "sent_today": sum(rule["accepted"] for rule in today.values()),
        "parts_today": sum(rule["parts"] for rule in today.values()),
        "replicas": await store.rows(conn, "replicas"),
    }


def by_hour(rows: Sequence[Mapping[str, Any]], now: datetime) -> list[charts.Bar]:
    """The last 24 hours, the running one last, in local time; hours without a message are there too."""
    counts: defaultdict[datetime, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["hour"].astimezone(LOCAL)][row["state"]] += row["n"]
    this_hour = now.astimezone(LOCAL).replace(minute=0, second=0, microsecond=0)
    return [
        charts.Bar(
            at=at,
            values={name: max(0, sum(counts[at][state] for state in states)) for name, states in SERIES.items()},
        )
        for at in (this_hour - timedelta(hours=back) for back in range(23, -1, -1))
    ]


def per_rule(rows: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """For each rule, busiest first: messages by state, and `parts` of those that were sent."""
    rules: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        rules[row["rule"]][row["state"]] += row["n"]
        if row["state"] == "accepted":
            rules[row["rule"]]["parts"] += row["parts"]
    return dict(sorted(rules.items(), key=lambda item: (-item[1]["accepted"], item[0])))
