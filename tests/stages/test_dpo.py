import json
import math
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from tests.stages.tiny_chat import BOS, EOS, write_jsonl, write_model

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.dpo import reference
from dsllm.stages.dpo.config import DpoConfig
from dsllm.stages.dpo.run import plan, run
from dsllm.text.tokenizer_files import load_tokenizer
from dsllm.train.conversations import encode_preference
from dsllm.train.metrics import read_metrics

QUIET = Reporter(is_quiet=True)
REWARDS = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def pair(number: int) -> dict:
    return {
        "prompt": f"{number}+1?",
        "chosen": str(number + 1),
        "rejected": "I do not know" * (1 + number % 2),
    }


def pairs(tmp_path: Path, n: int = 10) -> str:
    return write_jsonl(tmp_path / "pairs.jsonl", [pair(number) for number in range(n)])


def align(data: str, model: Path, out: Path, **settings):
    defaults = {"batch_seqs": 4, "lr_max": 1e-2, "dtype": "fp32", "device": "cpu", "schedule": "constant"}
    config = DpoConfig(model=str(model), **{**defaults, **settings})
    return run(config, [data], str(out), options=RunOptions(), reporter=QUIET)


def steps_of(folder: Path) -> list[dict]:
    return [line for line in read_metrics(folder) if "loss" in line]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a?", "chosen": "b", "rejected": "cc"},
        {
            "prompt": [{"role": "user", "content": "a?"}],
            "chosen": [{"role": "assistant", "content": "b"}],
            "rejected": {"role": "assistant", "content": "cc"},
        },
        {"conversations": [{"from": "human", "value": "a?"}], "chosen": "b", "rejected": "cc"},
    ],
)
def test_both_answers_follow_the_prompt(model, record):
    tokenizer = load_tokenizer(model)
    for tokens, answer in zip(encode_preference(record, tokenizer), (" b", " cc"), strict=True):
        assert tokenizer.decode(tokens.token_ids) == f"{BOS}User: a?\n\nAssistant:{answer}{EOS}"
        learnt = [
            token for token, is_learnt in zip(tokens.token_ids, tokens.loss_mask, strict=True) if is_learnt
        ]
        assert tokenizer.decode(learnt) == answer + EOS


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "no preference pair in the fields prompt, chosen"),
        ({"chosen": "a", "rejected": "b"}, "no preference pair in the fields chosen, rejected"),
        ({"prompt": "a", "chosen": 1, "rejected": "b"}, "'chosen' is neither a text nor a list of messages"),
        ({"prompt": [{"role": "bot", "content": ""}], "chosen": "a", "rejected": "b"}, "unknown role 'bot'"),
    ],
)
def test_a_record_that_is_no_pair_is_named(tmp_path, model, record, reason):
    data = write_jsonl(tmp_path / "pairs.jsonl", [pair(0), record])
    with pytest.raises(DocumentError, match=rf"pairs.jsonl, line 2: {reason}"):
        align(data, model, tmp_path / "out")


def test_the_first_step_is_the_reference_itself(tmp_path, model):
    counts = align(pairs(tmp_path), model, tmp_path / "out", n_valid=2)
    first = steps_of(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-7)
    assert [first[name] for name in REWARDS] == [0.0, 0.0, 0.0, 0.0]  # strictly greater counts
    assert counts["n_samples"] == 8
    assert counts["n_steps"] == 2
    assert counts["initial_valid_loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_preferences_are_learnt(tmp_path, model):
    counts = align(pairs(tmp_path), model, tmp_path / "out", n_epochs=6)
    assert counts["loss"] < 0.2 < counts["initial_loss"]
    assert counts["reward_accuracy"] == 1.0
    assert counts["reward_margin"] == pytest.approx(
        counts["reward_chosen"] - counts["reward_rejected"], rel=1e-5
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["counts"] == counts
    assert {"model.safetensors", "reference.safetensors", "tokenizer.json"} <= {
        s["name"] for s in manifest["shards"]
    }


def test_reference_of_uniform_predictions_by_hand(tmp_path):
    uniform = write_model(tmp_path / "uniform", is_uniform=True)
    align(pairs(tmp_path, 3), uniform, tmp_path / "out", n_steps=1)
    logps = load_arrays(tmp_path / "out" / "reference.safetensors")["train"]
    # " 1<eos>": 3 tokens of probability 1/258; " I do not know<eos>": 15, or 28 when said twice
    expected = -math.log(258) * np.array([[3, 15], [3, 28], [3, 15]])
    np.testing.assert_allclose(logps, expected, rtol=1e-6)


def test_one_step_by_hand(tmp_path, model):
    """The gradient of the loss at the start is -beta/2 times that of the margin, so beta scales it."""
    norms = []
    for beta in (0.1, 0.5):
        align(pairs(tmp_path), model, tmp_path / f"{beta}", n_steps=1, beta=beta, grad_clip=math.inf)
        norms.append(steps_of(tmp_path / f"{beta}")[0]["grad_norm"])
    assert norms[1] / norms[0] == pytest.approx(5.0, rel=1e-5)


def test_a_killed_run_computes_the_reference_once(tmp_path, model, monkeypatch):
    data, settings = pairs(tmp_path, 20), {"save_every_steps": 1}
    monkeypatch.setattr(reference, "BLOCK_PAIRS", 8)  # two steps of four pairs
    align(data, model, tmp_path / "whole", **settings)
    compute, n_blocks = reference._block_logps, []

    def dying(*arguments):
        n_blocks.append(1)
        if len(n_blocks) == 3:
            raise MemoryError
        return compute(*arguments)

    monkeypatch.setattr(reference, "_block_logps", dying)
    with pytest.raises(MemoryError):
        align(data, model, tmp_path / "cut", **settings)
    from dsllm.train import loop

    check, n_steps = loop._Run._check_finite, []

    def dying_step(*arguments):
        n_steps.append(1)
        if len(n_steps) == 3:
            raise MemoryError
        return check(*arguments)

    monkeypatch.setattr(loop._Run, "_check_finite", dying_step)
    with pytest.raises(MemoryError):
        align(data, model, tmp_path / "cut", **settings)
    assert len(n_blocks) == 4  # the third block again, none of the others
    counts = align(data, model, tmp_path / "cut", **settings)
    assert len(n_blocks) == 4
    assert counts == json.loads((tmp_path / "whole" / "manifest.json").read_bytes())["counts"]
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_reference_is_used_again_for_the_same_model_and_pairs_only(tmp_path, model, monkeypatch):
    data = pairs(tmp_path)
    align(data, model, tmp_path / "first")
    saved = str(tmp_path / "first" / "reference.safetensors")
    monkeypatch.setattr(reference, "_compute", None)  # not called
    counts = align(data, model, tmp_path / "second", beta=0.3, reference=saved)
    assert counts["initial_loss"] == pytest.approx(math.log(2), rel=1e-7)
    with pytest.raises(ConfigError, match="made for another model or other pairs"):
        align(pairs(tmp_path / "other", 9), model, tmp_path / "third", reference=saved)
    with pytest.raises(InputError, match="no file of reference log-probabilities"):
        align(data, model, tmp_path / "fourth", reference=data)


def test_plan_counts_pairs(tmp_path, model):
    config = DpoConfig(model=str(model), batch_seqs=4)
    planned = plan(config, [pairs(tmp_path)], str(tmp_path / "out"), options=RunOptions(), reporter=QUIET)
    assert (planned["n_samples"], planned["n_steps"]) == (10, 3)


def run_rank(folder: Path, arguments: dict, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    align(arguments["data"], Path(arguments["model"]), folder, n_valid=3)


def test_two_ranks_do_what_one_does(tmp_path, model):
    """Reference, steps and validation are shared between ranks; rank 0 writes."""
    data = pairs(tmp_path, 11)
    one = align(data, model, tmp_path / "one", n_valid=3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = multiprocessing.get_context("forkserver")  # forks of a process that has computed nothing
    context.set_forkserver_preload(["dsllm.stages.dpo.run", "pytest", "tokenizers", "jinja2"])
    arguments = {"data": data, "model": str(model)}
    processes = [
        context.Process(target=run_rank, args=(tmp_path / "two", arguments, {**launcher, "RANK": str(rank)}))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    two = json.loads((tmp_path / "two" / "manifest.json").read_bytes())["counts"]
    assert two["n_tokens"] == one["n_tokens"]
    for name in ("initial_loss", "loss", "valid_loss", "valid_reward_margin", "reward_margin"):
        assert two[name] == pytest.approx(one[name], rel=1e-3)  # the order of sums differs, AdamW spreads it
    first, second = (load_arrays(tmp_path / name / "reference.safetensors") for name in ("one", "two"))
    for name in ("train", "valid"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5)


# --- against TRL ----------------------------------------------------------------------------------------


def fixtures() -> Path:
    data = os.environ.get("DSLLM_TEST_DATA")
    if data is None:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    return Path(data).parent / "fixtures" / "align"


def in_their_order(trace: dict, records: list[dict], tokenizer) -> list[dict]:
    """Put the pairs into the order in which TRL trained on them, found by their tokens."""
    by_tokens = {
        tuple(tuple(one.token_ids) for one in encode_preference(record, tokenizer)): record
        for record in records
    }
    ordered = []
    for micro in trace["microbatches"]:
        inputs = micro["inputs"]
        rows = [
            tuple(token for token, is_text in zip(ids, mask, strict=True) if is_text)
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        half = len(rows) // 2
        ordered += [
            by_tokens[chosen, rejected] for chosen, rejected in zip(rows[:half], rows[half:], strict=True)
        ]
    return ordered


@pytest.mark.data
@pytest.mark.parametrize("name", ["dpo_sigmoid_b0.1", "dpo_sigmoid_b0.5_precomputed", "dpo_sigmoid_accum2x2"])
def test_losses_and_rewards_are_those_of_trl(tmp_path, name):
    trace = json.loads((fixtures() / name / "trace.json").read_bytes())
    records = [json.loads(line) for line in (fixtures() / "prefs.jsonl").read_text().splitlines()]
    tokenizer_folder = fixtures() / "tokenizer"
    ordered = in_their_order(trace, records, load_tokenizer(tokenizer_folder))
    arguments = trace["args"]
    align(
        write_jsonl(tmp_path / "pairs.jsonl", ordered),
        fixtures() / "start",
        tmp_path / "out",
        tokenizer=str(tokenizer_folder),
        batch_seqs=4,
        micro_batch_seqs=arguments["per_device_train_batch_size"],
        order="given",
        lr_max=arguments["learning_rate"],
        warmup_steps=0,
        beta=arguments["beta"],
    )
    lines = steps_of(tmp_path / "out")
    assert len(lines) == len(trace["logs"]) == 6
    for ours, theirs in zip(lines, trace["logs"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=3e-5)
        assert ours["reward_accuracy"] == theirs["rewards/accuracies"]
        for our_name, their_name in (
            ("reward_chosen", "rewards/chosen"),
            ("reward_rejected", "rewards/rejected"),
            ("reward_margin", "rewards/margins"),
        ):
            # beta times sums of about 30 log-probabilities
            assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-4)
        # TRL logs means over sequences of both halves
        assert ours["logp_chosen"] == pytest.approx(theirs["logps/chosen"], abs=1e-3)
        assert ours["logp_rejected"] == pytest.approx(theirs["logps/rejected"], abs=1e-3)
    check_reference(tmp_path / "out", name, arguments["gradient_accumulation_steps"])
    ours, theirs = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(fixtures() / name / "end.safetensors"),
    )
    for key, weight in theirs.items():
        # AdamW turns the rounding of a gradient near zero into a share of the learning rate, here and there
        difference = (ours[key] - weight).abs() / arguments["learning_rate"]
        assert difference.mean() < 1e-3
        assert difference.max() < 0.2


def check_reference(folder: Path, name: str, n_accumulated: int) -> None:
    recorded = json.loads((fixtures() / name / "per_sequence_logps.json").read_bytes())
    assert len(recorded) == 6 * n_accumulated
    theirs = np.array(
        [
            list(both)
            for micro in recorded
            for both in zip(micro["ref_chosen"], micro["ref_rejected"], strict=True)
        ]
    )
    ours = load_arrays(folder / "reference.safetensors")["train"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
