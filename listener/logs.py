"""One event, one line, on stderr: text for a terminal, JSON for machines.

No phone, text or token is ever an argument of a log call.
"""

import logging
import sys

import structlog


def configure(style: str = "", *, quiet: bool = False) -> None:
    """`style` is text or json; empty means text on a terminal. `quiet` leaves out what is no warning."""
    text = style == "text" or (style == "" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not text),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # psycopg's own warnings may hold data of the ERP; what matters of them we say ourselves.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
