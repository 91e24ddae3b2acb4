"""`dsllm eval` as a whole run: what it writes, and after a kill."""

import json
import math
from pathlib import Path

import pytest
from tests.stages.tiny_chat import write_jsonl, write_model
from tests.stages.tiny_eval import QUIET, choice_task, evaluate, read_lines

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.stages.eval import exam
from dsllm.stages.eval.config import EvalConfig
from dsllm.stages.eval.run import plan


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def all_tasks(tmp_path: Path) -> list[str]:
    write_jsonl(tmp_path / "gen" / "d.jsonl", [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(3)])
    (tmp_path / "gen" / "task.toml").write_text(
        'kind = "generation"\ncontext = "{{ prompt }}"\nmax_new_tokens = 6\nn_shots = 1\nstop = ["\\n"]'
    )
    documents = write_jsonl(tmp_path / "text.jsonl", [{"text": "x" * 300}, {"text": "你好"}])
    return [choice_task(tmp_path), f"gen={tmp_path / 'gen'}", f"text={documents}"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_writes_results_and_samples(model, tmp_path):
    counts = evaluate(model, tmp_path / "out", *all_tasks(tmp_path / "data"), batch_tokens=64)
    results = json.loads((tmp_path / "out" / "results.json").read_bytes())["results"]
    assert {name: one["n"] for name, one in results.items()} == {"quiz": 5, "gen": 3, "text": 2}
    assert counts["quiz"] == {key: results["quiz"][key] for key in ("metric", "score", "stderr", "n")}
    samples = read_lines(tmp_path / "out" / "samples-quiz.jsonl")
    assert [sample["item"] for sample in samples] == list(range(5))
    assert all(len(sample["log_likelihoods"]) == 2 for sample in samples)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["counts"] == counts
    assert not (tmp_path / "out" / ".work").exists()


def test_a_model_that_knows_nothing_needs_the_log_of_its_vocabulary(tmp_path):
    folder = write_model(tmp_path / "model", is_uniform=True)
    text = write_jsonl(tmp_path / "text.jsonl", [{"text": "x" * 300}, {"text": "你好"}])
    counts = evaluate(folder, tmp_path / "out", f"text={text}", choice_task(tmp_path), shard_items=1)
    # one token a byte, each with probability 1/258
    assert counts["text"]["score"] == pytest.approx(math.log2(258), rel=1e-6)
    sample = read_lines(tmp_path / "out" / "samples-quiz.jsonl")[0]
    assert sample["log_likelihoods"] == pytest.approx([-2 * math.log(258), -8 * math.log(258)], rel=1e-6)
    assert counts["quiz"]["score"] == 0.6  # the shorter answer, the first, is always likelier: items 0, 2, 4


def test_a_killed_run_asks_only_what_is_left_and_ends_alike(model, tmp_path, monkeypatch):
    tasks = all_tasks(tmp_path / "data")
    evaluate(model, tmp_path / "whole", *tasks, shard_items=2)
    asked: list[int] = []
    answer = exam.answer

    def failing(examiner, task, questions, advance):
        asked.append(len(questions))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(examiner, task, questions, advance)

    monkeypatch.setattr(exam, "answer", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tmp_path / "cut", *tasks, shard_items=2)
    evaluate(model, tmp_path / "cut", *tasks, shard_items=2)
    assert asked == [2, 2, 1, 1, 2, 1, 2]
    whole, cut = files_of(tmp_path / "whole"), files_of(tmp_path / "cut")
    del whole["manifest.json"], cut["manifest.json"]  # the command names the folder
    assert whole == cut


def test_batches_do_not_change_the_numbers(model, tmp_path):
    task = choice_task(tmp_path)
    for name, batch_tokens in (("one", 1), ("many", 10_000)):
        evaluate(model, tmp_path / name, task, batch_tokens=batch_tokens)
    one, many = (
        [sample["log_likelihoods"] for sample in read_lines(tmp_path / name / "samples-quiz.jsonl")]
        for name in ("one", "many")
    )
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-4)  # fp32 sums in another order


def test_chat_shows_the_prompt_as_it_was_read(model, tmp_path):
    evaluate(model, tmp_path / "out", choice_task(tmp_path), chat=True, limit=1)
    sample = json.loads((tmp_path / "out" / "samples-quiz.jsonl").read_bytes())
    assert sample["prompt"] == "<bos>User: 0 or 1?\n\nAssistant:"


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    folder = write_model(tmp_path / "small", vocab_size=200)
    with pytest.raises(ConfigError, match="has 258 ids, the model 200"):
        evaluate(folder, tmp_path / "out", choice_task(tmp_path))
    assert not (tmp_path / "out").exists()


def test_plan_counts_without_writing(model, tmp_path):
    config = EvalConfig(task=(choice_task(tmp_path),))
    planned = plan(config, [str(model)], str(tmp_path / "out"), options=RunOptions(), reporter=QUIET)
    # "0 or 1?" has 7 bytes; inputs end before the last token: 7 + 2 - 1 and 7 + 8 - 1 for each of 5 items
    assert planned["tasks"]["quiz"]["n_items"] == 5
    assert planned["tasks"]["quiz"]["n_tokens"] == 5 * (8 + 14)
    assert not (tmp_path / "out").exists()
