"""`make bench-gpu`, as far as a machine without a GPU can run it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_kernels.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_kernels"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_kernels"]


def test_dry_run_checks_and_times_every_contender(script, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", "--dry", "--json", str(path)])
    script.main()
    document = json.loads(path.read_text())
    assert document["device"] == "CPU, dry"
    assert {(row["kernel"], row["contender"]) for row in document["rows"]} == {
        ("attention", "dsllm"),
        ("attention", "torch SDPA"),
        ("rms_norm", "dsllm"),
        ("rms_norm", "torch"),
    }
    for row in document["rows"]:
        assert row["worst_error"] <= script.TOLERANCE
        assert row["both_ms"] > 0


def test_a_wrong_contender_is_named_and_not_timed(script):
    case = next(script.list_attention("cpu", is_dry=True))
    wrong = script.Case(
        **{**vars(case), "contenders": {"wrong": lambda q, k, v: 1.2 * case.formula(q, k, v)}}
    )
    (row,) = script.compete(wrong, "cpu")
    assert row.note == "WRONG, so not timed"
    assert row.worst_error > script.TOLERANCE
    assert row.forward_ms is None
    assert row.both_ms is None


def test_a_contender_that_fails_is_named(script):
    def fail(q, k, v):
        raise RuntimeError("no memory\nat all")

    case = next(script.list_attention("cpu", is_dry=True))
    (row,) = script.compete(script.Case(**{**vars(case), "contenders": {"small": fail}}), "cpu")
    assert row.note == "failed: no memory"


def test_heads_that_are_cut_belong_together(script):
    q = torch.arange(8.0).view(1, 1, 8, 1)
    k = torch.arange(2.0).view(1, 1, 2, 1)
    cut = {"n_shared": 4, "n_heads": 8}
    assert script.cut_heads(q, 0, **cut).flatten().tolist() == [4, 5, 6, 7]
    assert script.cut_heads(k, 1, **cut).flatten().tolist() == [1]
