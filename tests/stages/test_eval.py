"""`dsllm eval`: requests, questions and scores, by hand."""

import math

import pytest
from tests.stages.tiny_chat import write_jsonl, write_tokenizer

from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.stages.eval.answers import cut_at, is_match
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
from dsllm.stages.eval.scores import mean, score_choice, score_document, summarise
from dsllm.stages.eval.task import TaskSettings, builtin_names, find_task
from dsllm.text.tokenizer_files import load_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return Encoder(tokenizer, start_id=0, adds_start=False, chat=False, max_length=8)


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
