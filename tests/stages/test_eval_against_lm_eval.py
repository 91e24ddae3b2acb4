"""`dsllm eval` against what lm-evaluation-harness recorded for the same model and items."""

import json
import os
from pathlib import Path

import pytest
from tests.stages.tiny_chat import write_jsonl
from tests.stages.tiny_eval import evaluate, read_lines

from dsllm.stages.eval import exam
from dsllm.stages.eval.answers import extract, is_match
from dsllm.stages.eval.config import split_task
from dsllm.stages.eval.items import read_items
from dsllm.stages.eval.task import find_task


def fixtures() -> Path:
    data = os.environ.get("DSLLM_TEST_DATA")
    if data is None:
        pytest.skip("DSLLM_TEST_DATA names no folder")
    return Path(data).parent / "fixtures"


def recorded(name: str, task: str) -> list[dict]:
    return read_lines(fixtures() / "eval" / name / f"samples_{task}_l.jsonl")


def evaluate_fixture(tmp_path: Path, given: str, **settings) -> tuple[list[dict], dict]:
    """Evaluate the start model; the same tokenizer as lm-eval had."""
    align = fixtures() / "align"
    name = split_task(given)[0]
    evaluate(align / "start", tmp_path / "out", given, tokenizer=str(align / "tokenizer"), **settings)
    samples = read_lines(tmp_path / "out" / f"samples-{name}.jsonl")
    return samples, json.loads((tmp_path / "out" / "results.json").read_bytes())["results"][name]


def check_choices(samples: list[dict], theirs: list[dict]) -> None:
    for ours, their in zip(samples, theirs, strict=True):
        arguments = list(their["arguments"].values())
        assert ours["context"] == arguments[0]["arg_0"]
        assert ours["continuations"] == [argument["arg_1"] for argument in arguments]
        logps = [float(answer[0][0]) for answer in their["resps"]]
        assert ours["log_likelihoods"] == pytest.approx(logps, abs=1e-4)
        assert ours["scores"]["accuracy"] == their["acc"]
        assert ours["scores"]["accuracy_characters"] == their["acc_norm"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_choices_are_those_of_lm_eval(tmp_path, name):
    data = fixtures() / "eval" / "data" / f"{name}.jsonl"
    samples, result = evaluate_fixture(tmp_path, f"{name}={data}")
    check_choices(samples, recorded("tiny", name))
    theirs = json.loads((fixtures() / "eval" / "tiny" / "results.json").read_bytes())["results"][f"{name}_l"]
    scores = result["scores"]
    assert scores["accuracy"]["value"] == pytest.approx(theirs["acc,none"])
    assert scores["accuracy"]["stderr"] == pytest.approx(theirs["acc_stderr,none"])
    assert scores["accuracy_characters"]["value"] == pytest.approx(theirs["acc_norm,none"])
    assert scores["accuracy_characters"]["stderr"] == pytest.approx(theirs["acc_norm_stderr,none"])
    assert result["metric"] == "accuracy_unconditional"


@pytest.mark.data
def test_five_shots_are_those_of_lm_eval(tmp_path):
    columns = ("Question", "A", "B", "C", "D", "Answer")
    for split in ("dev", "test"):
        items = read_items(fixtures() / "eval" / "data" / f"cmmlu_{split}_economics.jsonl")
        lines = [",".join(columns), *(",".join(f'"{item[name]}"' for name in columns) for item in items)]
        (tmp_path / "cmmlu" / split).mkdir(parents=True)
        (tmp_path / "cmmlu" / split / "economics.csv").write_text("\n".join(lines))
    samples, result = evaluate_fixture(tmp_path, f"cmmlu={tmp_path / 'cmmlu'}")
    check_choices(samples, recorded("tiny", "cmmlu_economics"))
    assert result["score"] == 0.25
    assert result["subjects"]["economics"] == {"value": 0.25, "stderr": pytest.approx(0.0993399), "n": 20}


@pytest.mark.data
@pytest.mark.parametrize(("name", "max_length"), [("tiny", None), ("tiny_max128", 128)])
def test_continuations_are_those_of_lm_eval(tmp_path, name, max_length):
    data = fixtures() / "eval" / "data" / "lambada.jsonl"
    samples, result = evaluate_fixture(tmp_path, f"lambada={data}", max_length=max_length)
    for ours, their in zip(samples, recorded(name, "lambada"), strict=True):
        assert ours["log_likelihood"] == pytest.approx(float(their["resps"][0][0][0]), abs=1e-4)
        assert ours["scores"]["accuracy"] == their["acc"]
    theirs = json.loads((fixtures() / "eval" / name / "results.json").read_bytes())["results"]["lambada_l"]
    # a perplexity of 1e14: what is off by 1e-6 in the exponent is off by 1e-6 of the whole
    assert result["scores"]["perplexity"]["value"] == pytest.approx(theirs["perplexity,none"], rel=1e-5)


@pytest.mark.data
@pytest.mark.parametrize(("name", "max_length"), [("tiny", None), ("tiny_max128", 128)])
def test_bits_per_byte_are_those_of_lm_eval(tmp_path, name, max_length):
    (tmp_path / "bpb").mkdir()
    (tmp_path / "bpb" / "task.toml").write_text('kind = "documents"\ntext = "page"')
    (tmp_path / "bpb" / "d.jsonl").write_bytes((fixtures() / "eval" / "data" / "bpb_docs.jsonl").read_bytes())
    samples, result = evaluate_fixture(tmp_path, f"bpb={tmp_path / 'bpb'}", max_length=max_length)
    for ours, their in zip(samples, recorded(name, "bpb"), strict=True):
        # theirs are fp32 sums of thousands of tokens: seven digits
        assert ours["log_likelihood"] == pytest.approx(float(their["resps"][0][0]), rel=1e-6)
    theirs = json.loads((fixtures() / "eval" / name / "results.json").read_bytes())["results"]["bpb_l"]
    assert result["score"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-7)
    assert result["scores"]["byte_perplexity"]["value"] == pytest.approx(
        theirs["byte_perplexity,none"], rel=1e-6
    )


@pytest.mark.data
def test_generations_are_those_of_lm_eval(tmp_path):
    data = fixtures() / "eval" / "data"
    theirs = recorded("tiny_gsm", "gsm8k")
    (tmp_path / "gsm8k").mkdir()
    definition = (Path(exam.__file__).parent / "builtin" / "gsm8k.toml").read_text()
    (tmp_path / "gsm8k" / "task.toml").write_text(
        definition.replace("max_new_tokens = 256", "max_new_tokens = 96")
    )
    for split in ("train", "test"):
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_bytes((data / f"gsm8k_{split}.jsonl").read_bytes())
    n_items = len({their["doc_id"] for their in theirs})
    samples, _ = evaluate_fixture(tmp_path, f"gsm8k={tmp_path / 'gsm8k'}", n_shots=5, limit=n_items)
    for ours in samples:
        strict, flexible = (
            next(t for t in theirs if t["doc_id"] == ours["item"] and t["filter"].startswith(name))
            for name in ("strict", "flexible")
        )
        assert ours["context"] == strict["arguments"]["gen_args_0"]["arg_0"]
        assert ours["generation"] == strict["resps"][0][0]
        assert ours["extracted"]["exact_match_strict"] == strict["filtered_resps"][0]
        assert ours["extracted"]["exact_match_flexible"] == flexible["filtered_resps"][0]


@pytest.mark.data
def test_extraction_is_that_of_lm_eval(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"question": "?", "answer": "#### 1"}])
    task = find_task(f"gsm8k={tmp_path}", n_shots=0)
    cases = json.loads((fixtures() / "eval" / "gsm8k_extraction.json").read_bytes())
    right = dict.fromkeys(("strict", "flexible"), 0)
    for case in cases:
        for extraction, name in zip(task.extractions, ("strict-match", "flexible-extract"), strict=True):
            found = extract(case["generation"], extraction)
            assert found == case[name]["extracted"]
            is_right = is_match(found, ["why\n#### " + case["gold"]], task.settings)
            assert float(is_right) == case[name]["exact_match"]
            right[extraction.name] += is_right
    assert right == {"strict": 9, "flexible": 24}
