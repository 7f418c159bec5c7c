"""What a bench measured and what it should have been. Figures are ratios within one run wherever that is possible."""

import os
import platform
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value; `least` or `most` is the bound it has to keep, None where it is for information."""

    name: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None

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
        lines = [f"{self.bench}: {self.machine}"]
        for f in self.figures:
            bound = f">= {f.least:g}" if f.least is not None else f"<= {f.most:g}" if f.most is not None else ""
            lines.append(f"  {f.name:58} {f.value:10.3f} {f.unit:5} {bound:8} {'' if f.good else 'MISSED'}")
        return "\n".join(lines)


def machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()}
