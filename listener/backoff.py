"""How long to wait after a refusal: arithmetic alone, the random source comes in as an argument."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Grows by `factor` from `first` up to `longest` seconds; `jitter` is the share by which a wait may be longer."""

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.2

    def delay(self, streak: int, uniform: Callable[[], float]) -> float:
        """Seconds before the next try after `streak` (1, 2, ...) failures in a row; `uniform` gives 0 to 1."""
        wait = min(self.longest, self.first * self.factor ** min(max(streak, 1) - 1, 30))
        return wait * (1 + self.jitter * uniform())
