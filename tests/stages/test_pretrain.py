import json
import math
import multiprocessing
import os
import random
import signal
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dsllm.config import RunOptions, Settings
from dsllm.errors import ConfigError, DsllmError, InputError
from dsllm.io.folder import OutputFolder
from dsllm.io.manifest import read_manifest
from dsllm.io.tokens import TokenFolder, TokenWriter
from dsllm.model.hf import load_model
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.stages.pretrain import run as pretrain
from dsllm.stages.pretrain.config import PretrainConfig
from dsllm.stages.pretrain.data import open_tokens, split_tokens
from dsllm.stages.pretrain.recipe import make_recipe
from dsllm.train.metrics import read_metrics

# Words of a byte-level tokenizer, with their bytes: "Ġ" stands for the space.
WORDS = {"<bos>": 0, "<eos>": 0, "a": 1, "b": 1, "Ġab": 3, "ba": 2, "abba": 4, "Ġ": 1}
BOS, EOS = 0, 1
SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 2, "init_std": 0.1, "seq_len": 16}
TINY = SHAPE | {"batch_seqs": 4, "micro_batch_seqs": 2, "lr_max": 0.01, "dtype": "fp32", "device": "cpu"}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in the same order whatever else runs."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def write_tokens(folder, n_documents=40, *, words=WORDS):
    """Documents of 1 to 60 words in two shards: about 1,200 tokens."""
    generator = np.random.default_rng(0)
    with OutputFolder(str(folder), stage="test", config=Settings(), inputs=[], options=RunOptions()) as out:
        with TokenWriter(out) as writer:
            for number in range(n_documents):
                text = generator.integers(2, len(words), generator.integers(1, 60))
                document = np.array([BOS, *text, EOS], np.uint32)
                writer.add(document, np.array([len(document)]))
                if number in (n_documents // 2, n_documents - 1):
                    writer.end_shard()
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        special = [
            {"id": index, "content": word, **flags} for index, word in enumerate(words) if word[0] == "<"
        ]
        vocab = {word: index for index, word in enumerate(words)}
        tokenizer = {"model": {"vocab": vocab}, "added_tokens": special, "decoder": {"type": "ByteLevel"}}
        with out.create("tokenizer.json") as file:
            file.write(json.dumps(tokenizer).encode())
        content = {
            "kind": "tokens",
            "dtype": "uint32",
            "vocab_size": len(words),
            "bos_id": BOS,
            "eos_id": EOS,
        }
        out.finish(counts={}, content=content)
    return str(folder)


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(tmp_path / "tokens")


def run(tokens, output, **settings):
    config, options = PretrainConfig(**(TINY | settings)), RunOptions()
    return pretrain.run(config, [tokens], str(output), options=options, reporter=Reporter(is_quiet=True))


def recipe_of(tokens, **settings):
    config = PretrainConfig(**settings)
    return make_recipe(config, open_tokens(config, [tokens]))


def same_tensors(one, other):
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_run_leaves_a_model_folder(tokens, tmp_path):
    summary = run(tokens, tmp_path / "run", n_steps=10)
    manifest = read_manifest(str(tmp_path / "run"))
    assert manifest.counts == summary
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert [shard.name for shard in manifest.shards] == names
    assert all(shard.fault(tmp_path / "run") is None for shard in manifest.shards)
    present = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name[0] != ".")
    assert present == sorted([*names, "manifest.json", "metrics.jsonl"])  # no checkpoint is left
    # M = 72 n d**2 + 12 n d l with n 2, d 32, l 16; 10 steps of 4 x 16 tokens
    assert summary["flops_per_token"] == 72 * 2 * 32**2 + 12 * 2 * 32 * 16
    assert (summary["n_tokens"], summary["n_steps"], summary["batch_tokens"]) == (640, 10, 64)
    assert summary["compute_flops"] == 640 * summary["flops_per_token"]
    # two blocks of 4 d**2 + 3 d d_ff + 2 d, d_ff 128 (85.3 rounded up to 64s), a norm, two tables of 8 words
    assert summary["n_parameters"] == 2 * (4 * 32**2 + 3 * 32 * 128 + 64) + 32 + 2 * 8 * 32
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert (lines[0]["loss"], lines[-1]["loss"]) == (summary["initial_loss"], summary["loss"])


def test_validation_is_that_of_the_written_model(tokens, tmp_path):
    summary = run(tokens, tmp_path / "run", n_steps=10, n_valid_tokens=80)
    stream = TokenFolder(tokens)
    held_out = stream.window(stream.n_tokens - 80, 80).astype(np.int64)
    n_windows = 4  # of 16 targets; 80 tokens have 79 targets
    model = load_model(tmp_path / "run")
    nll = n_bytes = 0
    for start in range(0, n_windows * 16, 16):
        window = torch.from_numpy(held_out[start : start + 17])
        with torch.no_grad():
            log_softmax = model(window[None, :-1])[0].log_softmax(-1)
        nll -= log_softmax[torch.arange(16), window[1:]].sum().item()
        n_bytes += sum(list(WORDS.values())[token] for token in window[1:].tolist())
    assert summary["valid_loss"] == pytest.approx(nll / (n_windows * 16), rel=1e-5)
    assert summary["valid_bits_per_byte"] == pytest.approx(nll / math.log(2) / n_bytes, rel=1e-5)


def test_validation_folder_and_masked_documents(tokens, tmp_path):
    valid = write_tokens(tmp_path / "valid", 10)
    plain = run(tokens, tmp_path / "plain", n_steps=3, valid=valid)
    masked = run(tokens, tmp_path / "masked", n_steps=3, valid=valid, mask_documents=True)
    assert plain["initial_valid_loss"] != masked["initial_valid_loss"]
    batch = pretrain.step_batch(
        0,
        config=PretrainConfig(**TINY, mask_documents=True),
        tokens=open_tokens(PretrainConfig(), [tokens]),
        recipe=recipe_of(tokens, **TINY),
        ranks=Ranks(),
    )
    micro = batch.micro_batches[0]
    ends = micro.tokens == EOS
    assert torch.equal(micro.document_ids[:, 1:] - micro.document_ids[:, :-1], ends[:, :-1].long())


def run_in_child(environment, tokens, output, settings):
    """Run in a process of its own, with what a launcher would set."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    run(tokens, output, **settings)


@pytest.fixture(scope="module")
def children():
    """Processes forked from one that has imported torch but computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "dsllm.stages.pretrain.run"])
    return context


def test_killed_run_resumes_to_equal_tensors(tokens, tmp_path, children):
    settings = {"n_steps": 60, "save_every_steps": 7, "eval_every": 20}
    run(tokens, tmp_path / "undisturbed", **settings)
    output, kill_after = tmp_path / "killed", random.Random(time.time_ns()).randint(1, 40)
    process = children.Process(target=run_in_child, args=({}, tokens, output, settings))
    process.start()
    while process.is_alive() and len(read_metrics(output)) < kill_after:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"to be killed after {kill_after} lines"
    assert not (output / "manifest.json").exists()
    run(tokens, output, **settings)
    assert same_tensors(tmp_path / "undisturbed", output), f"killed after {kill_after} lines"
    steps = [line["step"] for line in read_metrics(output) if "loss" in line]
    assert steps == list(range(1, 61))
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("undisturbed", "killed")]
    assert manifests[0].replace("undisturbed", "killed") == manifests[1]


def test_two_ranks_go_on_where_one_stopped(tokens, tmp_path, monkeypatch, children):
    settings = {"n_steps": 12, "save_every_steps": 5, "n_valid_tokens": 80}
    expected = run(tokens, tmp_path / "one", **settings)
    read_step = pretrain.step_batch

    def stop_at_7(step, **arguments):
        if step == 7:
            raise RuntimeError("the machine went away")
        return read_step(step, **arguments)

    monkeypatch.setattr(pretrain, "step_batch", stop_at_7)
    with pytest.raises(RuntimeError, match="went away"):
        run(tokens, tmp_path / "two", **settings)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        children.Process(
            target=run_in_child, args=({**launcher, "RANK": str(rank)}, tokens, tmp_path / "two", settings)
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    lines = [
        [line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line] for name in ("one", "two")
    ]
    # Until step 5 the same process; then only the order of fp32 sums differs, 2**-24 each, grown by AdamW.
    assert lines[0][:5] == lines[1][:5]
    assert lines[1] == pytest.approx(lines[0], rel=1e-4)
    counts = read_manifest(str(tmp_path / "two")).counts
    assert counts["valid_loss"] == pytest.approx(expected["valid_loss"], rel=1e-4)
    assert counts["n_tokens"] == expected["n_tokens"]


def test_seed_decides_and_nothing_else(tokens, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tokens, tmp_path / name, n_steps=3, seed=seed)
    assert same_tensors(tmp_path / "a", tmp_path / "b")
    assert not same_tensors(tmp_path / "a", tmp_path / "c")


def test_what_is_not_given_follows_the_paper(tokens, tmp_path):
    long = write_tokens(tmp_path / "long", 300)  # more than one window of 4,096
    recipe = recipe_of(long, model="7b", n_tokens=2 * 10**12)
    assert (recipe.batch_seqs, recipe.schedule.warmup_steps) == (pytest.approx(2304, rel=0.03), 2000)
    assert recipe.schedule.lr_max == pytest.approx(4.2e-4, rel=0.02)
    assert recipe.schedule.name == "multi-step"
    assert recipe.schedule.n_steps == 2 * 10**12 // recipe.batch_tokens
    given = recipe_of(tokens, **(TINY | {"batch_seqs": None, "batch_tokens": 48}))
    assert (given.batch_seqs, given.schedule.lr_max) == (3, 0.01)
    n_tokens = TokenFolder(tokens).n_tokens
    # one pass over what is not held out: 1 %, but at least one window
    assert given.split.n_train_tokens == n_tokens - 17
    assert given.schedule.n_steps == (n_tokens - 18) // 16 // 3


def test_shape_is_the_named_one_with_what_is_given_instead(tokens):
    named = recipe_of(tokens, model="0.3m", seq_len=16).model
    assert (named.n_layers, named.d_model, named.vocab_size, named.eos_id) == (3, 96, len(WORDS), EOS)
    wider = recipe_of(tokens, model="0.3m", d_model=128, seq_len=16, vocab_size=100).model
    assert (wider.n_layers, wider.head_dim * wider.n_heads, wider.vocab_size) == (3, 128, 100)
    assert wider.d_ff == 384  # 8/3 of 128 is 341.3, rounded up to 64s
    grouped = recipe_of(tokens, model="0.3m", n_heads=6, n_kv_heads=2, seq_len=16).model
    assert (grouped.n_heads, grouped.n_kv_heads, grouped.head_dim) == (6, 2, 16)


def test_shape_of_a_file(tokens, tmp_path):
    run(tokens, tmp_path / "run", n_steps=1)
    for path in (tmp_path / "run", tmp_path / "run" / "config.json"):
        model = recipe_of(tokens, model=str(path)).model
        assert (model.n_layers, model.d_model, model.d_ff, model.seq_len) == (2, 32, 128, 16)
    plain = tmp_path / "shape.json"
    plain.write_text(json.dumps(replace(model, n_layers=7).to_dict()))
    assert recipe_of(tokens, model=str(plain)).model.n_layers == 7


def test_held_out_tokens_are_never_trained_on(tokens):
    config = PretrainConfig(n_valid_tokens=100)
    opened = open_tokens(config, [tokens])
    split = split_tokens(config, opened, 16)
    assert split.n_train_tokens == split.valid_start == opened.train.n_tokens - 100
    assert split.n_valid_windows == 6  # (100 - 1) // 16
    none = split_tokens(PretrainConfig(n_valid_tokens=0), opened, 16)
    assert (none.n_train_tokens, none.n_valid_windows) == (opened.train.n_tokens, 0)


def test_run_without_validation(tokens, tmp_path):
    summary = run(tokens, tmp_path / "run", n_steps=2, n_valid_tokens=0)
    assert "valid_loss" not in summary
    assert summary["loss"] > 0


def test_plan_writes_nothing(tokens, tmp_path):
    config = PretrainConfig(**TINY, n_steps=10)
    options, reporter = RunOptions(), Reporter(is_quiet=True)
    numbers = pretrain.plan(config, [tokens], str(tmp_path / "run"), options=options, reporter=reporter)
    assert not (tmp_path / "run").exists()
    summary = run(tokens, tmp_path / "run", n_steps=10)
    assert {name: numbers[name] for name in summary.keys() & numbers.keys()} == {
        name: summary[name] for name in summary.keys() & numbers.keys()
    }
    assert numbers["weight_bytes"] == 4 * summary["n_parameters"]
    assert numbers["run_s"] > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"n_layers": None, "d_model": None, "n_heads": None}, (ConfigError, "neither a model", "--model")),
        ({"model": "8b"}, (ConfigError, "'8b'", "7b")),
        ({"model": "no/such/config.json"}, (ConfigError, "no/such/config.json", "config.json")),
        ({"vocab_size": 7}, (ConfigError, "has 7 words.*has 8", "--vocab-size 8")),
        (
            {"batch_tokens": 24, "batch_seqs": None},
            (ConfigError, "24.*multiple of seq_len, 16", "--batch-tokens 32"),
        ),
        ({"seq_len": 5000}, (InputError, "tokens to train on, but a window has 5,001", "--seq-len")),
        ({"n_valid_tokens": 9}, (ConfigError, "9 tokens to validate on, but a window has 17", "17")),
        ({"warmup_steps": 11, "n_steps": 10}, (ConfigError, "11.*10 steps", "--warmup-steps 1")),
        pytest.param(
            {"device": "cuda"},
            (ConfigError, "finds no GPU", "--device cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_impossible_settings_are_said(tokens, tmp_path, settings, expected):
    kind, said, hint = expected
    with pytest.raises(kind, match=said) as error:
        run(tokens, tmp_path / "run", **settings)
    assert hint in error.value.hint
    assert not (tmp_path / "run").exists()


def test_settings_that_say_each_other_are_refused():
    with pytest.raises(ConfigError, match="batch_tokens is 32 and batch_seqs is 2"):
        PretrainConfig(batch_tokens=32, batch_seqs=2)


def test_impossible_inputs_are_said(tokens, tmp_path):
    with pytest.raises(InputError, match="no token in it"):
        run(write_tokens_of_nothing(tmp_path / "empty"), tmp_path / "run")
    with pytest.raises(ConfigError, match="2 token folders"):
        pretrain.run(
            PretrainConfig(**TINY), [tokens, tokens], str(tmp_path), options=RunOptions(), reporter=Reporter()
        )
    other = write_tokens(tmp_path / "other", words={**WORDS, "bb": 2})
    with pytest.raises(ConfigError, match="another tokenizer"):
        run(tokens, tmp_path / "run", valid=other)
    with pytest.raises(DsllmError):
        run(str(tmp_path / "nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def write_tokens_of_nothing(folder):
    with OutputFolder(str(folder), stage="test", config=Settings(), inputs=[], options=RunOptions()) as out:
        content = {"kind": "tokens", "dtype": "uint32", "vocab_size": 8, "bos_id": BOS, "eos_id": EOS}
        out.finish(counts={}, content=content)
    return str(folder)
