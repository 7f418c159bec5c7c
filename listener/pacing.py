"""Whether a request is still in time for its slot: arithmetic alone, ages come in as arguments.

Slots are evenly spaced, and a steady delay between a slot and its request's first byte (COMMIT, connect, TLS) only
shifts them all. What makes a burst is a delay that changes: a process that was frozen, a network that was stuck. So a
request is stopped when it is later than requests usually are, by more than `TOLERANCE`. What is slower than may ever be
usual still gets through, a few at a time: slow is not down.
"""

from dataclasses import dataclass

# seconds later than usual: with 12/s 100 ms let 13 into a second, 200 ms 15
TOLERANCE = 0.1
# one request moves what is usual by no more than this, so that a few stuck ones do not make lateness usual
_STEP = 0.02
# no delay longer than this ever becomes usual
_LONGEST = 1.0
# While every request takes longer than that, one in so many may be late: as many as a replica may have on their way
# without a byte written, so that if all of them come through at once, one is let go.
ONE_IN = 8


@dataclass(slots=True)
class Punctuality:
    """How old slots usually are, in seconds, when the first byte leaves; begins strict and learns."""

    usual: float = 0.0
    # requests stopped since the last one that left
    stopped: int = 0

    def in_time(self, age: float) -> bool:
        """Whether a first byte may leave `age` seconds after its slot was asked for; learns from it either way."""
        always_slow = self.usual >= _LONGEST
        good = age <= self.usual + TOLERANCE or (always_slow and self.stopped + 1 >= ONE_IN)
        self.stopped = 0 if good else self.stopped + 1
        step = max(-_STEP, min(_STEP, age - self.usual))
        self.usual = min(_LONGEST, self.usual + step)
        return good
