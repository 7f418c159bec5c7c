"""`/metrics` for Prometheus: figures of the whole fleet from the database, and how this process is.

Labels are closed sets (states, kinds of pauses, parts of the daemon, accounts of the rules); nobody's data is in them.
The answer is kept for a few seconds, so that however many scrape, the database is asked once. Gauges, where one might
look for counters: a retry takes a finished message out of its count again, which a counter must never do.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from listener import __version__
from listener.accounts import PauseKind
from listener.errors import OutOfReachError, describe
from listener.model import UNFINISHED, Mode, State
from listener.overview import GONE
from listener.pauses import Scope
from listener.web import store
from listener.web.concerns import unconfirmed
from listener.web.health import Health
from listener.web.overview_page import Overview
from listener.web.store import Store

log = structlog.get_logger()

# Seconds after which figures are asked for anew, and up to which whoever asks meanwhile is given the old ones: of those
# who scrape often, nobody waits for the database.
_FRESH = 5.0
_OLD = 12.0
# a database that does not answer in so long is shown as away; seconds
_PATIENCE = 2.0
_BY_PERSON = "person"


class Metrics:
    """Answers `/metrics`, for anybody."""

    def __init__(self, store: Store, overview: Overview, mode: Mode, health: Health | None) -> None:
        self._store = store
        self._overview = overview
        self._mode = mode
        self._health = health
        self._at = float("-inf")
        self._text = b""
        self._asking: asyncio.Task[Mapping[str, Any] | None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def close(self, _app: web.Application) -> None:
        if running := [task for task in (self._writing, self._asking) if task is not None]:
            await asyncio.wait(running)

    async def page(self, _request: web.Request) -> web.Response:
        age = monotonic() - self._at
        if age > _FRESH and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(), name="metrics")
        if age > _OLD and self._writing is not None:
            # whoever hangs up must not end it for the others
            await asyncio.shield(self._writing)
        return web.Response(body=self._text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _write(self) -> None:
        figures = await self._figures()
        self._text = exposition(_fleet(figures, self._mode), _process(self._health))
        self._at = monotonic()

    async def _figures(self) -> Mapping[str, Any] | None:
        # Waited for, never cancelled: a query that is cancelled asks the very server that does not answer.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="metrics figures")
        await asyncio.wait([self._asking], timeout=_PATIENCE)
        return self._asking.result() if self._asking.done() else None

    async def _ask(self) -> Mapping[str, Any] | None:
        """All figures; None while the database is out of reach."""
        try:
            figures = await self._overview.figures()
            async with self._store.reading() as conn:
                oldest_unknown = await store.first(conn, "oldest_unknown")
                ended = {row["state"]: row for row in await store.rows(conn, "ended")}
                kinds = {row["name"]: row["kind"] for row in await store.rows(conn, "stopped_accounts")}
        except (psycopg.Error, OutOfReachError) as error:
            log.warning("metrics_without_database", error=describe(error))
            return None
        return {**figures, "oldest_unknown_s": oldest_unknown["seconds"], "ended": ended, "kinds": kinds}


@dataclass(slots=True, eq=False)
class _Collected:
    """Metrics at hand, as a registry wants to be given them."""

    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def exposition(*metrics: Iterable[Metric]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([metric for some in metrics for metric in some]))
    return generate_latest(registry)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"listener_{name}", help_, value=value)


def _by(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"listener_{name}", help_, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _fleet(figures: Mapping[str, Any] | None, mode: Mode) -> Iterator[Metric]:
    """What all replicas share; only `database_up` while the database is away, since all else would be made up."""
    yield InfoMetricFamily("listener_build", "Version and mode.", value={"version": __version__, "mode": mode.value})
    yield _gauge("database_up", "1 while the database answers.", figures is not None)
    if figures is None:
        return
    status, ended = figures["status"], figures["ended"]
    yield _by(
        "messages",
        "Messages that are not finished.",
        "state",
        {state.value: status["messages"][state.value] for state in State if state in UNFINISHED},
    )
    over = [state.value for state in State if state not in UNFINISHED]
    none = {"n": 0, "parts": 0}
    yield _by(
        "messages_finished", "Messages that are finished, ever.", "state", {s: ended.get(s, none)["n"] for s in over}
    )
    yield _by("parts_finished", "SMS parts of them.", "state", {s: ended.get(s, none)["parts"] for s in over})
    yield _gauge("oldest_waiting_seconds", "Age of the oldest message not sent.", status["oldest_waiting_s"] or 0)
    yield _gauge("oldest_due_seconds", "How long it is due that nothing stops.", status["oldest_due_s"] or 0)
    yield _gauge("oldest_unknown_seconds", "Age of the oldest unclear message.", figures["oldest_unknown_s"] or 0)
    eta = float("inf") if status["eta_s"] is None else status["eta_s"]
    yield _gauge("backlog_eta_seconds", "Until all is sent; +Inf while a pause has no end.", eta)
    yield _gauge("outbox_changes", "Changes to be matched.", status["outbox"])
    yield _gauge("outbox_oldest_seconds", "Age of the oldest of them.", status["outbox_oldest_s"] or 0)
    yield _gauge("muted_changes", "Changes kept out by listener.mute.", status["muted"])
    yield CounterMetricFamily("listener_capture_failures", "Captures that failed.", value=status["capture_failures"])
    yield _gauge("replicas", "Replicas alive.", status["replicas"])
    yield _gauge("rules_version", "Rules in force.", status["rules"]["version"] or 0)
    yield _gauge("rules_faults", "Faults of the rules file as it is now.", len(status["rules"]["faults"]))
    yield _gauge(
        "selects_failing",
        "Daily queries that failed, or left rows out, when they last ran.",
        len(status["failing_selects"]),
    )
    yield _gauge("brakes", "Rules that their brake holds.", len(status["brakes"]))
    yield _gauge(
        "replicas_lost", "Replicas that ended without a word and were not replaced.", status["lost_replicas"]["n"]
    )
    yield _gauge(
        "deaf", "1 while a replica does not hear the doorbell and looks once a second instead.", status["deaf"]
    )
    yield _gauge(
        "notify_queue_usage", "Share of the server's queue of notifications that is not read.", status["notify_queue"]
    )
    yield _gauge("capture_gaps", "What capture lacks of what the rules need.", len(figures["gaps"]))
    yield _gauge(
        "database_unconfirmed", "1 while a restored or copied database waits for a person.", unconfirmed(status)
    )
    scopes = {scope.value: 0.0 for scope in Scope}
    for pause in status["pauses"]:
        scopes[{"everything": "all"}.get(pause["target"], pause["target"].split(" ", 1)[0])] += 1
    yield _by("pauses", "Pauses by people.", "scope", scopes)
    stopped = GaugeMetricFamily(
        "listener_account_stopped", "1 while nothing is sent by an account, and why.", labels=["account", "kind"]
    )
    for account in status["accounts"]:
        gone = status["accounts"][account]["reason"] == GONE
        why = PauseKind.CONFIG if gone else figures["kinds"].get(account)
        for kind in (*PauseKind, _BY_PERSON):
            stopped.add_metric([account, str(kind)], why == kind)
    yield stopped


def _process(health: Health | None) -> Iterator[Metric]:
    """How this replica is, from what it knows itself."""
    if health is None:
        return
    report = health.report()
    yield _gauge("healthy", "1 while every part of this replica moves.", report["ok"])
    yield _gauge("ready", "1 while this replica works.", health.readiness()["ok"])
    yield _gauge("listening", "1 while it hears the doorbell.", bool(report.get("listening")))
    parts = {name.split(" ", 1)[0]: seconds for name, seconds in report["moved_s"].items()}
    yield _by("part_age_seconds", "Since a part of it last moved.", "part", parts)
