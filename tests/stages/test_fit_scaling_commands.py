"""fit-scaling: what its three commands read, refuse, write and say."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest

from dsllm.config import RunOptions, describe
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.io.manifest import read_manifest
from dsllm.progress import Reporter
from dsllm.stages.fit_scaling import run as fit_run
from dsllm.stages.fit_scaling import run_ladder, run_predict
from dsllm.stages.fit_scaling.config import FitConfig, LadderConfig, PredictConfig
from dsllm.stages.fit_scaling.ladder import plan_ladder
from dsllm.stages.fit_scaling.published import DEEPSEEK
from dsllm.stages.fit_scaling.runs import read_runs
from dsllm.stages.fit_scaling.shapes import SCALES

FAST = FitConfig(n_draws=100, pictures="none")
QUIET = Reporter(is_quiet=True)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def planted_runs(budgets, *, m=(0.1715, 0.5243), lr=(0.3118, -0.1250), batch=(0.2920, 0.3271)):
    """A search over lr and batch at the optimal scale, and 9 scales at the optimal lr and batch."""
    for compute in budgets:
        scale, best_lr, best_batch = (c * compute**e for c, e in (m, lr, batch))
        floor = 0.6 + 12 * compute**-0.08

        def row(x=1.0, y=1.0, z=1.0, *, at=(compute, scale, best_lr, best_batch), floor=floor):
            compute, scale, best_lr, best_batch = at
            worse = 0.03 * math.log(x) ** 2 + 0.004 * math.log2(y) ** 2 + 0.002 * math.log2(z) ** 2
            return {
                "compute_flops": compute,
                "flops_per_token": scale * x,
                "n_tokens": compute / (scale * x),
                "bits_per_byte": floor * (1 + worse),
                "lr_max": best_lr * y,
                "batch_tokens": best_batch * z,
            }

        yield from (row(y=2.0**i, z=2.0**j) for i in range(-3, 4) for j in range(-2, 3))
        yield from (row(x=1.5**i) for i in range(-4, 5) if i)


# Reading runs


def test_csv_and_json_lines_hold_the_same_runs(tmp_path):
    rows = [{"flops_per_token": 1e9, "n_tokens": 1e8 * i, "loss": 3 - 0.1 * i} for i in range(1, 4)]
    lines = write_lines(tmp_path / "runs.jsonl", rows)
    table = tmp_path / "runs.csv"
    table.write_text(
        "flops_per_token,n_tokens,loss,lr_max\n"
        + "".join(f"{row['flops_per_token']},{row['n_tokens']},{row['loss']},\n" for row in rows)
    )
    ours, theirs = (
        [dataclasses.replace(run, place="") for run in read_runs([path])[0]] for path in (lines, str(table))
    )
    assert ours == theirs
    assert ours[2].compute_flops == pytest.approx(3e17)


def test_metric_is_the_first_that_all_runs_have(tmp_path):
    both = {"compute_flops": 1e18, "n_tokens": 1e9, "loss": 3.0, "bits_per_byte": 1.0}
    one = {"compute_flops": 1e18, "n_tokens": 1e9, "loss": 2.9}
    assert read_runs([write_lines(tmp_path / "a.jsonl", [both])])[1] == "bits_per_byte"
    assert read_runs([write_lines(tmp_path / "b.jsonl", [both, one])])[1] == "loss"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"compute_flops": 1e18, "n_tokens": 1e9}, "no result that all runs share"),
        ({"compute_flops": 1e18, "loss": 3.0}, "two of compute_flops, flops_per_token and n_tokens"),
        (
            {"flops_per_token": "nan", "n_tokens": 1e9, "loss": 3.0},
            "flops_per_token is 'nan', not a positive",
        ),
        (
            {"compute_flops": 1e18, "flops_per_token": 1e9, "n_tokens": 2e9, "loss": 3.0},
            r"compute_flops is 1e\+18, flops_per_token \* n_tokens 2e\+18",
        ),
    ],
)
def test_bad_run_names_file_and_line(tmp_path, row, message):
    path = write_lines(tmp_path / "runs.jsonl", [row])
    with pytest.raises(InputError, match=rf"runs.jsonl, line 1: .*{message}"):
        read_runs([path])


def test_line_that_is_not_json_names_its_place(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"loss": 1}\n{oops\n')
    with pytest.raises(InputError, match="runs.jsonl, line 2: not JSON"):
        read_runs([str(path)])


def write_run_folder(path, counts, stage="pretrain"):
    path.mkdir(parents=True)
    manifest = {
        "format": 1,
        "stage": stage,
        "dsllm": "0",
        "command": "c",
        "config": {"lr_max": None},
        "inputs": [],
        "content": {"kind": "model", "model": {"n_layers": 2, "d_model": 64}},
        "counts": counts,
        "shards": [],
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_finished_pretrain_folders_are_read(tmp_path):
    counts = {
        "compute_flops": 2e12,
        "flops_per_token": 1e6,
        "n_tokens": 2000000,
        "valid_bits_per_byte": 2.5,
        "lr_max": 0.01,
        "batch_tokens": 2048,
        "n_layers": 2,
        "d_model": 64,
        "vocab_size": 512,
        "seq_len": 128,
    }
    write_run_folder(tmp_path / "runs" / "b", counts)
    write_run_folder(tmp_path / "runs" / "a", {**counts, "n_tokens": 1000000, "compute_flops": 1e12})
    runs, metric = read_runs([str(tmp_path / "runs")])
    assert [run.n_tokens for run in runs] == [1e6, 2e6]
    assert metric == "valid_bits_per_byte"
    assert runs[1].shape == (2, 64, 512, 128)
    assert (runs[1].lr_max, runs[1].batch_tokens) == (0.01, 2048)


def test_folder_of_another_stage_is_refused(tmp_path):
    write_run_folder(tmp_path / "run", {}, stage="sft")
    with pytest.raises(InputError, match="made by sft, not by pretrain"):
        read_runs([str(tmp_path / "run")])


# The three commands


def fit(inputs, output, config=FAST, **options):
    return fit_run.run(config, inputs, str(output), options=RunOptions(**options), reporter=QUIET)


def test_planted_laws_are_found_again(tmp_path):
    path = write_lines(tmp_path / "runs.jsonl", planted_runs(np.geomspace(1e17, 3e20, 6)))
    counts = fit([path], tmp_path / "fits")
    fits = json.loads((tmp_path / "fits" / "fits.json").read_text())
    for name, law in (
        ("lr_max", (0.3118, -0.1250)),
        ("batch_tokens", (0.2920, 0.3271)),
        ("flops_per_token", (0.1715, 0.5243)),
        ("n_tokens", (1 / 0.1715, 1 - 0.5243)),
    ):
        found = counts["laws"][name]
        # No noise, grids even about the optimum: what is left is rounding.
        assert (found["coefficient"], found["exponent"]) == pytest.approx(law, rel=1e-6), name
    assert counts["exponent_sum"] == pytest.approx(1.0, abs=1e-9)
    assert fits["isoflop"]["flops_per_token"]["law"]["held_out"]["error_frac"] == pytest.approx(0, abs=1e-6)
    assert fits["warnings"] == []
    assert read_manifest(tmp_path / "fits").counts == counts


def test_same_runs_give_the_same_bytes(tmp_path):
    path = write_lines(tmp_path / "runs.jsonl", planted_runs([1e17, 1e19]))
    for name, pictures in (("a", "svg"), ("b", "svg"), ("c", "png")):
        fit([path], tmp_path / name, FitConfig(pictures=pictures, n_draws=100))
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir() if file.suffix == ".svg"}
    assert sorted(files) == ["hyperparameters.svg", "isoflop.svg", "loss.svg", "optima.svg"]
    for name, data in files.items():
        assert (tmp_path / "b" / name).read_bytes() == data
        assert b"<dc:date>" not in data
        assert (tmp_path / "c" / name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_finished_fit_is_not_overwritten(tmp_path):
    path = write_lines(tmp_path / "runs.jsonl", planted_runs([1e17, 1e18]))
    fit([path], tmp_path / "fits", FAST)
    with pytest.raises(OutputError):
        fit([path], tmp_path / "fits", FAST)


def test_ladder_spends_its_budgets(tmp_path):
    config = LadderConfig(budgets="1e12,1e13,1e14", n_allocations=6, seq_len=128, vocab_size=4096)
    runs, warnings = plan_ladder(config, DEEPSEEK)
    assert len(runs) == 18
    for run in runs:
        assert run.compute_flops == pytest.approx(run.budget_flops, rel=0.005)  # half a step of 100 or more
        assert run.flops_per_token == SCALES["M"](run.model)
        assert run.lr_max == pytest.approx(DEEPSEEK.lr_max(run.budget_flops), rel=1e-3)
    assert any("outside they are a guess" in warning for warning in warnings)


def test_ladder_reaches_over_the_optimum():
    runs, warnings = plan_ladder(LadderConfig(budgets="1e20", span=4.0), DEEPSEEK)
    scales = [run.flops_per_token / DEEPSEEK.flops_per_token(1e20) for run in runs]
    assert len(set(scales)) == 10
    assert scales == sorted(scales)
    assert (scales[0], scales[-1]) == pytest.approx((1 / 4, 4), rel=0.15)
    assert warnings == []


def test_ladder_commands_are_ones_that_pretrain_takes(tmp_path):

    from dsllm.stages.pretrain.config import PretrainConfig

    config = LadderConfig(
        budgets="1e13",
        seq_len=128,
        vocab_size=512,
        valid="valid set",
        runs="my runs",
        more="--init-std 0.02",
    )
    options = {option.flag: option for option in describe(PretrainConfig)}
    for run in plan_ladder(config, DEEPSEEK)[0]:
        words = shlex.split(run.command(config))
        assert words[:5] == ["dsllm", "pretrain", "TOKENS", "-o", f"my runs/{run.name}"]
        values = dict(zip(words[5::2], words[6::2], strict=True))
        kinds = {"int": int, "float": float, "str": str}
        given = {options[flag].name: kinds[options[flag].kind](value) for flag, value in values.items()}
        made = PretrainConfig.build(given)
        assert (made.n_layers, made.d_model, made.n_steps) == (
            run.model.n_layers,
            run.model.d_model,
            run.n_steps,
        )
        assert (made.valid, made.init_std) == ("valid set", 0.02)
        assert run.model.d_model == run.model.n_heads * run.model.head_dim  # so that pretrain finds head_dim


def test_ladder_goes_to_a_folder_or_to_stdout(tmp_path, capfdbinary):
    config = LadderConfig(budgets="1e12", n_allocations=3, seq_len=128, vocab_size=512)
    options = RunOptions()
    summary = run_ladder.run(config, [], str(tmp_path / "ladder"), options=options, reporter=QUIET)
    run_ladder.run(config, [], "-", options=options, reporter=QUIET)
    lines = (tmp_path / "ladder" / "ladder.jsonl").read_bytes()
    assert capfdbinary.readouterr().out == lines
    assert len(lines.splitlines()) == summary["n_runs"] == 3
    script = (tmp_path / "ladder" / "ladder.sh").read_text()
    assert script.count("|| dsllm pretrain") == 3
    assert "dsllm fit-scaling fit runs" in script


def test_ladder_takes_fitted_laws_where_there_are_some(tmp_path):
    rows = planted_runs([1e17, 1e18, 1e19], m=(2.0, 0.45))
    path = write_lines(tmp_path / "runs.jsonl", [{**row, "lr_max": None} for row in rows])
    fit([path], tmp_path / "fits", FAST)
    config = LadderConfig(budgets="1e18", n_allocations=1, fits=str(tmp_path / "fits"))
    run_ladder.run(config, [], str(tmp_path / "ladder"), options=RunOptions(), reporter=QUIET)
    (run,) = map(json.loads, (tmp_path / "ladder" / "ladder.jsonl").read_text().splitlines())
    assert run["flops_per_token"] == pytest.approx(2.0 * 1e18**0.45, rel=0.1)  # the nearest shape
    assert run["lr_max"] == pytest.approx(DEEPSEEK.lr_max(1e18), rel=1e-3)


@pytest.mark.parametrize("budgets", ["", "1e17,x", "-1", "nan", "1e40"])
def test_ladder_refuses_what_is_no_budget(budgets):
    with pytest.raises(ConfigError, match="budgets holds"):
        LadderConfig(budgets=budgets)


def predict(config, inputs=()):
    return run_predict.run(config, list(inputs), "-", options=RunOptions(), reporter=QUIET)


def test_prediction_stands_beside_the_published_ones(tmp_path):
    path = write_lines(tmp_path / "runs.jsonl", planted_runs(np.geomspace(1e17, 1e19, 5)))
    fit([path], tmp_path / "fits", FAST)
    result = predict(PredictConfig(compute=1e20), [str(tmp_path / "fits")])
    own, paper, chinchilla, step = result["predictions"]
    assert [row["name"] for row in (paper, chinchilla, step)] == [
        "DeepSeek LLM",
        "Chinchilla (Epoch)",
        "Step Law",
    ]
    for name in ("lr_max", "batch_tokens", "flops_per_token", "n_tokens"):
        assert own[name] == pytest.approx(paper[name], rel=2e-4), name
    assert result["times_largest_budget"] == pytest.approx(10)
    assert result["loss"] == pytest.approx(0.6 + 12 * 1e20**-0.08, rel=1e-4)


def test_the_papers_7b_is_trained_on_four_times_its_optimal_tokens():
    config = PredictConfig(flops_per_token=84 * 30 * 4096.0**2, n_tokens=2e12, n_parameters=6.07e9)
    paper, _, step = predict(config)["predictions"]
    # D_opt = 5.8316 * (8.456e22)^0.4757 = 0.47e12
    assert paper["overtraining"] == pytest.approx(4.25, abs=0.02)
    assert step["lr_max"] == pytest.approx(1.13e-3, rel=0.01)


@pytest.mark.parametrize(
    "given", [{}, {"n_tokens": 1e9}, {"compute": 1e18, "flops_per_token": 1e9, "n_tokens": 1e9}]
)
def test_prediction_wants_two_of_three(given):
    with pytest.raises(ConfigError):
        PredictConfig(**given)


def test_prediction_refuses_another_file(tmp_path):
    path = tmp_path / "fits.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="no fits of format 1"):
        predict(PredictConfig(compute=1e18), [str(path)])
