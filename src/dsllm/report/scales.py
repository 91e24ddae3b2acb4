"""Axes: from data to a picture's coordinates, where the ticks stand, and how numbers are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its label, and where it begins and ends."""

    label: str
    is_log: bool = False
    has_zero: bool = False
    is_tight: bool = False  # it ends where the data end


@dataclass(frozen=True)
class Scale:
    """A line from `low`..`high` in the data to `start`..`end` in the picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Where a value stands in the picture, to a tenth of a unit; outside the ends it is held there."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def make_scale(values: Iterable[float], axis: Axis, start: float, end: float, *, n_ticks: int = 5) -> Scale:
    """Make the scale that holds all values, its ends at ticks or just beyond the data."""
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not axis.is_log)]
    low, high = (min(shown), max(shown)) if shown else (1.0, 2.0)
    if axis.is_log:
        low, high = (low / 1.15, high * 1.15) if low < high else (low / 2, high * 2)
        return Scale(low, high, start, end, True, _log_ticks(low, high))
    if axis.has_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    step = _nice_step((high - low) / n_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    if axis.is_tight:
        return Scale(low, high, start, end, False, tuple(tick for tick in ticks if low <= tick <= high))
    return Scale(ticks[0], ticks[-1], start, end, False, tuple(ticks))


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten, every second or third where there are many; within one or two decades also 2 and 5."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / 6))
    powers = [10.0**power for power in range(first, last + 1, stride)]
    if len(powers) > 2:
        return tuple(powers)
    factors = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    fine = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in factors]
    return tuple(value for value in fine if low <= value <= high)


def format_tick(value: float, ticks: Sequence[float], *, is_log: bool) -> str:
    """Write a tick: 2.5k, 10M, 0.02, 3e-4, 1e18, with as many decimals as its neighbours need."""
    has_small = not is_log and any(0 < abs(tick) < 1e-3 for tick in ticks)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e13 or size < 1e-3 or has_small:
        return f"{value:.1e}".replace("e+", "e").replace("e-0", "e-").replace(".0e", "e")
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{value / factor:g}{unit}"
    if is_log:
        return f"{value:g}"
    step = min((abs(a - b) for a, b in pairwise(ticks)), default=size)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**decimals, 6) % 1:  # a step of 0.25 needs two
        decimals += 1
    return f"{value:.{decimals}f}"


def format_number(value: object) -> str:
    """Write a number for reading: 1,234,567 · 12.35 · 0.004321 · 1.5e18; anything else as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else f"{value:.4g}".replace("e+", "e")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.4g}".replace("e+", "e").replace("e-0", "e-")
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def format_percent(share: float, *, decimals: int = 1) -> str:
    """Write a share of one: 12.3 %, with a true minus."""
    return f"{share * 100:.{decimals}f} %".replace("-", "−")


def format_bytes(n_bytes: float) -> str:
    """Write a size: 512 B, 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n_bytes) < 999.5 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    raise AssertionError
