"""Pictures as SVG that the page's style sheet colours: lines, dots and bars, without any script."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from dsllm.report.scales import Axis, Scale, format_number, format_tick, make_scale

WIDTH, HEIGHT = 560.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 16.0, 10.0, 44.0
MAX_POINTS = 400
N_COLOURS = 8

Point = tuple[float, float]
Look = Literal["line", "faint", "dashed", "dots", "dotted-line", "bars"]


@dataclass(frozen=True)
class Series:
    """Points of one thing; an empty name leaves it out of the legend."""

    name: str
    points: Sequence[Point]
    look: Look = "line"
    colour: int = 0
    shade: float | None = (
        None  # instead of a colour of its own: where between the first and the last of a row
    )

    @property
    def paint(self) -> Markup:
        """The attributes that colour it: a class, and for a shade a style."""
        if self.shade is None:
            return Markup('class="{} c{}"').format(self.look, self.colour % N_COLOURS)
        return Markup('class="{} shade" style="--shade: {:.3f}"').format(self.look, self.shade)


@dataclass(frozen=True)
class Bar:
    """One bar: its value, and its standard error where there is one."""

    value: float
    error: float | None = None


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """Draw series over two axes; `title` is what a screen reader says."""
    shown = [one for one in series if one.points]
    x_scale = make_scale((px for one in shown for px, _ in one.points), x, LEFT, WIDTH - RIGHT)
    y_scale = make_scale((py for one in shown for _, py in one.points), y, HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, x_scale, y_scale)]
    parts += [_draw(one, x_scale, y_scale) for one in shown]
    return _figure(title, HEIGHT, parts) + _legend(shown)


def bar_chart(
    title: str,
    labels: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Bar | None]]],
    axis: Axis,
    *,
    decimals: int = 2,
) -> Markup:
    """Draw horizontal bars: for each label one bar of each group (name, bars), None where it has none."""
    thickness = 16.0 if len(groups) == 1 else max(9.0, 30.0 / len(groups))
    pitch = thickness * len(groups) + 12.0
    left = min(220.0, 16.0 + 6.6 * max((len(label) for label in labels), default=0))
    height = TOP + pitch * len(labels) + BOTTOM
    values = [bar.value + (bar.error or 0) for _, bars in groups for bar in bars if bar]
    scale = make_scale([*values, 0.0], Axis(axis.label, has_zero=True), left, WIDTH - 52)
    parts = [_grid_down(scale, TOP, height - BOTTOM), _axis_name(axis.label, (left + WIDTH - 52) / 2, height)]
    for row, label in enumerate(labels):
        top = TOP + row * pitch + 6
        middle = top + thickness * len(groups) / 2
        parts.append(_text(left - 8, middle + 4, _shorten(label, 32), "end", title=label))
        for index, (name, bars) in enumerate(groups):
            if bar := bars[row]:
                parts.append(
                    _bar(bar, scale, top + index * thickness, thickness, _Said(name, label, index, decimals))
                )
    legend = _legend([Series(name, (), "bars", index) for index, (name, _) in enumerate(groups) if name])
    return _figure(title, height, parts) + legend


def smooth(points: Sequence[Point], n_windows: int = 60) -> list[Point]:
    """Average points over windows of equal numbers, at the windows' mean places."""
    width = max(1, len(points) // n_windows)
    windows = [points[first : first + width] for first in range(0, len(points), width)]
    return [(_mean(x for x, _ in window), _mean(y for _, y in window)) for window in windows]


def thin(points: Sequence[Point]) -> list[Point]:
    """Keep the lowest and the highest point of each stretch, so that a long noisy line keeps its shape."""
    if len(points) <= MAX_POINTS:
        return list(points)
    width = -(-2 * len(points) // MAX_POINTS)
    kept: list[Point] = []
    for first in range(0, len(points), width):
        stretch = points[first : first + width]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _figure(title: str, height: float, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )


def _frame(x: Axis, x_scale: Scale, y_scale: Scale) -> Markup:
    """Draw grid lines with their numbers, and the name of the x axis: y's stands over the picture."""
    parts = [_grid_down(x_scale, TOP, HEIGHT - BOTTOM)]
    for tick in y_scale.ticks:
        at = y_scale(tick)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "grid"))
        label = format_tick(tick, y_scale.ticks, is_log=y_scale.is_log)
        parts.append(_text(LEFT - 8, at + 4, label, "end"))
    parts.append(_axis_name(x.label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT))
    return Markup("").join(parts)


def _grid_down(scale: Scale, top: float, bottom: float) -> Markup:
    parts = []
    for tick in scale.ticks:
        at = scale(tick)
        parts.append(_line(at, top, at, bottom, "grid"))
        parts.append(_text(at, bottom + 17, format_tick(tick, scale.ticks, is_log=scale.is_log), "middle"))
    return Markup("").join(parts)


def _axis_name(label: str, middle: float, height: float) -> Markup:
    return Markup('<text class="name" text-anchor="middle" x="{:g}" y="{:g}">{}</text>').format(
        middle, height - 6, label
    )


def _draw(one: Series, x_scale: Scale, y_scale: Scale) -> Markup:
    kept = thin(one.points)
    dots = (
        [_dot(point, x_scale, y_scale, one) for point in kept] if one.look in ("dots", "dotted-line") else []
    )
    if one.look == "dots":
        return Markup("").join(dots)
    places = " ".join(f"{x_scale(x):g},{y_scale(y):g}" for x, y in kept)
    return Markup('<polyline {} points="{}"/>').format(one.paint, places) + Markup("").join(dots)


def _dot(point: Point, x_scale: Scale, y_scale: Scale, one: Series) -> Markup:
    name = f"{one.name}: " if one.name else ""
    said = f"{name}{format_number(float(point[0]))}, {format_number(float(point[1]))}"
    return Markup('<circle {} cx="{:g}" cy="{:g}" r="3"><title>{}</title></circle>').format(
        one.paint, x_scale(point[0]), y_scale(point[1]), said
    )


@dataclass(frozen=True)
class _Said:
    """What is said about a bar: of which group, of which row, in which colour, with how many decimals."""

    group: str
    label: str
    colour: int
    decimals: int

    def text(self, bar: Bar) -> str:
        error = "" if bar.error is None else f" ± {bar.error:.{self.decimals}f}"
        return f"{self.group + ', ' if self.group else ''}{self.label}: {self.value(bar)}{error}"

    def value(self, bar: Bar) -> str:
        return f"{bar.value:,.{self.decimals}f}"


def _bar(bar: Bar, scale: Scale, top: float, thickness: float, said: _Said) -> Markup:
    zero, end = scale(0.0), scale(bar.value)
    parts = [
        Markup(
            '<rect class="bar c{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}"><title>{}</title></rect>'
        ).format(
            said.colour % N_COLOURS,
            min(zero, end),
            top,
            max(abs(end - zero), 0.8),
            thickness - 2,
            said.text(bar),
        )
    ]
    middle = top + (thickness - 2) / 2
    edge = max(zero, end)
    if bar.error is not None:
        low, high = scale(bar.value - bar.error), scale(bar.value + bar.error)
        parts.append(_line(low, middle, high, middle, "error"))
        edge = max(edge, high)
    if thickness >= 9:
        parts.append(_text(edge + 6, middle + 4, said.value(bar), "start"))
    return Markup("").join(parts)


def _legend(series: Sequence[Series]) -> Markup:
    """Name the series under the picture; a single one needs no legend."""
    named = [one for one in series if one.name]
    if len(named) < 2:
        return Markup("")
    items = Markup("").join(Markup("<li {}>{}</li>").format(one.paint, one.name) for one in named)
    return Markup('<ul class="legend">{}</ul>').format(items)


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(look, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, title: str = "") -> Markup:
    hover = Markup("<title>{}</title>").format(title) if title and title != text else Markup("")
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}">{}{}</text>').format(
        x, y, anchor, escape(text), hover
    )


def _shorten(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"
