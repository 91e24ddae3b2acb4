import json
import math
import os
from pathlib import Path

import pytest
from tests.stages.tiny_chat import write_jsonl, write_model, write_tokenizer

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.eval import exam
from dsllm.stages.eval.answers import cut_at, extract, is_match
from dsllm.stages.eval.config import EvalConfig, split_task
from dsllm.stages.eval.items import read_items
from dsllm.stages.eval.questions import build_questions, right_index
from dsllm.stages.eval.requests import (
    Encoder,
    Request,
    cut_batches,
    document_requests,
    generation_prompt,
    group_inputs,
    pair_request,
)
from dsllm.stages.eval.run import plan, run
from dsllm.stages.eval.scores import mean, score_choice, score_document, summarise
from dsllm.stages.eval.task import TaskSettings, builtin_names, find_task
from dsllm.text.tokenizer_files import load_tokenizer

QUIET = Reporter(is_quiet=True)


def evaluate(model: Path, out: Path, *tasks: str, overwrite: bool = False, **settings):
    config = EvalConfig(task=tasks, **settings)
    return run(config, [str(model)], str(out), options=RunOptions(overwrite=overwrite), reporter=QUIET)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return Encoder(tokenizer, start_id=0, adds_start=False, chat=False, max_length=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def choice_task(tmp_path: Path, name: str = "quiz", n: int = 5) -> str:
    records = [
        {"question": f"{i} or {i + 1}?", "choices": [f"{i}", f"{i + 1} it is"], "answer": i % 2}
        for i in range(n)
    ]
    return f"{name}={write_jsonl(tmp_path / f'{name}.jsonl', records)}"


# --- requests -------------------------------------------------------------------------------------------


def test_spaces_at_the_end_of_a_context_go_to_the_continuation(encoder):
    encode = encoder.tokenizer.encode
    assert pair_request("ab  ", "c", encoder, where="") == Request(tuple(encode("ab  c")), 3)


def test_an_empty_context_is_the_start_token(encoder):
    assert pair_request("", "ab", encoder, where="") == Request((0, *encoder.tokenizer.encode("ab")), 2)


def test_the_last_tokens_are_kept(encoder):
    # max_length 8: nine tokens, eight of which are read
    request = pair_request("0123456789", "ab", encoder, where="")
    assert request == Request(tuple(encoder.tokenizer.encode("3456789ab")), 2)


def test_an_answer_longer_than_the_model_is_refused(encoder):
    with pytest.raises(InputError, match="item 3: an answer of 9 tokens, but the model reads 8"):
        pair_request("x", "123456789", encoder, where="item 3")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 30])
def test_windows_score_every_token_once_with_all_the_room_before(encoder, length):
    text = "".join(chr(97 + at % 26) for at in range(length))
    tokens = [0, *encoder.tokenizer.encode(text)]
    scored: list[int] = []
    for request in document_requests(text, encoder):
        assert len(request.tokens) <= 9
        scored += request.tokens[-request.n_scored :]
        end = 1 + len(scored)
        assert list(request.tokens) == tokens[max(0, end - 9) : end]
    assert scored == tokens[1:]


def test_a_generation_leaves_room_for_its_new_tokens(encoder):
    assert generation_prompt("0123456789", encoder, max_new_tokens=5, where="") == encoder.tokenizer.encode(
        "789"
    )
    with pytest.raises(InputError, match="8 new tokens wanted, but the model holds 8"):
        generation_prompt("0", encoder, max_new_tokens=8, where="")


def test_a_chat_prompt_is_the_template_and_its_answer_without_the_stop_token(encoder):
    chat = Encoder(encoder.tokenizer, start_id=0, adds_start=False, chat=True, max_length=64)
    request = pair_request("2+2?", "4", chat, where="")
    text = encoder.tokenizer.decode(list(request.tokens))
    assert text == "<bos>User: 2+2?\n\nAssistant: 4"
    assert encoder.tokenizer.decode(list(request.tokens[-request.n_scored :])) == " 4"


def test_equal_inputs_are_read_once_and_batches_stay_within_their_size():
    requests = [Request((1, 2, 3), 1), Request((1, 2, 4), 1), Request((9, 9, 9, 9), 2)]
    assert group_inputs(requests) == {(9, 9, 9): [2], (1, 2): [0, 1]}
    assert [list(rows) for rows in cut_batches([9, 4, 4, 2], 8)] == [[0], [1, 2], [3]]


# --- questions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "index"), [(1, 1), (True, 1), ("B", 1), ("b", 1), ("1", 1), ("blue", 1), (" 0 ", 0)]
)
def test_an_answer_is_an_index_a_letter_or_a_text(answer, index):
    assert right_index(answer, ["red", "blue"], "here") == index


def test_the_text_of_a_choice_comes_before_its_index():
    assert right_index("1", ["1", "0"], "here") == 0


@pytest.mark.parametrize("answer", [2, -1, "C", "green", None, "7"])
def test_an_answer_that_is_no_choice_is_refused(answer):
    with pytest.raises(InputError, match="here: the answer is"):
        right_index(answer, ["red", "blue"], "here")


def test_examples_are_the_first_ones_and_never_the_item_itself(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"question": q, "choices": ["x", "y"], "answer": 1} for q in "abc"])
    (tmp_path / "task.toml").write_text(
        'kind = "choice"\ncontext = "{{ question }}="\nn_shots = 2\ndescription = "D:"'
    )
    questions = build_questions(find_task(f"t={tmp_path}"))
    assert [question.pairs[0][0] for question in questions] == [
        "D:b= y\n\nc= y\n\na=",
        "D:a= y\n\nc= y\n\nb=",
        "D:a= y\n\nb= y\n\nc=",
    ]


def test_examples_are_of_the_subject(tmp_path):
    for subject in ("art", "law"):
        for split in ("dev", "test"):
            path = tmp_path / split / f"{subject}_{split}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'"{subject} {split}, or so?",1,2,3,4,D\n')
    questions = build_questions(find_task(f"mmlu={tmp_path}", n_shots=1))
    assert [question.subject for question in questions] == ["art", "law"]
    assert questions[1].right == 3
    assert questions[1].pairs[3] == (
        "The following are multiple choice questions (with answers) about law.\n\n"
        "law dev, or so?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\n"
        "law test, or so?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        " D",
    )


def test_context_may_differ_by_choice(tmp_path):
    item = {
        "sentence": "The cup beats the ball, since _ is big.",
        "option1": "the cup",
        "option2": "the ball",
        "answer": "2",
    }
    write_jsonl(tmp_path / "validation.jsonl", [item])
    (question,) = build_questions(find_task(f"winogrande={tmp_path}"))
    assert question.pairs == (
        ("The cup beats the ball, since the cup", " is big."),
        ("The cup beats the ball, since the ball", " is big."),
    )
    assert question.right == 1


def test_every_builtin_task_is_read(tmp_path):
    names = builtin_names()
    assert {"arc_easy", "arc_challenge", "gsm8k", "hellaswag", "piqa", "mmlu", "cmmlu"} <= set(names)
    for name in names:
        with pytest.raises(InputError, match="no file"):
            find_task(f"{name}={tmp_path}")


def test_template_mistakes_name_the_item(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"q": "a", "choices": ["x"], "answer": 0}])
    (tmp_path / "task.toml").write_text('kind = "choice"\ncontext = "{{ question }}"')
    with pytest.raises(ConfigError, match=r"d.jsonl, item 1: .*'question' is undefined") as caught:
        build_questions(find_task(f"t={tmp_path}"))
    assert "this item has: subject, q, choices, answer" in caught.value.hint


def test_unknown_keys_names_and_paths_are_refused(tmp_path):
    (tmp_path / "task.toml").write_text('kind = "choice"\ncolour = 1')
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        find_task(f"t={tmp_path}")
    with pytest.raises(ConfigError, match="task 'gsm8k': no path to its data"):
        find_task("gsm8k")
    with pytest.raises(InputError, match="no such file or folder"):
        find_task(f"gsm8k={tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match="task 'a' is given twice"):
        EvalConfig(task=("a=x", "a=y"))
    assert split_task("data/quiz.jsonl") == ("quiz", "data/quiz.jsonl")
    assert split_task("a=b=c") == ("a", "b=c")


def test_items_of_all_formats(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeff,Question,Answer\n0,你好，,A\n".encode())
    (tmp_path / "b.json").write_text('{"canary": "x", "examples": [{"input": "i"}]}')
    (tmp_path / "c.jsonl").write_text('{"x": 1}\n\n[2]\n')
    assert read_items(tmp_path / "a.csv") == [{"": "0", "Question": "你好，", "Answer": "A"}]
    assert read_items(tmp_path / "b.json", records="examples") == [{"input": "i"}]
    with pytest.raises(DocumentError, match=r"c.jsonl, line 3: a JSON list, not an object"):
        read_items(tmp_path / "c.jsonl")


# --- scores ---------------------------------------------------------------------------------------------


def test_normalisations_by_hand(tmp_path):
    records = [{"question": "?", "choices": ["ab", "café"], "answer": 1}]
    task = find_task(f"t={write_jsonl(tmp_path / 't.jsonl', records)}")
    (question,) = build_questions(task)
    # Per character -3/2 < -5.4/4; per byte -3/2 < -5.4/5; per token -3/1 < -5.4/2; with -9 and -1 for the
    # bare answers, -3 + 9 > -5.4 + 1.
    sample = score_choice(task, question, [-3.0, -5.4], [1, 2], [-9.0, -1.0])
    assert sample["scores"] == {
        "accuracy": 0.0,
        "accuracy_characters": 1.0,
        "accuracy_bytes": 1.0,
        "accuracy_tokens": 1.0,
        "accuracy_unconditional": 0.0,
    }


def test_mean_and_its_error_by_hand():
    # 1, 0, 0, 1: variance with n - 1 is 1/3, over 4 items 1/12
    assert mean([1.0, 0.0, 0.0, 1.0]) == {"value": 0.5, "stderr": pytest.approx(math.sqrt(1 / 12))}
    assert mean([1.0]) == {"value": 1.0, "stderr": None}


def test_bits_per_byte_by_hand(tmp_path):
    task = find_task(f"t={write_jsonl(tmp_path / 't.jsonl', [{'text': 'aé'}, {'text': 'b'}])}")
    first, second = build_questions(task)
    samples = [score_document(first, -6 * math.log(2), 2), score_document(second, -2 * math.log(2), 1)]
    summary = summarise(task, samples)
    # 8 bits over 3 + 1 bytes; residuals 6 - 2*3 = 0 and 2 - 2*1 = 0
    assert (summary["score"], summary["stderr"]) == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-12))
    assert summary["scores"]["byte_perplexity"]["value"] == pytest.approx(4.0)
    assert summary["scores"]["nats_per_token"]["value"] == pytest.approx(8 * math.log(2) / 3)


def test_answers_are_cut_found_and_compared():
    gsm8k = TaskSettings(kind="generation", ignore=(",", r"\$", r"(?s).*#### ", r"\.$"), ignore_case=True)
    assert cut_at("18\nQuestion: next", ("Question:", "</s>")) == "18\n"
    assert is_match("1,018.", ["because\n#### 1018"], gsm8k)
    assert not is_match("18.0", ["#### 18"], gsm8k)
    assert is_match("Yes", ["no", "yes"], gsm8k)


# --- a whole run ----------------------------------------------------------------------------------------


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


# --- against lm-evaluation-harness ----------------------------------------------------------------------


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
