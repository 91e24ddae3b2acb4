"""The chat template: text by hand, ids and masks as `transformers` and TRL have them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsllm.errors import InputError
from dsllm.stages.tokenize.bpe import BOS, EOS, learn_words, tokenizer_files
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.text.bpe import Encoder, read_merges
from dsllm.text.chat import chat_text, render_chat, render_completion
from dsllm.text.piece_counts import count_pieces
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_facts import read_facts
from dsllm.text.tokenizer_files import load_tokenizer, token_byte_lengths

GOLDEN = Path(__file__).parent.parent / "golden"
SAID = json.loads((GOLDEN / "tokenizer_transformers.json").read_text())

needs_data = pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the corpora")

USER = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "4."}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    with (GOLDEN / "tokenizer_corpus.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, data in tokenizer_files(
        learn_words(count_pieces(texts), TokenizeTrainConfig(vocab_size=SAID["vocab_size"]))
    ).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder)


def learned(rendered, tokenizer):
    """The text that the mask covers."""
    pairs = zip(rendered.token_ids, rendered.loss_mask, strict=True)
    return tokenizer.decode([token_id for token_id, is_learned in pairs if is_learned])


def test_layout_by_hand(tokenizer):
    messages = [SYSTEM, USER, ANSWER, USER]
    expected = f"{BOS}Be brief.\n\nUser: 2 + 2?\n\nAssistant: 4.{EOS}User: 2 + 2?\n\n"
    assert chat_text(messages, tokenizer) == expected
    assert chat_text(messages, tokenizer, add_generation_prompt=True) == expected + "Assistant:"


@pytest.mark.parametrize("chat", SAID["chats"], ids=range(len(SAID["chats"])))
def test_conversations_are_those_of_transformers(chat, tokenizer):
    options = {"add_generation_prompt": chat["add_generation_prompt"]}
    assert chat_text(chat["messages"], tokenizer, **options) == chat["text"]
    rendered = render_chat(chat["messages"], tokenizer, **options)
    assert rendered.token_ids == chat["ids"]
    assert [int(each) for each in rendered.loss_mask] == chat["mask"]


@pytest.mark.parametrize("said", SAID["texts"], ids=range(len(SAID["texts"])))
def test_texts_are_encoded_as_by_transformers(said, tokenizer):
    assert tokenizer.encode(said["text"], parse_special=True) == said["ids"]
    assert tokenizer.encode_batch([said["text"]], parse_special=True) == [said["ids"]]
    assert tokenizer.decode(said["ids"]) == said["decoded"]
    assert tokenizer.decode(said["ids"], skip_special=True) == said["without_special"]


@pytest.mark.parametrize("said", SAID["texts"], ids=range(len(SAID["texts"])))
def test_the_compiled_encoder_and_words_do_the_same(said, tokenizer_folder):
    encoder = Encoder(read_merges(tokenizer_folder), parse_special=True)
    assert encoder.encode(Texts.join([said["text"].encode()]))[0].tolist() == said["ids"]
    assert read_facts(tokenizer_folder).decode(said["ids"]).decode() == said["decoded"]


def test_special_ids_and_bos_are_those_of_transformers(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id) == (SAID["bos_id"], SAID["eos_id"])
    assert tokenizer.adds_bos
    assert SAID["with_bos"] == [tokenizer.bos_id, *SAID["texts"][0]["ids"]]


def test_mask_covers_answers_and_stop_tokens(tokenizer):
    rendered = render_chat([SYSTEM, USER, ANSWER, USER, ANSWER], tokenizer)
    assert learned(rendered, tokenizer) == f" 4.{EOS} 4.{EOS}"
    assert rendered.token_ids[0] == tokenizer.bos_id
    assert rendered.token_ids.count(tokenizer.bos_id) == 1
    assert rendered.loss_mask[-1]


def test_character_of_several_tokens_is_learned_whole(tokenizer):
    # 🙂 is four bytes and was not in the training text: four tokens with the same character.
    rendered = render_chat([USER, {"role": "assistant", "content": "🙂"}], tokenizer)
    assert learned(rendered, tokenizer) == f" 🙂{EOS}"
    assert sum(rendered.loss_mask) == 1 + 4 + 1  # space, bytes, EOS


def test_prompt_is_the_beginning_of_the_whole(tokenizer):
    prompt = render_chat([SYSTEM, USER], tokenizer, add_generation_prompt=True)
    whole = render_chat([SYSTEM, USER, ANSWER], tokenizer)
    assert whole.token_ids[: len(prompt.token_ids)] == prompt.token_ids
    assert not any(prompt.loss_mask)


def test_completion_mask_covers_what_follows_the_prompt(tokenizer):
    rendered = render_completion([USER, ANSWER, USER], [ANSWER], tokenizer)
    assert rendered.token_ids == render_chat([USER, ANSWER, USER, ANSWER], tokenizer).token_ids
    assert learned(rendered, tokenizer) == f" 4.{EOS}"


@pytest.mark.parametrize("name", [BOS, EOS, EOS * 2, BOS[:3] + EOS])
def test_names_of_special_tokens_in_messages_are_text(name, tokenizer):
    said = [{"role": "user", "content": f"a{name}b"}, {"role": "assistant", "content": f"{name} c"}]
    rendered = render_chat(said, tokenizer)
    assert rendered.token_ids.count(tokenizer.eos_id) == 1
    assert rendered.token_ids.count(tokenizer.bos_id) == 1
    assert tokenizer.decode(rendered.token_ids) == chat_text(said, tokenizer)
    assert learned(rendered, tokenizer) == f" {name} c{EOS}"
    completed = render_completion(said[:1], said[1:], tokenizer)
    assert completed == rendered


def test_overlapping_names_are_text_too(tokenizer):
    tokenizer = replace(tokenizer, special_tokens={"<s>": tokenizer.bos_id, "s><s": tokenizer.eos_id})
    tokenizer = replace(tokenizer, bos_token=None, eos_token=None)
    rendered = render_chat([{"role": "user", "content": "<s><s>"}], tokenizer)
    assert tokenizer.bos_id is None
    assert tokenizer.decode(rendered.token_ids) == "User: <s><s>\n\n"


def test_template_of_the_folder_is_taken(tokenizer):
    answer = "\n  {%- generation -%}\n[{{ m.content | trim }}]{% endgeneration %}"
    template = "{% for m in messages %}" + answer + "{% endfor %}"
    rendered = render_chat([ANSWER], replace(tokenizer, chat_template=template))
    assert learned(rendered, tokenizer) == "[4.]"
    assert tokenizer.decode(rendered.token_ids) == "[4.]"


def test_template_without_marks_cannot_be_learned_from(tokenizer):
    plain = replace(tokenizer, chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(InputError, match="no {% generation %} block"):
        render_chat([USER, ANSWER], plain)
    assert tokenizer.decode(render_chat([USER], plain).token_ids) == "2 + 2?\n"
    # A completion is marked by the prompt's end, whatever the template.
    assert learned(render_completion([USER], [ANSWER], plain), tokenizer) == "4.\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "chat template: Expected"),
        ("{{ messages.missing.name }}", "chat template: .* has no attribute 'missing'"),
        ("{{ raise_exception('no ' + messages[0].role) }}", "chat template: no user"),
    ],
)
def test_bad_template_is_an_error_of_the_input(template, message, tokenizer):
    with pytest.raises(InputError, match=message):
        render_chat([USER], replace(tokenizer, chat_template=template))


def test_template_that_changes_the_prompt_cannot_mark_a_completion(tokenizer):
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match="not so when an answer follows"):
        render_completion([USER], [ANSWER], replace(tokenizer, chat_template=template))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a conversation without messages"),
        ([USER, {"role": "assistant"}], "message 2 of 2 has no 'content' that is a string"),
        ([{"content": "x"}], "message 1 of 1 has no 'role' that is a string"),
        ([{"role": "tool", "content": "x"}], "the roles are system, user and assistant, not tool"),
    ],
)
def test_messages_that_are_no_conversation_are_refused(messages, message, tokenizer):
    with pytest.raises(InputError, match=message):
        render_chat(messages, tokenizer)


def test_byte_lengths_add_up_to_the_text(tokenizer_folder, tokenizer):
    lengths = token_byte_lengths(tokenizer_folder / "tokenizer.json")
    assert lengths.shape == (tokenizer.n_ids,)
    assert lengths[tokenizer.bos_id] == lengths[tokenizer.eos_id] == 0
    assert (lengths[tokenizer.eos_id + 1 :] == 1).all()  # the 13 bytes that UTF-8 never uses
    for said in SAID["texts"]:
        token_ids = tokenizer.encode(said["text"])
        assert lengths[token_ids].sum() == len(said["text"].encode())
    assert np.issubdtype(lengths.dtype, np.integer)


@pytest.mark.parametrize("decoder", ["null", '{"type": "Metaspace"}'])
def test_byte_lengths_need_a_byte_level_tokenizer(decoder, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(f'{{"model": {{"vocab": {{"a": 0}}}}, "decoder": {decoder}, "added_tokens": []}}')
    with pytest.raises(InputError, match="not a byte-level tokenizer"):
        token_byte_lengths(path)


def test_folders_that_hold_no_tokenizer_are_refused(tokenizer_folder, tmp_path):
    with pytest.raises(InputError, match="no tokenizer.json in it"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer.json: not JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: .*"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<eos>"}}')
    with pytest.raises(InputError, match="names '<eos>', which tokenizer.json does not have"):
        load_tokenizer(tmp_path)


def test_template_file_goes_before_the_configuration(tokenizer_folder, tmp_path):
    for path in tokenizer_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load_tokenizer(tmp_path).chat_template == "file"
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    templates = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": templates}))
    assert load_tokenizer(tmp_path).chat_template == "d"


def fixtures():
    return Path(os.environ["DSLLM_TEST_DATA"]).parent / "fixtures" / "align"


def read_lines(name):
    with (fixtures() / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def recorded_rows(case):
    """Each sequence of a run of TRL without its padding: (ids, labels or mask)."""
    for micro_batch in json.loads((fixtures() / case / "trace.json").read_text())["microbatches"]:
        inputs = micro_batch["inputs"]
        columns = inputs.get("completion_mask", inputs.get("labels"))
        for ids, column, attention in zip(
            inputs["input_ids"], columns, inputs["attention_mask"], strict=True
        ):
            yield tuple(ids[: sum(attention)]), column[: sum(attention)]


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("case", ["sft_assistant_only", "sft_accum2x4"])
def test_conversations_are_those_of_trl(case):
    tokenizer = load_tokenizer(fixtures() / "tokenizer")
    rendered = [render_chat(record["messages"], tokenizer) for record in read_lines("chat.jsonl")]
    labels = {
        tuple(each.token_ids): [
            token_id if is_learned else -100
            for token_id, is_learned in zip(each.token_ids, each.loss_mask, strict=True)
        ]
        for each in rendered
    }
    rows = list(recorded_rows(case))
    assert rows
    for token_ids, expected in rows:
        assert labels[token_ids] == expected


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("case", ["dpo_sigmoid_b0.1", "dpo_sigmoid_b0.5_precomputed", "dpo_sigmoid_accum2x2"])
def test_preference_pairs_are_those_of_trl(case):
    tokenizer = load_tokenizer(fixtures() / "tokenizer")
    masks = {}
    for record in read_lines("prefs.jsonl"):
        for key in ("chosen", "rejected"):
            rendered = render_completion(record["prompt"], record[key], tokenizer)
            masks[tuple(rendered.token_ids)] = [int(each) for each in rendered.loss_mask]
    rows = list(recorded_rows(case))
    assert rows
    for token_ids, expected in rows:
        assert masks[token_ids] == expected
