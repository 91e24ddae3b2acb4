import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.stages.tiny_chat import BOS, EOS, write_jsonl, write_model, write_tokenizer

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.model.hf import load_model
from dsllm.parallel.mesh import Ranks
from dsllm.progress import Reporter
from dsllm.stages.sft.config import SftConfig
from dsllm.stages.sft.run import plan, run, step_batch
from dsllm.text.tokenizer_files import load_tokenizer
from dsllm.train.batches import IGNORED
from dsllm.train.conversations import encode_conversation
from dsllm.train.course import plan_course
from dsllm.train.metrics import read_metrics
from dsllm.train.sampler import cut_step, step_records, steps_per_epoch

QUIET = Reporter(is_quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(model)


def ask(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def conversations(tmp_path: Path, n: int = 10) -> str:
    return write_jsonl(tmp_path / "chat.jsonl", [ask(f"{i}+1?", str(i + 1) * (1 + i % 3)) for i in range(n)])


def finetune(data: str, model: Path, out: Path, *, overwrite: bool = False, n_workers: int = 1, **settings):
    defaults = {"n_epochs": 2, "batch_seqs": 4, "lr_max": 1e-2, "dtype": "fp32", "device": "cpu"}
    config = SftConfig(model=str(model), **{**defaults, **settings})
    options = RunOptions(overwrite=overwrite, n_workers=n_workers)
    return run(config, [data], str(out), options=options, reporter=QUIET)


def learnt(record: dict, tokenizer) -> str:
    """What the mask leaves, other tokens as dots."""
    (tokens,) = encode_conversation(record, tokenizer)
    return "".join(
        tokenizer.decode([token]) if is_learnt else "."
        for token, is_learnt in zip(tokens.token_ids, tokens.loss_mask, strict=True)
    ).lstrip(".")


# --- records --------------------------------------------------------------------------------------------


def test_every_answer_and_its_stop_token_is_learnt(tokenizer):
    record = {"messages": [*ask("a?", "b")["messages"], *ask("c?", "d")["messages"]]}
    (tokens,) = encode_conversation(record, tokenizer)
    assert (
        tokenizer.decode(tokens.token_ids)
        == f"{BOS}User: a?\n\nAssistant: b{EOS}User: c?\n\nAssistant: d{EOS}"
    )
    assert learnt(record, tokenizer) == f" b{EOS}{'.' * len('User: c?nnAssistant:')} d{EOS}"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "c?", "completion": "d"},
        {"prompt": "c?", "response": "d"},
        {"prompt": ask("a?", "b")["messages"] + [{"role": "user", "content": "c?"}], "completion": "d"},
        {"prompt": "c?", "completion": [{"role": "assistant", "content": "d"}]},
        {"instruction": "c?", "input": "", "output": "d"},
        {"instruction": "b", "input": "c?", "output": "d"},
        {"conversations": [{"from": "human", "value": "c?"}, {"from": "gpt", "value": "d"}]},
    ],
)
def test_of_a_completion_only_it_is_learnt(tokenizer, record):
    assert learnt(record, tokenizer) == f" d{EOS}"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "unknown role 'tool', not one of system, user"),
        ({"messages": "a"}, "no message is the assistant's"),
        ({"messages": 1}, "neither a text nor a list of messages"),
        ({"messages": [{"role": "assistant", "content": None}]}, "has no 'content' that is a string"),
        ({"prompt": "a"}, "no conversation in the fields prompt"),
        ({"prompt": "a", "completion": []}, "last message is not the assistant's"),
        ({"instruction": "a", "output": 3}, "'output' is a int, not a string"),
        ({"text": "a"}, "no conversation in the fields text"),
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, model, record, reason):
    data = write_jsonl(tmp_path / "chat.jsonl", [ask("a", "b"), record])
    with pytest.raises(DocumentError, match=rf"chat.jsonl, line 2: .*{reason}"):
        finetune(data, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_not_json_is_named_or_set_aside(tmp_path, model):
    data = tmp_path / "chat.jsonl"
    data.write_text(json.dumps(ask("a", "b")) + "\n{\n[1]\n")
    with pytest.raises(DocumentError, match=r"chat.jsonl, line 2: not JSON"):
        finetune(str(data), model, tmp_path / "out")
    counts = finetune(str(data), model, tmp_path / "out", on_error="skip")
    assert (counts["n_samples"], counts["n_skipped"]) == (1, 2)
    aside = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["line"] for line in aside] == [2, 3]


def template_folder(tmp_path: Path, model: Path, template: str) -> Path:
    folder = write_tokenizer(tmp_path / "tokenizer")
    (folder / "chat_template.jinja").write_text(template)
    return folder


TURNS = "{{ messages[0]['content'] }}:{% generation %}{{ messages[1]['content'] + END }}{% endgeneration %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (TURNS.replace(" + END", ""), "last learnt token is 'b', not the stop token '<eos>'"),
        (TURNS.replace("END", "eos_token + '\n'"), "last learnt token is '\\\\n', not the stop token"),
        ("{{ bos_token + bos_token }}" + TURNS.replace("END", "eos_token"), "begins with '<bos>' twice"),
        ("{{ messages[0]['content'] + eos_token }}", "has no {% generation %} block"),
    ],
    ids=["no stop", "stop is not last", "two beginnings", "no mask"],
)
def test_a_template_that_teaches_wrong_is_refused(tmp_path, model, template, reason):
    folder = template_folder(tmp_path, model, template)
    data = write_jsonl(tmp_path / "chat.jsonl", [ask("a", "b")])
    with pytest.raises(InputError, match=reason):
        finetune(data, model, tmp_path / "out", tokenizer=str(folder))


def test_what_a_cut_leaves(tmp_path, model):
    records = [ask("q", "x"), ask("q", "y" * 30), ask("q" * 30, "z")]
    data = write_jsonl(tmp_path / "chat.jsonl", records)
    with pytest.raises(DocumentError, match=r"line 3: of 52 tokens none of the first 30 is an answer's"):
        finetune(data, model, tmp_path / "out", seq_len=30)
    counts = finetune(data, model, tmp_path / "cut", seq_len=30, on_empty="drop")
    assert [counts[name] for name in ("n_samples", "n_cut", "n_dropped_empty")] == [2, 1, 1]
    n_before = 1 + len("User: q\n\nAssistant:")
    assert counts["n_loss_tokens"] == len(" x") + 1 + 30 - n_before
    counts = finetune(data, model, tmp_path / "drop", seq_len=30, on_long="drop")
    assert [counts[name] for name in ("n_samples", "n_dropped_long")] == [1, 2]
    with pytest.raises(DocumentError, match=r"line 2: .* tokens, but seq_len is 30"):
        finetune(data, model, tmp_path / "stop", seq_len=30, on_long="stop")


def test_nothing_to_train_on_is_refused(tmp_path, model):
    with pytest.raises(InputError, match="no sample to train on"):
        finetune(write_jsonl(tmp_path / "chat.jsonl", []), model, tmp_path / "out")
    with pytest.raises(InputError, match="training data comes from files"):
        finetune("-", model, tmp_path / "out")
    with pytest.raises(ConfigError, match="seq_len is 999, but the model reads 128 tokens"):
        finetune(conversations(tmp_path), model, tmp_path / "out", seq_len=999)


# --- steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_records", "batch_seqs"), [(10, 4), (64, 8), (3, 8), (9, 8), (1, 1)])
def test_an_epoch_has_every_record_once_in_batches_of_like_size(n_records, batch_seqs):
    n_steps = steps_per_epoch(n_records, batch_seqs)
    orders = []
    for epoch in range(3):
        batches = [
            step_records(epoch * n_steps + step, n_records=n_records, batch_seqs=batch_seqs, seed=1)
            for step in range(n_steps)
        ]
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= batch_seqs
        assert max(sizes) - min(sizes) <= 1
        orders.append(np.concatenate(batches).tolist())
        assert sorted(orders[-1]) == list(range(n_records))
    if n_records > 9:
        assert orders[0] != orders[1] != orders[2]


def test_the_given_order_is_kept():
    batches = [
        step_records(step, n_records=5, batch_seqs=3, seed=1, order="given").tolist() for step in range(3)
    ]
    assert batches == [[0, 1], [2, 3, 4], [0, 1]]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_step_and_pad_little(world_size):
    costs = np.array([5, 100, 7, 90, 6, 80, 4])
    records = np.array([6, 5, 4, 3, 2, 1, 0])
    parts = [
        cut_step(records, costs, rank=rank, world_size=world_size, micro_batch_seqs=2)
        for rank in range(world_size)
    ]
    assert sorted(int(record) for part in parts for micro in part for record in micro) == list(range(7))
    totals = [sum(int(costs[micro].sum()) for micro in part) for part in parts]
    assert max(totals) <= 2 * min(totals)
    if world_size == 1:
        assert [micro.tolist() for micro in parts[0]] == [[1, 3], [5, 2], [4, 0], [6]]


def test_micro_batches_hold_about_as_many_tokens():
    costs = np.array([5000, 4000, 4000, 100])
    assert [part.tolist() for part in cut_step(np.arange(4), costs)] == [[0], [1, 2], [3]]


def test_labels_stand_one_to_the_left(tmp_path, model):
    data = write_jsonl(tmp_path / "chat.jsonl", [ask("ab", "c"), ask("a", "c")])
    config = SftConfig(model=str(model), order="given", batch_seqs=2)
    course = plan_course(config, [data], encode_conversation, options=RunOptions(), reporter=QUIET)
    step = step_batch(0, course=course, ranks=Ranks())
    (batch,) = step.micro_batches
    decode = load_tokenizer(model).decode
    length = 1 + len("User: ab\n\nAssistant: c")  # and the stop token, which is no input
    assert batch.tokens.shape == (2, length)
    assert decode(batch.tokens[0].tolist()) == f"{BOS}User: ab\n\nAssistant: c"
    assert decode(batch.tokens[1].tolist()[:-1]) == f"{BOS}User: a\n\nAssistant: c"  # then padding
    for row in batch.labels:
        assert decode([token for token in row.tolist() if token != IGNORED]) == f" c{EOS}"
    assert batch.labels[0, -3:].tolist() == [*batch.tokens[0, -2:].tolist(), 1]
    assert (step.n_units, batch.n_labels) == (6, 6)


# --- a whole run ----------------------------------------------------------------------------------------


def test_a_run_writes_a_chat_model(tmp_path, model):
    data = conversations(tmp_path)
    counts = finetune(data, model, tmp_path / "out", n_epochs=8, n_valid=2, schedule="constant")
    assert counts["n_samples"] == 8
    assert counts["n_valid_samples"] == 2
    assert counts["n_steps"] == 16
    assert counts["loss"] < counts["initial_loss"]
    assert {"initial_valid_loss", "valid_loss"} <= set(counts)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["counts"] == counts
    names = {shard["name"] for shard in manifest["shards"]}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not (tmp_path / "out" / "checkpoints").exists()
    lines = read_metrics(tmp_path / "out")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 17))
    # what was written is what was trained: another step from there begins where the loss ended
    assert load_model(tmp_path / "out").config.eos_id == 1
    assert load_tokenizer(tmp_path / "out").chat_template is not None


def test_a_model_learns_its_answers_and_to_stop(tmp_path):
    from dsllm.model.generate import generate
    from dsllm.text.chat import render_chat

    start = write_model(tmp_path / "start", seed=3)
    data = write_jsonl(tmp_path / "chat.jsonl", [ask("yes or no?", "no"), ask("hot or cold?", "cold")])
    finetune(data, start, tmp_path / "out", n_epochs=80, schedule="constant", warmup_steps=0)
    tokenizer, trained = load_tokenizer(tmp_path / "out"), load_model(tmp_path / "out")
    for question, answer in (("yes or no?", " no"), ("hot or cold?", " cold")):
        prompt = render_chat([{"role": "user", "content": question}], tokenizer, add_generation_prompt=True)
        (tokens,) = generate(trained, [prompt.token_ids], max_new_tokens=20, stop_ids=[1])
        assert tokenizer.decode(tokens) == answer + EOS


def test_micro_batches_and_workers_do_not_change_the_result(tmp_path, model):
    data = conversations(tmp_path, 12)
    counts = [
        finetune(data, model, tmp_path / f"out{micro}", micro_batch_seqs=micro, n_workers=workers)
        for micro, workers in ((None, 1), (1, 1), (3, 2))
    ]
    for other in counts[1:]:
        assert other["initial_loss"] == pytest.approx(counts[0]["initial_loss"], rel=1e-6)
        assert other["loss"] == pytest.approx(counts[0]["loss"], rel=1e-4)  # AdamW spreads roundings


def test_the_loss_weighs_tokens_alike(tmp_path):
    """With uniform predictions each token costs the log of the vocabulary, however answers are cut."""
    uniform = write_model(tmp_path / "uniform", is_uniform=True)
    counts = finetune(conversations(tmp_path), uniform, tmp_path / "out", n_steps=1, micro_batch_seqs=1)
    assert counts["initial_loss"] == pytest.approx(np.log(258), rel=1e-6)


def test_a_killed_run_ends_alike(tmp_path, model, monkeypatch):
    data, settings = conversations(tmp_path), {"save_every_steps": 2, "n_epochs": 3}
    finetune(data, model, tmp_path / "whole", **settings)
    from dsllm.train import checkpoint, loop

    save, n_saves = checkpoint.save_checkpoint, []

    def dying(*arguments):
        if len(n_saves) == 2:
            raise MemoryError
        n_saves.append(save(*arguments))

    monkeypatch.setattr(loop, "save_checkpoint", dying)
    with pytest.raises(MemoryError):
        finetune(data, model, tmp_path / "cut", **settings)
    monkeypatch.undo()
    counts = finetune(data, model, tmp_path / "cut", **settings)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert counts == json.loads((tmp_path / "whole" / "manifest.json").read_bytes())["counts"]


def test_plan_reads_and_writes_nothing(tmp_path, model):
    config = SftConfig(model=str(model), n_epochs=3, batch_seqs=4)
    planned = plan(
        config, [conversations(tmp_path)], str(tmp_path / "out"), options=RunOptions(), reporter=QUIET
    )
    assert planned["n_steps"] == 9  # 10 records make 3 batches of at most 4, three times
    assert planned["n_samples"] == 10
    assert not (tmp_path / "out").exists()


# --- against TRL ----------------------------------------------------------------------------------------


def fixtures() -> Path:
    data = os.environ.get("DSLLM_TEST_DATA")
    if data is None:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    return Path(data).parent / "fixtures" / "align"


def in_their_order(trace: dict, records: list[dict], tokenizer) -> list[dict]:
    """Put the records into the order in which TRL trained on them, found by their tokens."""
    by_tokens = {tuple(encode_conversation(record, tokenizer)[0].token_ids): record for record in records}
    rows = [
        tuple(token for token, is_text in zip(ids, mask, strict=True) if is_text)
        for micro in trace["microbatches"]
        for ids, mask in zip(micro["inputs"]["input_ids"], micro["inputs"]["attention_mask"], strict=True)
    ]
    return [by_tokens[row] for row in rows]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("sft_assistant_only", "chat.jsonl"),
        ("sft_accum2x4", "chat.jsonl"),
        ("sft_completion_only", "prompt_completion.jsonl"),
    ],
)
def test_losses_are_those_of_trl(tmp_path, name, data):
    if not (path := fixtures() / name / "trace.json").exists():
        pytest.skip(f"no {path}")
    trace = json.loads(path.read_bytes())
    tokenizer_folder = fixtures() / "tokenizer"
    records = [json.loads(line) for line in (fixtures() / data).read_text().splitlines()]
    ordered = in_their_order(trace, records, load_tokenizer(tokenizer_folder))
    arguments = trace["args"]
    finetune(
        write_jsonl(tmp_path / "chat.jsonl", ordered),
        fixtures() / "start",
        tmp_path / "out",
        tokenizer=str(tokenizer_folder),
        n_epochs=1,
        batch_seqs=8,
        micro_batch_seqs=arguments["per_device_train_batch_size"],
        order="given",
        lr_max=arguments["learning_rate"],
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
    )
    lines = [line for line in read_metrics(tmp_path / "out") if "loss" in line]
    assert len(lines) == len(trace["logs"]) == 6
    for ours, theirs in zip(lines, trace["logs"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=3e-5)
    ours, theirs = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(fixtures() / name / "end.safetensors"),
    )
    for key, weight in theirs.items():
        # AdamW turns the rounding of a gradient near zero into a share of the learning rate, here and there
        difference = (ours[key] - weight).abs() / arguments["learning_rate"]
        assert difference.mean() < 1e-3
        assert difference.max() < 0.2
