"""One event, one line, on stderr: text for a terminal, JSON for machines. README.md lists them all.

No phone, text or token is ever an argument of a log call; what looks like a phone is masked all the same. Whatever
somebody else wrote cannot end a line or colour it. What libraries log is told without their words, which may hold data.
Lines are written by a thread: output that nobody reads must not stop a delivery.
"""

import atexit
import logging
import sys
import threading
import unicodedata
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from listener.words import mask_phones

# lines kept for a reader that is slow; the oldest go first
KEPT = 1000
# seconds that the end of the process waits for the last lines to be read
_FAREWELL = 1.0
# seconds for which the same warning is told once; then again, with how often it was left out
QUIET = 60.0
_LONGEST = 500


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


def neutral(text: str) -> str:
    """What somebody else may have written: on one line, without control characters, a phone masked, not too long."""
    shown = "".join(c if unicodedata.category(c) not in _HARMFUL else f"\\u{ord(c):04x}" for c in text)
    shown = mask_phones(shown)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."


# controls, format marks such as those that turn the direction of writing, lone surrogates, line and paragraph ends
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _neutral(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: neutral(value) if isinstance(value, str) else value for name, value in event.items()}


class Once:
    """Leaves out a warning that was told already, and says how often when it is told again; `now` in seconds."""

    _KNOWN = 200

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        # when each was told last, and how often it was left out since
        self._told: dict[object, tuple[float, int]] = {}

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method not in ("warning", "error"):
            return event
        what = tuple(sorted((name, repr(value)) for name, value in event.items()))
        told, left_out = self._told.pop(what, (float("-inf"), 0))
        if self._now() - told < QUIET:
            self._told[what] = told, left_out + 1
            raise structlog.DropEvent
        self._told[what] = self._now(), 0
        while len(self._told) > self._KNOWN:
            del self._told[next(iter(self._told))]
        return {**event, "repeated": left_out} if left_out else event


class _Others(logging.Handler):
    """What libraries log, without what they say: their words may hold a row, an address with its password, a header."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        structlog.get_logger().warning(
            "library",
            name=record.name,
            place=f"{record.module}:{record.lineno}",
            error=error.__name__ if error else None,
        )


def _crashed(kind: type[BaseException], _error: BaseException, trace: TracebackType | None) -> None:
    """Instead of a traceback, whose last line may hold what a statement was about."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else None
    structlog.get_logger().error("crashed", error=kind.__name__, place=place)


def configure(style: str = "", *, quiet: bool = False) -> None:
    """`style` is text or json; empty means text on a terminal. `quiet` leaves out what is no warning."""
    text = style == "text" or (style == "" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            Once(),
            _neutral,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not text),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(Lines(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Others(logging.WARNING)], level=logging.WARNING, force=True)
    # What matters of its warnings we say ourselves.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    sys.excepthook = _crashed
    threading.excepthook = lambda args: _crashed(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
