"""The first screen: does it work, what happened in the last hours, what needs a person."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from aiohttp import web

from listener import overview
from listener.database import Connection
from listener.settings import Settings
from listener.web import charts, concerns, store
from listener.web.page import LOCAL, language, render
from listener.web.store import Store
from listener.web.texts import words

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


class Overview:
    """The figures of the first screen, shared by all who look at the same time."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._figures: dict[str, Any] = {}

    async def figures(self) -> Mapping[str, Any]:
        """All figures, at most `_FRESH` seconds old."""
        async with self._lock:
            if monotonic() - self._at > _FRESH:
                async with self._store.reading() as conn:
                    self._figures = await _figures(conn, self._settings)
                self._at = monotonic()
            return self._figures

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
    hours = by_hour(await store.rows(conn, "hours"), now)
    brakes = await store.rows(conn, "brakes")
    found = concerns.concerns(status, brakes, sum(bar.values["rejected"] for bar in hours))
    midnight = now.astimezone(LOCAL).replace(hour=0, minute=0, second=0, microsecond=0)
    today = per_rule(await store.rows(conn, "by_rule", {"since": midnight}))
    return {
        "status": status,
        "hours": hours,
        "recent": Counter(hours[-1].values) + Counter(hours[-2].values),
        "recent_since": hours[-2].at,
        "needs": found,
        "verdict": concerns.sentence(found, status),
        "today": today,
        "sent_today": sum(rule["accepted"] for rule in today.values()),
        "parts_today": sum(rule["parts"] for rule in today.values()),
        "replicas": await store.rows(conn, "replicas"),
        "brakes": brakes,
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
