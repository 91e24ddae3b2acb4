"""`make bench-gpu`, as far as a machine without a GPU can run it."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_kernels.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))  # as when it is run
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("gpu_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_kernels"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))
    for name in set(sys.modules) - before:
        if name.startswith("gpu_"):
            del sys.modules[name]


def test_dry_run_checks_and_times_every_contender(script, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", "--dry", "--json", str(path)])
    script.main()
    document = json.loads(path.read_text())
    assert document["device"] == "CPU, dry"
    who = {}
    for row in document["rows"]:
        assert row["worst_error"] <= script.TOLERANCE
        assert row["forward_ms"] > 0
        assert row["note"] == ""
        who.setdefault(row["kernel"], set()).add(row["contender"])
    assert who == {
        "attention": {"dsllm", "SDPA"},
        "decode attention": {"dsllm", "SDPA, not paged"},
        "rms_norm": {"dsllm", "torch"},
        "rms_norm, residual": {"dsllm", "torch"},
        "swiglu": {"dsllm", "torch"},
        "rope": {"dsllm", "torch"},
        "cross_entropy, with gradient": {"dsllm", "torch"},
        "linear + cross_entropy, with gradients": {"dsllm", "torch"},
        "adamw": {"dsllm", "torch, foreach"},
    }


def test_some_kernels_alone(script, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(
        sys, "argv", ["gpu_kernels.py", "--dry", "--only", "rope,swiglu", "--json", str(path)]
    )
    script.main()
    assert {row["kernel"] for row in json.loads(path.read_text())["rows"]} == {"swiglu", "rope"}


def test_a_wrong_contender_is_named_and_not_timed(script):
    case = next(script.list_rms_norm("cpu", is_dry=True))
    right = case.contenders["dsllm"]

    def twice():
        return [2 * x for x in right.results()]

    wrong = replace(case, contenders={"wrong": replace(right, results=twice)})
    (row,) = script.compete(wrong, "cpu")
    assert row.note == "WRONG, so not timed"
    assert row.worst_error > script.TOLERANCE
    assert row.forward_ms is None
    assert row.backward_ms is None


def test_a_contender_without_a_number_is_wrong(script):
    case = next(script.list_rms_norm("cpu", is_dry=True))
    right = case.contenders["dsllm"]
    unwritten = replace(right, results=lambda: [x * float("nan") for x in right.results()])
    (row,) = script.compete(replace(case, contenders={"unwritten": unwritten}), "cpu")
    assert row.note == "WRONG, so not timed"


def test_a_contender_that_fails_is_named(script):
    def fail():
        raise RuntimeError("no memory\nat all")

    case = next(script.list_attention("cpu", is_dry=True))
    small = replace(case.contenders["dsllm"], results=fail)
    (row,) = script.compete(replace(case, contenders={"small": small}), "cpu")
    assert row.note == "failed: no memory"


def test_contenders_that_write_over_their_inputs_spoil_nobody_elses(script):
    case = next(script.list_rope("cpu", is_dry=True))
    (first, second) = (case.contenders["dsllm"].results() for _ in range(2))
    case.contenders["dsllm"].prepare_forward()()
    third = case.contenders["dsllm"].results()
    for others in (second, third):
        for x, y in zip(first, others, strict=True):
            assert x.equal(y)


def test_heads_that_are_cut_belong_together(script):
    cut_heads = sys.modules["gpu_cases_attention"].cut_heads
    q = torch.arange(8.0).view(1, 1, 8, 1)
    k = torch.arange(2.0).view(1, 1, 2, 1)
    cut = {"n_shared": 4, "n_heads": 8}
    assert cut_heads(q, **cut).flatten().tolist() == [4, 5, 6, 7]
    assert cut_heads(k, **cut).flatten().tolist() == [1]
