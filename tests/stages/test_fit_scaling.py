"""Scaling laws: arithmetic by hand, planted laws found again, the paper's tables, honest refusals."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from dsllm.errors import InputError
from dsllm.progress import Reporter
from dsllm.stages.fit_scaling.bands import find_bands
from dsllm.stages.fit_scaling.config import FitConfig
from dsllm.stages.fit_scaling.fit import analyse, held_out, law_of
from dsllm.stages.fit_scaling.isoflop import fit_parabola
from dsllm.stages.fit_scaling.laws import Bootstrap, fit_floored_law, fit_power_law, fit_with_interval
from dsllm.stages.fit_scaling.parametric import fit_surface
from dsllm.stages.fit_scaling.published import CHINCHILLA, CHINCHILLA_FIT, DEEPSEEK, step_law
from dsllm.stages.fit_scaling.runs import Budget, Run, group_by_budget
from dsllm.stages.fit_scaling.shapes import SCALES, find_shape, make_model

FAST = FitConfig(n_draws=100, pictures="none")
QUIET = Reporter(is_quiet=True)
GOLDEN = Path(__file__).parents[1] / "golden" / "scaling_surface.json"


def make_run(compute=1e18, flops=1e9, loss=3.0, **more):
    return Run(
        "here", compute_flops=compute, flops_per_token=flops, n_tokens=compute / flops, loss=loss, **more
    )


# Power laws


def test_power_law_by_hand():
    # ln y = 0, 1, 3 at ln x = 0, 1, 2: mean 4/3 at 1; slope (-1 * -4/3 + 1 * 5/3) / 2 = 1.5; at 0: -1/6.
    law = fit_power_law([1, math.e, math.e**2], [1, math.e, math.e**3])
    assert law.exponent == pytest.approx(1.5, abs=1e-12)
    assert law.coefficient == pytest.approx(math.exp(-1 / 6), abs=1e-12)


def test_weights_multiply_residuals():
    # Weight 0 takes the third point out; the line through the first two is y = x.
    law = fit_power_law([1, 10, 100], [1, 10, 5000], weights=[1, 1, 0])
    assert (law.coefficient, law.exponent) == pytest.approx((1, 1), abs=1e-12)


def test_power_law_needs_two_different_x():
    with pytest.raises(InputError, match="needs 2 different x, found 1"):
        fit_power_law([1e17, 1e17], [1, 2])


def test_power_law_refuses_what_has_no_logarithm():
    with pytest.raises(InputError, match="y holds -1"):
        fit_power_law([1, 2], [1, -1])


def test_same_seed_gives_the_same_interval():
    x, y = [1, 2, 4, 8, 16], [1.0, 2.1, 3.9, 8.4, 15.0]
    one, two, other = (fit_with_interval(x, y, Bootstrap(seed=seed)) for seed in (0, 0, 1))
    assert one == two
    assert one.exponent_interval != other.exponent_interval
    assert one.exponent_interval[0] < one.law.exponent < one.exponent_interval[1]


def test_three_points_give_no_interval():
    assert fit_with_interval([1, 2, 4], [1, 2, 5], Bootstrap()).exponent_interval is None


def test_interval_holds_the_planted_exponent_as_often_as_it_says():
    # 400 trials at 95 %: a standard deviation is 1.1 %, so 91 % is 3.7 of them below.
    generator, x = np.random.default_rng(0), np.geomspace(1e17, 3e20, 8)
    n_held = 0
    for trial in range(400):
        y = 0.17 * x**0.52 * np.exp(0.05 * generator.standard_normal(8))
        low, high = fit_with_interval(x, y, Bootstrap(n_draws=500, seed=trial)).exponent_interval
        n_held += low <= 0.52 <= high
    assert 0.91 <= n_held / 400 <= 0.99


def test_floored_law_finds_its_floor():
    x = np.geomspace(1e17, 3e20, 8)
    law = fit_floored_law(x, 0.55 + 12 * x**-0.075, with_floor=True)
    assert law.floor == pytest.approx(0.55, abs=1e-3)  # the search's last step is 1e-5 of the lowest y
    assert law.law.exponent == pytest.approx(-0.075, abs=1e-3)


def test_held_out_error_is_that_of_the_largest():
    # y = x up to 3, so 4 is foretold as 4 where 5 was found.
    error = held_out([1, 2, 3, 4], [1, 2, 3, 5], fit_power_law)
    assert error["predicted"] == pytest.approx(4)
    assert error["error_frac"] == pytest.approx(-0.2)


def test_two_budgets_leave_nothing_to_hold_out():
    assert held_out([1, 2], [1, 2], fit_power_law) is None


# Published laws


@pytest.mark.parametrize(
    ("flops_per_token", "lr_max", "batch_seqs", "used_lr", "used_seqs"),
    [
        # 72 n d^2 + 12 n d l: what equation 1 says, beside what table 2 says was used.
        (72 * 30 * 4096**2 + 12 * 30 * 4096**2, 4.25e-4, 2252, 4.2e-4, 2304),
        (72 * 95 * 8192**2 + 12 * 95 * 8192 * 4096, 3.12e-4, 5043, 3.2e-4, 4608),
    ],
    ids=["7b", "67b"],
)
def test_laws_give_table_2(flops_per_token, lr_max, batch_seqs, used_lr, used_seqs):
    compute = flops_per_token * 2e12
    assert DEEPSEEK.lr_max(compute) == pytest.approx(lr_max, rel=0.002)  # three digits
    assert DEEPSEEK.batch_tokens(compute) / 4096 == pytest.approx(batch_seqs, rel=0.002)
    assert DEEPSEEK.lr_max(compute) == pytest.approx(used_lr, rel=0.03)
    assert DEEPSEEK.batch_tokens(compute) / 4096 == pytest.approx(used_seqs, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "n1", "n2", "m", "ratios"),
    [
        ((8, 512), 25.2e6, 77.6e6, 352e6, (0.43, 1.32)),
        ((12, 768), 84.9e6, 164e6, 963e6, (0.53, 1.02)),
        ((24, 1024), 302e6, 407e6, 3.02e9, (0.60, 0.81)),
        ((24, 2048), 1.21e9, 1.42e9, 9.66e9, (0.75, 0.88)),
        ((32, 4096), 6.44e9, 6.86e9, 45.1e9, (0.85, 0.91)),
        ((40, 5120), 12.6e9, 13.1e9, 85.6e9, (0.88, 0.92)),
        ((80, 8192), 64.4e9, 65.3e9, 419e9, (0.92, 0.94)),
    ],
)
def test_scales_give_table_3(shape, n1, n2, m, ratios):
    six_n1, six_n2, scale = (of(make_model(*shape, 102400, 4096)) for of in SCALES.values())
    assert six_n1 / 6 == pytest.approx(n1, rel=0.005)  # printed with three digits
    assert six_n2 / 6 == pytest.approx(n2, rel=0.005)
    assert scale == pytest.approx(m, rel=0.005)
    assert six_n1 / scale == pytest.approx(ratios[0], abs=0.01)  # .85 is printed for 72/84 = .857
    assert six_n2 / scale == pytest.approx(ratios[1], abs=0.01)


def test_optimal_model_and_data_multiply_to_compute():
    for compute in (1e17, 1e24):
        split = DEEPSEEK.flops_per_token(compute) * DEEPSEEK.n_tokens(compute)
        assert split == pytest.approx(compute, rel=2e-4)  # the bases multiply to 1.0001


def test_chinchilla_law_is_where_its_surface_is_lowest():
    compute = 1e21
    n = np.geomspace(1e8, 1e11, 20001)
    lowest = n[np.argmin([CHINCHILLA_FIT(x, compute / (6 * x)) for x in n])]
    step = (1e11 / 1e8) ** (1 / 20000) - 1
    assert CHINCHILLA.flops_per_token(compute) / 6 == pytest.approx(lowest, rel=step)
    assert CHINCHILLA.n_tokens(compute) == pytest.approx(compute / (6 * lowest), rel=step)


@pytest.mark.parametrize(
    ("n_parameters", "lr_max", "batch_tokens"), [(6.07e9, 1.13e-3, 6.1e6), (65.75e9, 2.07e-4, 6.1e6)]
)
def test_step_law_for_the_papers_two_models(n_parameters, lr_max, batch_tokens):
    # 1.79 N^-0.713 D^0.307 and 0.58 D^0.571 at 2e12 tokens, worked out with logarithms.
    assert step_law(n_parameters, 2e12) == pytest.approx((lr_max, batch_tokens), rel=0.01)


def test_pretrain_follows_the_same_laws():
    from dsllm.train.laws import optimal_batch_tokens, optimal_lr

    for compute in (1e12, 1e20, 8e22):
        assert DEEPSEEK.lr_max(compute) == pytest.approx(optimal_lr(compute), rel=1e-12)
        assert DEEPSEEK.batch_tokens(compute) == pytest.approx(optimal_batch_tokens(compute), rel=1e-12)


# IsoFLOP


def test_parabola_by_hand():
    # loss = 2 + 3 (ln x - 1)^2 at ln x = 0, 1, 2.
    parabola, reason = fit_parabola(np.exp([0.0, 1.0, 2.0]), np.array([5.0, 2.0, 5.0]), 2)
    assert reason is None
    assert (parabola.x_opt, parabola.lowest, parabola.curvature) == pytest.approx((math.e, 2.0, 3.0))


def test_parabola_takes_only_the_scales_beside_the_lowest():
    log_x = np.arange(-3.0, 4.0)
    losses = 2 + log_x**2
    losses[0] = losses[-1] = 100.0  # far from the minimum
    assert fit_parabola(np.exp(log_x), losses, 2)[0].curvature == pytest.approx(1.0)
    assert fit_parabola(np.exp(log_x), losses, 0)[0].curvature > 5


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([1.0, 2.0, 3.0, 4.0], "lowest at the smallest model scale tried, 1: no interior minimum"),
        ([4.0, 3.0, 2.0, 1.0], "lowest at the largest model scale tried, 1000: no interior minimum"),
        ([2.0, 1.0], "2 of the 3 different model scales"),
    ],
)
def test_no_interior_minimum_is_refused(losses, reason):
    parabola, said = fit_parabola(10.0 ** np.arange(len(losses)), np.array(losses), 2)
    assert parabola is None
    assert reason in said


def test_budgets_gather_runs_of_about_the_same_compute():
    budgets = group_by_budget([make_run(compute=c) for c in (1e18, 1.04e17, 1e17, 1.09e17)], 0.1)
    assert [len(budget.runs) for budget in budgets] == [3, 1]
    assert budgets[0].compute_flops == pytest.approx((1.0 * 1.04 * 1.09) ** (1 / 3) * 1e17)


# Near-optimal bands


def find_one_band(values, losses):
    runs = tuple(make_run(lr_max=value, loss=loss) for value, loss in zip(values, losses, strict=True))
    (band,) = find_bands([Budget(1e18, runs)], lambda run: run.lr_max, 0.0025)
    return band


def test_band_is_what_exceeds_the_lowest_by_a_quarter_percent():
    band = find_one_band([1, 2, 4, 8, 16], [2.1, 2.004, 2.0, 2.005, 2.1])
    assert (band.low, band.high, band.n_near) == (2, 8, 3)  # 2.005 is 2 * 1.0025
    assert band.centre == pytest.approx(4)  # geometric mean of 2, 4, 8
    assert band.reason is None


def test_best_at_the_edge_of_the_search_does_not_count():
    band = find_one_band([1, 2, 4], [2.2, 2.1, 2.0])
    assert "the highest value tried, 4" in band.reason


def test_band_at_the_edge_warns():
    band = find_one_band([1, 2, 4], [2.001, 2.0, 2.1])
    assert band.reason is None
    assert "reaches the lowest value tried, 1" in band.warning


# The surface


def test_surface_equals_scipys():
    golden = json.loads(GOLDEN.read_text())
    runs = [
        make_run(
            compute=point["n_parameters"] * point["n_tokens"],
            flops=point["n_parameters"],
            loss=point["loss"],
        )
        for point in golden["points"]
    ]
    surface, reason = fit_surface(runs)
    expected = golden["scipy"]
    assert reason is None
    assert surface.huber == pytest.approx(expected["huber"], rel=1e-9)
    actual = surface.to_dict()
    for name in ("A", "B", "E", "alpha", "beta"):
        # The error is flat along a valley: where it is equal to 1e-9, the place is known to about 1e-5.
        assert actual[name] == pytest.approx(expected[name], rel=1e-4), name


def test_surface_is_found_exactly_without_noise():
    generator = np.random.default_rng(0)
    flops, tokens = 10 ** generator.uniform(7, 10, 40), 10 ** generator.uniform(8, 11, 40)
    losses = 1.7 + 300 / flops**0.3 + 900 / tokens**0.35
    surface, _ = fit_surface(
        [make_run(compute=m * d, flops=m, loss=y) for m, d, y in zip(flops, tokens, losses, strict=True)]
    )
    law = surface.law
    assert (law.a, law.b, law.e, law.alpha, law.beta) == pytest.approx((300, 900, 1.7, 0.3, 0.35), rel=1e-6)


def test_surface_says_why_it_cannot_be_fitted():
    few = [make_run(loss=3.0 + i) for i in range(5)]
    same = [make_run(compute=1e18 * (i + 1), loss=3.0 - i / 100) for i in range(12)]
    assert "5 runs" in fit_surface(few)[1]
    assert "model scale varies by less" in fit_surface(same)[1]


# All of it


def test_refused_budget_is_named_and_left_out():
    runs = [
        make_run(compute=compute, flops=1e9 * 2**i, loss=3 + (i - best) ** 2 / 10)
        for compute, best in ((1e17, 2), (1e18, 3), (1e19, 6))  # the last one's minimum is at its edge
        for i in range(7)
    ]
    fits = analyse(runs, "loss", FAST)
    assert [profile["optimum"] is None for profile in fits["isoflop"]["profiles"]] == [False, False, True]
    assert any("1e+19" in warning and "no interior minimum" in warning for warning in fits["warnings"])
    assert law_of(fits, "isoflop", "flops_per_token").exponent == pytest.approx(math.log10(2))
    assert fits["lr_max"]["reason"] == "no budget tried more than one lr_max"
    assert law_of(fits, "lr_max") is None


def test_three_representations_when_shapes_are_given():
    runs = []
    for compute in (1e17, 1e18, 1e19):
        best = 0.1715 * compute**0.5243
        for factor in (0.2, 0.4, 0.7, 1, 1.5, 2.5, 5):
            model = find_shape(best * factor, 102400, 4096)
            scale = SCALES["M"](model)
            shape = (model.n_layers, model.d_model, 102400, 4096)
            runs.append(make_run(compute, scale, 2 + math.log(scale / best) ** 2, shape=shape))
    found = analyse(runs, "loss", FAST)["isoflop"]["representations"]
    assert found["M"]["law"]["exponent"] == pytest.approx(0.5243, rel=1e-6)
    # Small models: attention is a larger share of M, the vocabulary of 6N2, so N1 rises faster, N2 slower.
    assert found["6N1"]["law"]["exponent"] > 0.5243 + 0.02
    assert found["6N2"]["law"]["exponent"] < 0.5243 - 0.02


# Public data


def read_public(name):
    data = os.environ.get("DSLLM_TEST_DATA")
    path = Path(data or ".").parent / "scaling" / name
    if not data or not path.exists():
        pytest.skip("needs DSLLM_TEST_DATA with the scaling data beside it")
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def configuration(row):
    return tuple(row[key] for key in ("file", "hparams", "warmup", "decay", "param_count", "loss_kind"))


@pytest.mark.data
def test_least_squares_equal_porians():
    # Porian et al. 2024: their optima, our line, their exponents, with and without their weights.
    pairs = read_public("porian_optimal_pairs.csv")
    for published in read_public("porian_published_fits.json"):
        rows = [row for row in pairs if configuration(row) == configuration(published)]
        for kind, field in (("n_exponent", "n"), ("t_exponent", "t")):
            usable = [row for row in rows if row[field] and row["flops"]]
            x, y = ([float(row[key]) for row in usable] for key in ("flops", field))
            weights = [1 / float(row[f"{field}_star_std"]) for row in usable]
            assert fit_power_law(x, y).exponent == pytest.approx(published["basic"][kind], abs=1e-12)
            weighted = fit_power_law(x, y, weights).exponent
            assert weighted == pytest.approx(published["weighted"][kind], abs=1e-12)


@pytest.mark.data
@pytest.mark.parametrize(
    ("hparams", "warmup", "decay", "param_count", "published", "expected"),
    [
        ("base", "long", "kaplan", "kaplan", 0.835, 0.865),
        ("base", "long", "kaplan", "standard", 0.706, 0.695),
        ("base", "short", "kaplan", "standard", 0.602, 0.593),
        ("base", "short", "chinchilla", "standard", 0.571, 0.552),
        ("tuned", "short", "const", "standard", 0.497, 0.501),
    ],
)
def test_parabolas_on_porians_runs(hparams, warmup, decay, param_count, published, expected):  # noqa: PLR0917
    key = (hparams, warmup, decay, param_count)
    runs = [
        make_run(float(row["flops"]), 6 * float(row["n"]), float(row["loss"]))
        for row in read_public("porian_isoflop_points.csv")
        if row["file"] == "summary_df" and configuration(row)[1:5] == key and row["loss"]
    ]
    law = law_of(analyse(runs, "loss", FAST), "isoflop", "flops_per_token")
    # Another implementation of the same parabolas, printed with three digits, and within .03 of what
    # Porian et al. got by weighted interpolation.
    assert law.exponent == pytest.approx(expected, abs=0.001)
    assert law.exponent == pytest.approx(published, abs=0.031)


@pytest.mark.data
def test_surface_on_open_lms_runs():
    runs = [
        make_run(
            6 * float(row["params"]) * float(row["tokens"]),
            6 * float(row["params"]),
            float(row["loss_c4_val"]),
        )
        for row in read_public("openlm_gadre2024.csv")
        if row["dataset"] == "c4_original" and row["loss_c4_val"]
    ]
    surface, _ = fit_surface(runs)
    law = surface.law
    # scipy's L-BFGS-B and BFGS from 960 starts, printed with four digits.
    assert (law.alpha, law.beta, law.e) == pytest.approx((0.2526, 0.2622, 1.620), abs=1e-4 * 5)
