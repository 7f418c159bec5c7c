"""The HTTP server inside `listener run`: on this machine alone unless a token guards it."""

import errno
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from listener.errors import UsageError
from listener.settings import DEFAULT_HTTP, LOOPBACK, Settings, host_and_port
from listener.web.app import make_app
from listener.web.health import Health

log = structlog.get_logger()


@asynccontextmanager
async def serve(settings: Settings, health: Health) -> AsyncIterator[str | None]:
    """Serves while it is entered; yields the address as `http://host:port`.

    Where nobody chose an address and the default one is taken (another replica on this machine), it yields None and
    serves nothing. Raises `UsageError` when a chosen one cannot be had or would be open to others without a token.
    """
    host, port = host_and_port(settings.http or DEFAULT_HTTP)
    if host not in LOOPBACK and not settings.admin_token:
        raise UsageError(f"LISTENER_HTTP: {host} can be reached by others; that needs a LISTENER_ADMIN_TOKEN")
    runner = web.AppRunner(_application(settings, health), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = _refusal(error)
            if settings.http or error.errno != errno.EADDRINUSE:
                raise UsageError(f"LISTENER_HTTP: {host}:{port} {why}; give this replica another one") from None
            log.warning("no_page", address=f"{host}:{port}", why=why, cure="set LISTENER_HTTP to a free address")
            yield None
            return
        address = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
        log.info("serving", address=address)
        yield address
    finally:
        await runner.cleanup()


def _refusal(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is taken"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "is no address of this machine"
    return f"cannot be had ({errno.errorcode.get(error.errno or 0, type(error).__name__)})"


def _application(settings: Settings, health: Health) -> web.Application:
    app = make_app(settings, health)
    app.router.add_get("/healthz", _answer(health.report))
    app.router.add_get("/readyz", _answer(health.readiness))
    return app


def _answer(ask: Callable[[], Mapping[str, Any]]) -> Callable[[web.Request], Any]:
    """200 while all is well, else 503; both with the reasons."""

    async def handle(_request: web.Request) -> web.Response:
        report = ask()
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return web.json_response(report, status=200 if report["ok"] else 503, headers=headers)

    return handle
