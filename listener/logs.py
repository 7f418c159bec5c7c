"""One event, one line, on stderr: text for a terminal, JSON for machines.

No phone, text or token is ever an argument of a log call. Lines are written by a thread: output that nobody reads must
not stop a delivery.
"""

import atexit
import logging
import sys
import threading
from collections import deque
from typing import TextIO

import structlog

# lines kept for a reader that is slow; the oldest go first
KEPT = 1000
# seconds that the end of the process waits for the last lines to be read
_FAREWELL = 1.0


class Lines:
    """A file to write whole lines to that never blocks."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._more = threading.Condition()
        self._writing = False
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush_within, _FAREWELL)

    def write(self, line: str) -> None:
        with self._more:
            self._lines.append(line)
            self._more.notify_all()

    def flush(self) -> None:
        """Does nothing: the thread flushes each line."""

    def flush_within(self, seconds: float) -> None:
        """Waits until all is written, at most `seconds`."""
        with self._more:
            self._more.wait_for(lambda: not self._lines and not self._writing, seconds)

    def _run(self) -> None:
        while True:
            with self._more:
                self._writing = False
                self._more.notify_all()
                self._more.wait_for(lambda: self._lines)
                line, self._writing = self._lines.popleft(), True
            try:
                self._file.write(line)
                self._file.flush()
            except (OSError, ValueError):
                # Whoever read it is gone; the work goes on.
                continue


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
        logger_factory=structlog.WriteLoggerFactory(Lines(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    # psycopg's own warnings may hold data of the ERP; what matters of them we say ourselves.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
