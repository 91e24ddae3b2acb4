import io
import json
import sys

import pytest
from tests.stages.tiny_chat import write_model, write_tokenizer

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.model.generate import generate
from dsllm.model.hf import load_model
from dsllm.progress import Reporter
from dsllm.stages.generate import chat
from dsllm.stages.generate.config import ChatConfig, GenerateConfig
from dsllm.stages.generate.run import plan, run
from dsllm.stages.generate.speaker import Speaker, load_speaker
from dsllm.text.tokenizer_files import load_tokenizer

QUIET = Reporter(is_quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def run_quietly(model, *, is_json=False, **settings):
    config = GenerateConfig(**settings)
    return run(config, [str(model)], options=RunOptions(), reporter=QUIET, is_json=is_json)


def pipe_in(monkeypatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


def test_a_prompt_is_continued_with_the_likeliest_tokens(model, capsys):
    summary = run_quietly(model, prompt="ab", max_new_tokens=5)
    tokenizer = load_tokenizer(model)
    (expected,) = generate(load_model(model), [tokenizer.encode("ab")], max_new_tokens=5)
    assert capsys.readouterr().out == tokenizer.decode(expected, skip_special=True) + "\n"
    assert summary == {"n_prompts": 1, "n_tokens": 5}


def test_lines_of_standard_input_are_prompts(model, capsys, monkeypatch):
    pipe_in(monkeypatch, '{"prompt": "ab"}\n\n你好\n'.encode())
    run_quietly(model, is_json=True, max_new_tokens=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["ab", "你好"]
    assert all(line["n_tokens"] <= 3 for line in lines)


def test_draws_depend_on_the_seed_and_not_on_the_batch(model, capsys, monkeypatch):
    def drawn(**settings):
        pipe_in(monkeypatch, b"ab\ncd\nef\n")
        run_quietly(model, is_json=True, max_new_tokens=6, temperature=1.0, n_samples=2, **settings)
        return [json.loads(line)["completion"] for line in capsys.readouterr().out.splitlines()]

    first = drawn(batch_seqs=1)
    assert drawn(batch_seqs=16) == first
    assert drawn(seed=1) != first
    assert len(set(first)) == len(first) == 6  # two samples of a prompt differ


def test_stop_strings_end_a_text_and_are_left_out(model, capsys):
    def result(**settings):
        run_quietly(model, is_json=True, prompt="ab", max_new_tokens=30, **settings)
        return json.loads(capsys.readouterr().out)

    whole = result()
    stop = whole["completion"][4:7]
    stopped = result(stop=("never seen", stop))
    assert stopped["completion"] == whole["completion"][: whole["completion"].index(stop)]
    assert stopped["n_tokens"] < whole["n_tokens"]
    assert stopped["is_finished"]


def test_answers_come_in_the_order_of_the_prompts(model, capsys, monkeypatch):
    lines = [f"{'ab' * n} {n}" for n in (30, 1, 12, 5, 20)]
    pipe_in(monkeypatch, "\n".join(lines).encode())
    run_quietly(model, is_json=True, max_new_tokens=40, batch_seqs=3, cache_tokens=256, no_repeat_ngram=2)
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == lines


def test_lines_that_are_no_prompts_are_named(model, monkeypatch):
    for line, reason in (
        (b'{"text": "x"}', "no 'prompt'"),
        (b"\xff", "not UTF-8 at byte 1"),
        (b"{", "not JSON"),
    ):
        pipe_in(monkeypatch, b"ab\n" + line + b"\n")
        with pytest.raises(DocumentError, match=f"standard input, line 2: {reason}"):
            run_quietly(model, is_json=True, max_new_tokens=1, batch_seqs=1)


def test_an_empty_prompt_begins_with_bos(model, capsys):
    run_quietly(model, prompt="", max_new_tokens=2, is_json=True)
    (expected,) = generate(load_model(model), [[0]], max_new_tokens=2)
    assert json.loads(capsys.readouterr().out)["n_tokens"] == len(expected)


def test_what_is_missing_or_does_not_fit_is_said(tmp_path, model):
    with pytest.raises(InputError, match=r"no tokenizer.json in it"):
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "config.json").write_bytes((model / "config.json").read_bytes())
        run_quietly(bare, prompt="a")
    with pytest.raises(InputError, match=r"model.safetensors: no such file"):
        write_tokenizer(bare)
        run_quietly(bare, prompt="a")
    with pytest.raises(ConfigError, match=r"has 258 ids, the model 250"):
        run_quietly(write_model(tmp_path / "small", vocab_size=250), prompt="a")
    with pytest.raises(InputError, match=r"config.json: No such file"):
        run_quietly(tmp_path / "nowhere", prompt="a")


def test_plan_counts_parameters(model):
    numbers = plan(GenerateConfig(), [str(model)], options=RunOptions(), reporter=QUIET)
    assert numbers["n_parameters"] == sum(weight.numel() for weight in load_model(model).parameters())
    assert numbers["memory_bytes"] == 4 * numbers["n_parameters"]


# --- chat -----------------------------------------------------------------------------------------------


def talk(model, monkeypatch, capsys, lines: str, **settings) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    chat.run(ChatConfig(**settings), [str(model)], options=RunOptions(), reporter=QUIET)
    return capsys.readouterr().out


def test_chat_remembers_until_it_is_reset(model, monkeypatch, capsys):
    seen = []
    answer = Speaker.answer

    def spy(self, messages, *, turn=0):
        seen.append([message["role"][0] + ":" + message["content"] for message in messages])
        list(answer(self, messages, turn=turn))
        yield from (" yes", " sir")

    monkeypatch.setattr(Speaker, "answer", spy)
    out = talk(model, monkeypatch, capsys, "one\n\ntwo\n/reset\nthree", system="S", max_new_tokens=2)
    assert out == "yes sir\n" * 3
    assert seen == [["s:S", "u:one"], ["s:S", "u:one", "a:yes sir", "u:two"], ["s:S", "u:three"]]


def test_pieces_of_an_answer_are_the_whole(model):
    speaker = load_speaker(str(model), ChatConfig(max_new_tokens=40))
    messages = [{"role": "user", "content": "你好"}]
    (tokens,) = generate(speaker.model, [speaker.fit(messages)], max_new_tokens=40, stop_ids=[1])
    text = "".join(speaker.answer(messages))
    whole = speaker.tokenizer.decode([token for token in tokens if token != 1], skip_special=True)
    assert text.replace("\ufffd", "") == whole.replace("\ufffd", "")  # bytes that are no character may be cut


def test_characters_of_several_tokens_come_whole(model):
    speaker = load_speaker(str(model), ChatConfig())
    tokens = speaker.tokenizer.encode("a你好!")
    assert len(tokens) == 8
    assert list(speaker.read([*tokens, 1, 99])) == ["a", "你", "好", "!"]


def test_a_long_conversation_forgets_its_beginning(model):
    speaker = load_speaker(str(model), ChatConfig(max_new_tokens=20))  # the model reads 128 tokens
    messages = [{"role": "system", "content": "S"}]
    for number in range(8):
        messages += [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ]
    messages.append({"role": "user", "content": "last"})
    prompt = speaker.fit(messages)
    text = speaker.tokenizer.decode(prompt)
    assert len(prompt) <= 108
    assert text.startswith("<bos>S\n\nUser: question ")
    assert text.endswith("User: last\n\nAssistant:")
    assert len(speaker.fit([{"role": "user", "content": "x" * 500}])) == 108
