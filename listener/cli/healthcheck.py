"""`listener healthcheck`: whether the daemon on this machine is well, for containers and supervisors."""

import http.client
import json

import click

from listener.cli.common import fail
from listener.errors import ListenerError
from listener.settings import DEFAULT_HTTP, host_and_port, read_settings

# seconds for the daemon to answer; it asks nobody for it
_PATIENCE = 5.0
# what the daemon listens on, and where it is then found
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@click.command()
def healthcheck() -> None:
    """Ask the daemon at LISTENER_HTTP whether every part of it moves; exit 0 if so, else 1 with the reasons."""
    try:
        reasons = _ask(read_settings().http or DEFAULT_HTTP)
    except ListenerError as error:
        raise fail(str(error), error.exit_code) from None
    if reasons:
        raise fail("\n".join(reasons), 1)
    click.echo("well: every part moves")


def _ask(address: str) -> list[str]:
    """What keeps the daemon at `address` from being well; nothing if it is."""
    host, port = host_and_port(address)
    door = http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=_PATIENCE)
    try:
        door.request("GET", "/healthz")
        answer = door.getresponse()
        if answer.status == 200:
            return []
        return [str(reason) for reason in json.load(answer)["reasons"]]
    except (OSError, http.client.HTTPException):
        return [f"nobody answers at {address}: the daemon does not run, or LISTENER_HTTP differs from its own"]
    except (ValueError, KeyError, TypeError):
        return [f"something else than listener answers at {address}"]
    finally:
        door.close()
