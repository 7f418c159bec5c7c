"""Whether a request is still in time for its slot: arithmetic alone, ages come in as arguments.

Slots are evenly spaced, and a steady delay between a slot and its request's first byte (COMMIT, connect, TLS) only
shifts them all. What makes a burst is a delay that changes: a process that was frozen, a network that was stuck. So a
request is stopped when it is later than requests usually are, by more than `TOLERANCE`.
"""

from dataclasses import dataclass

# seconds later than usual: with 12/s 100 ms let 13 into a second, 200 ms 15
TOLERANCE = 0.1
# one request moves what is usual by no more than this, so that a few stuck ones do not make lateness usual
_STEP = 0.02
# no delay longer than this ever becomes usual
_LONGEST = 1.0


@dataclass(slots=True)
class Punctuality:
    """How old slots usually are, in seconds, when the first byte leaves; begins strict and learns."""

    usual: float = 0.0

    def in_time(self, age: float) -> bool:
        """Whether a first byte may leave `age` seconds after its slot was asked for; learns from it either way."""
        good = age <= self.usual + TOLERANCE
        step = max(-_STEP, min(_STEP, age - self.usual))
        self.usual = min(_LONGEST, self.usual + step)
        return good
