"""A chart as SVG, made here: no script, no style attribute, colours by class so that they follow light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log10

from markupsafe import Markup

_WIDTH, _HEIGHT = 720, 190
_LEFT, _BOTTOM, _TOP = 60, 28, 16
_TICKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One hour: how many by series, in the order in which they stand on each other."""

    at: datetime
    values: Mapping[str, int]


def bars(data: Sequence[Bar], names: Mapping[str, str], label: str) -> Markup:
    """Stacked bars; `names` are the series and what people call them, `label` what the whole shows."""
    top = nice_top(max((sum(bar.values.values()) for bar in data), default=0))
    plot = _HEIGHT - _BOTTOM - _TOP
    step = (_WIDTH - _LEFT) / max(len(data), 1)
    out = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label),
    ]
    for tick in range(_TICKS + 1):
        value = top * tick / _TICKS
        y = _TOP + plot * (1 - tick / _TICKS)
        out.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, _WIDTH, y, y)
            + Markup('<text class="tick{}" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                "" if tick else " minor", _LEFT - 6, y + 4, _short(value)
            )
        )
    for place, bar in enumerate(data):
        out.append(_stack(bar, names, _LEFT + place * step, step, plot, top))
        if bar.at.hour % 3 == 0:
            out.append(
                Markup('<text class="tick{}" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                    " minor" if bar.at.hour % 6 else "",
                    _WIDTH if place == len(data) - 1 else _LEFT + (place + 0.5) * step,
                    _HEIGHT - 6,
                    "end" if place == len(data) - 1 else "middle",
                    f"{bar.at:%H}:00",
                )
            )
    return Markup("").join([*out, Markup("</svg>")])


def _stack(bar: Bar, names: Mapping[str, str], x: float, step: float, plot: float, top: int) -> Markup:
    said = ", ".join(f"{names[name]} {n}" for name, n in bar.values.items() if n) or "0"
    out = [Markup("<g><title>{}</title>").format(f"{bar.at:%H}:00: {said}")]
    # the whole column answers to the pointer, also where it is empty
    out.append(Markup('<rect class="hover" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(x, _TOP, step, plot))
    y = _TOP + plot
    for name, n in bar.values.items():
        if n > 0:
            height = max(plot * n / top, 1.5)
            y -= height
            out.append(
                Markup('<rect class="s-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    name, x + step * 0.15, y, step * 0.7, height
                )
            )
    return Markup("").join([*out, Markup("</g>")])


def nice_top(highest: int) -> int:
    """The end of the scale: 3, 6, 15, 30, 60, 150 ... and never below the highest bar."""
    if highest <= _TICKS:
        return _TICKS
    size: int = 10 ** int(log10(highest / _TICKS))
    return next(_TICKS * size * n for n in (1, 2, 5, 10) if _TICKS * size * n >= highest)


def _short(value: float) -> str:
    return f"{ceil(value)}" if value < 1000 else f"{value / 1000:g}k"
