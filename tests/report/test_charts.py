"""Charts: where ticks stand, how numbers are written, and that points land where they should."""

import re

import pytest

from dsllm.report.charts import MAX_POINTS, Bar, Series, bar_chart, line_chart, smooth, thin
from dsllm.report.scales import Axis, format_bytes, format_number, format_percent, format_tick, make_scale


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 100], (0, 20, 40, 60, 80, 100)),
        ([6.1, 8.9], (6, 7, 8, 9)),
        ([0.0001, 0.003], (0, 0.001, 0.002, 0.003)),
        ([5, 5], (2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_ticks_are_round_and_hold_the_data(values, ticks):
    scale = make_scale(values, Axis("x"), 0, 100)
    assert scale.ticks == pytest.approx(ticks)


def test_tight_axis_ends_with_the_data():
    scale = make_scale([0, 307], Axis("x", is_tight=True), 0, 100)
    assert (scale(0), scale(307)) == (0, 100)
    assert scale.ticks == (0, 100, 200, 300)


def test_log_axis_is_even_in_ratios():
    scale = make_scale([1e17, 1e19], Axis("C", is_log=True), 0, 100)
    assert scale(1e18) == pytest.approx(50, abs=0.1)
    assert scale.ticks == (1e17, 1e18, 1e19)


def test_log_axis_passes_over_what_has_no_logarithm():
    scale = make_scale([0, -1, 10, 100], Axis("C", is_log=True), 0, 100)
    assert scale.low > 0


@pytest.mark.parametrize(
    ("value", "ticks", "text"),
    [
        (0, (0, 1), "0"),
        (2500, (0, 2500, 5000), "2.5k"),
        (1e7, (0, 1e7), "10M"),
        (0.25, (0, 0.25, 0.5), "0.25"),
        (0.5, (0, 0.5, 1.0), "0.5"),
        (1e-3, (0, 5e-4, 1e-3), "1e-3"),
        (1e18, (1e17, 1e18), "1e18"),
    ],
)
def test_ticks_are_written_short(value, ticks, text):
    assert format_tick(value, ticks, is_log=False) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (12.3456, "12.35"),
        (0.0043211, "0.004321"),
        (1.5e18, "1.5e18"),
        (3e-7, "3e-7"),
        (True, "yes"),
        (None, "–"),
        (float("nan"), "nan"),
        ("<b>", "<b>"),
    ],
)
def test_numbers_are_written_for_reading(value, text):
    assert format_number(value) == text


def test_sizes_and_shares():
    assert format_bytes(512) == "512 B"
    assert format_bytes(12_345_678) == "12.3 MB"
    assert format_bytes(999_700) == "1 MB"
    assert format_percent(0.1234) == "12.3 %"
    assert format_percent(-0.05) == "−5.0 %"


def test_points_land_where_they_should():
    chart = line_chart("t", Axis("x", is_tight=True), Axis("y"), [Series("a", [(0, 0), (10, 100)])])
    (places,) = re.findall(r'<polyline class="line c0" points="([^"]*)"', chart)
    # x from 48 to 560 - 16; y from 280 - 44 up to 10.
    assert places == "48,236 544,10"


def test_one_series_needs_no_legend_two_do():
    axes = Axis("x"), Axis("y")
    one, two = Series("a", [(0, 1), (1, 2)]), Series("b", [(0, 2), (1, 1)], colour=1)
    assert "legend" not in line_chart("t", *axes, [one])
    assert line_chart("t", *axes, [one, two]).count("<li ") == 2


def test_bars_say_value_and_error():
    chart = bar_chart("t", ["task"], [("base", [Bar(0.25, 0.01)]), ("chat", [None])], Axis("score"))
    assert "base, task: 0.25 ± 0.01" in chart
    assert chart.count("<rect") == 1


def test_names_are_escaped():
    series = [Series("<a>", [(0, 1)], "dots"), Series("&", [(0, 1)], "dots")]
    chart = line_chart("<t>", Axis("<x>"), Axis("y"), series)
    assert not re.search(r"<[atx]>", chart)
    assert "&lt;a&gt;: 0, 1" in chart


def test_long_lines_keep_their_extremes():
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    points[5000] = (5000.0, 99.0)
    kept = thin(points)
    assert len(kept) <= MAX_POINTS
    assert (5000.0, 99.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:10]) == points[:10]


def test_smoothing_averages_windows():
    assert smooth([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)], n_windows=2) == [(0.5, 2.0), (2.5, 6.0)]
