"""What a bench measured and what it should have been. Figures are ratios within one run wherever that is possible."""

import os
import platform
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value; `least` or `most` is the bound it has to keep, None where it is for information.

    `readme` is what the table in the README calls it; without, it does not stand there.
    """

    name: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None
    readme: str = ""

    @property
    def bound(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}" if self.most is not None else ""

    @property
    def good(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one bench, the rounds behind them, and the machine they are true for."""

    bench: str
    figures: list[Figure]
    rounds: dict[str, list[float]]
    machine: dict[str, object] = field(default_factory=lambda: machine())

    @property
    def good(self) -> bool:
        return all(figure.good for figure in self.figures)

    def table(self) -> str:
        rows = (
            f"  {f.name:58} {f.value:10.3f} {f.unit:5} {f.bound:8} {'' if f.good else 'MISSED'}" for f in self.figures
        )
        return "\n".join([f"{self.bench}: {self.machine}", *rows])


def machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()}
