"""`dsllm tokenize encode`: shards from any number of workers and after a kill, and any tokenizer."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tests.stages.tiny_tokens import (
    CORPUS,
    KILLED,
    QUIET,
    TEXTS,
    bytes_of,
    copy_files,
    load_once,
    many_documents,
    relative,
    run_encode,
    run_train,
    write_documents,
)

from dsllm.config import RunOptions
from dsllm.errors import DocumentError, InputError, ShardError
from dsllm.io.tokens import TokenFolder
from dsllm.stages.tokenize import encode, train
from dsllm.stages.tokenize.bpe import BOS, EOS, learn_words, tokenizer_files
from dsllm.stages.tokenize.config import TokenizeEncodeConfig, TokenizeTrainConfig
from dsllm.stages.tokenize.encode_task import EncodeTask
from dsllm.stages.tokenize.statistics import MAX_SOURCES, OTHERS, SourceCounts
from dsllm.stages.tokenize.uses_compiled import spell
from dsllm.text.piece_counts import count_pieces
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import (
    decode_documents,
    load_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    run_train(folder)
    return folder


def test_encoded_documents_come_back_with_eos_behind_each(tokenizer_folder, tmp_path):
    counts = run_encode(tmp_path / "tokens", tokenizer_folder)
    tokens, tokenizer = TokenFolder(tmp_path / "tokens"), load_tokenizer(tokenizer_folder)
    assert (tokens.vocab_size, tokens.bos_id, tokens.eos_id) == (4096, 400, 401)
    expected = [[*tokenizer.encode(text), 401] for text in TEXTS]
    assert [tokens.document(index).tolist() for index in range(tokens.n_documents)] == expected
    assert list(decode_documents(tmp_path / "tokens", 1000)) == TEXTS
    used = {token_id for document in expected for token_id in document} - {401}
    assert counts["n_tokens"] == tokens.n_tokens == sum(map(len, expected))
    assert counts["n_documents"] == len(TEXTS)
    assert counts["n_bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert counts["n_words"] == 413  # 400 and the 13 that never occur
    assert counts["unused_words_frac"] == round(1 - len(used) / 413, 4)
    assert counts["n_lossy"] == 0
    assert counts["sources"]["math"]["n_documents"] == 2


def test_shards_end_at_the_document_that_fills_them(tokenizer_folder, tmp_path):
    run_encode(tmp_path / "tokens", tokenizer_folder, shard_tokens=500)
    lengths = [len(load_once(tokenizer_folder).encode(text)) + 1 for text in TEXTS]
    shards, n_open = [0], 0
    for length in lengths:  # the rule, by hand
        n_open += length
        shards[-1] += length
        if n_open >= 500:
            shards.append(0)
            n_open = 0
    expected = [n for n in shards if n]
    manifest = TokenFolder(tmp_path / "tokens").manifest
    assert [shard.counts["n_tokens"] for shard in manifest.shards if shard.name.endswith(".bin")] == expected
    assert len(expected) > 3


def test_tokenizer_travels_with_the_tokens(tokenizer_folder, tmp_path):
    run_encode(tmp_path / "tokens", tokenizer_folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "tokens" / name).read_bytes() == (tokenizer_folder / name).read_bytes()


@pytest.fixture(scope="module")
def many(tmp_path_factory, tokenizer_folder):
    """Inputs, and what an undisturbed run with one worker makes of them."""
    folder = tmp_path_factory.mktemp("many")
    inputs = many_documents(folder)
    run_encode(folder / "out", tokenizer_folder, inputs, shard_tokens=120_000, on_error="skip")
    return inputs, folder / "out"


def test_two_workers_give_equal_bytes(many, tokenizer_folder, tmp_path):
    inputs, undisturbed = many
    out = undisturbed.parent / "two"
    run_encode(out, tokenizer_folder, inputs, n_workers=2, shard_tokens=120_000, on_error="skip")
    expected, actual = bytes_of(undisturbed), bytes_of(out)
    expected["manifest.json"] = expected["manifest.json"].replace(
        b"-o " + relative(undisturbed), b"-o " + relative(out)
    )
    assert actual == expected
    assert len([name for name in actual if name.endswith(".bin")]) > 3


@pytest.mark.parametrize("n_shards", [1, 3])
def test_killed_run_carries_on_to_equal_bytes(n_shards, many, tokenizer_folder, tmp_path, monkeypatch):
    inputs, undisturbed = many
    out = undisturbed.parent / f"killed-{n_shards}"
    flags = (
        f"--tokenizer {tokenizer_folder} --shard-tokens 120000 --on-error skip --workers 1 --quiet".split()
    )
    command = ["tokenize", "encode", *inputs, "-o", str(out), *flags]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(n_shards), *command], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.glob("*.bin"))) == n_shards
    assert not (out / "manifest.json").exists()

    encoded = []
    encode = EncodeTask.encode

    def spy(self, texts):
        encoded.append(len(texts.ends))
        return encode(self, texts)

    monkeypatch.setattr(EncodeTask, "encode", spy)
    run_encode(out, tokenizer_folder, inputs, shard_tokens=120_000, on_error="skip")
    expected, actual = bytes_of(undisturbed), bytes_of(out)
    expected["manifest.json"] = expected["manifest.json"].replace(
        b"-o " + relative(undisturbed), b"-o " + relative(out)
    )
    assert actual == expected
    shards = [shard for shard in TokenFolder(out).manifest.shards if shard.name.endswith(".bin")]
    n_before = sum(shard.counts["n_documents"] for shard in shards[:n_shards])
    assert sum(encoded) == 1200 - n_before  # what was done is not encoded again


def test_shards_say_where_in_the_input_they_end(many):
    inputs, out = many
    shards = [shard for shard in TokenFolder(out).manifest.shards if shard.name.endswith(".bin")]
    ends = [(shard.counts["end_source"], shard.counts["end_line"]) for shard in shards]
    assert ends == sorted(ends)
    lines = [Path(path).read_text(encoding="utf-8").splitlines() for path in inputs]
    n_documents = 0
    for shard, (source, line_number) in zip(shards, ends, strict=True):
        n_documents += shard.counts["n_documents"]
        before = [each for index in range(source) for each in lines[index]] + lines[source][:line_number]
        assert n_documents == sum(each.startswith("{") for each in before)


def test_lines_set_aside_are_all_there(many):
    _, out = many
    aside = [
        json.loads(line)
        for path in sorted((out / "skipped").iterdir())
        for line in path.read_text().splitlines()
    ]
    # After documents 17, 217 and 417 (from 0), each behind the bad lines before it, and at the end.
    assert [record["line"] for record in aside] == 2 * [19, 220, 421, 604]
    assert json.loads((out / "manifest.json").read_text())["counts"]["n_skipped"] == 8


def test_names_of_special_tokens_are_text_unless_asked(tokenizer_folder, tmp_path):
    path = write_documents(tmp_path / "a.jsonl", [f"a{EOS}b"])
    run_encode(tmp_path / "plain", tokenizer_folder, [path])
    run_encode(tmp_path / "parsed", tokenizer_folder, [path], parse_special=True)
    plain, parsed = (TokenFolder(tmp_path / name).document(0).tolist() for name in ("plain", "parsed"))
    assert plain.count(401) == 1
    tokenizer = load_tokenizer(tokenizer_folder)
    assert parsed == [*tokenizer.encode("a"), 401, *tokenizer.encode("b"), 401]


def test_bad_line_is_named_from_a_worker(tokenizer_folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n[]\n')
    with pytest.raises(DocumentError, match=r"a.jsonl, line 2: a JSON list, not an object"):
        run_encode(tmp_path / "tokens", tokenizer_folder, [str(path)])


def test_tokenizer_that_is_none_is_refused(tokenizer_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tokenizer.json in it"):
        run_encode(tmp_path / "tokens", tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        run_encode(tmp_path / "tokens", tmp_path / "missing")
    copy = copy_files(tokenizer_folder, tmp_path / "copy")
    data = bytearray((copy / "tokenizer.json").read_bytes())
    data[100] ^= 1
    (copy / "tokenizer.json").write_bytes(data)
    with pytest.raises(ShardError, match=r"tokenizer.json: content hash .* but manifest.json says"):
        run_encode(tmp_path / "tokens", copy)
    assert not (tmp_path / "tokens").exists()


def test_foreign_tokenizer_says_its_own_vocabulary(tokenizer_folder, tmp_path):
    folder = copy_files(tokenizer_folder, tmp_path / "foreign")
    (folder / "manifest.json").unlink()
    made = run_encode(tmp_path / "padded", folder, pad_vocab_to=128)
    assert made["vocab_size"] == 512  # 415 ids
    (folder / "config.json").write_text('{"vocab_size": 450}')
    assert run_encode(tmp_path / "model", folder)["vocab_size"] == 450
    (folder / "config.json").write_text('{"vocab_size": 414}')
    with pytest.raises(InputError, match="the tokenizer has 415 ids, but the model 414"):
        run_encode(tmp_path / "small", folder)
    (folder / "config.json").unlink()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="names no eos_token"):
        run_encode(tmp_path / "without", folder)


BROKEN = {
    "a word's id is text": lambda v: v["model"]["vocab"].update(a="x"),
    "a word's id is below zero": lambda v: v["model"]["vocab"].update(a=-1),
    "an id needs gigabytes": lambda v: v["model"]["vocab"].update(a=4_000_000_000),
    "the words are a list": lambda v: v["model"].update(vocab=["a"]),
    "there are no words": lambda v: v["model"].pop("vocab"),
    "there is no model": lambda v: v.update(model=None),
    "the merges are null": lambda v: v["model"].update(merges=None),
    "a merge is of unknown words": lambda v: v["model"]["merges"].append(["zz", "qq"]),
    "a merge is of three words": lambda v: v["model"]["merges"].append("a b c"),
    "a merge is a number": lambda v: v["model"]["merges"].append(5),
    "an added token has no id": lambda v: v["added_tokens"][0].pop("id"),
    "an added token is not said to be special": lambda v: v["added_tokens"][0].pop("special"),
    "the added tokens are null": lambda v: v.update(added_tokens=None),
    "the decoder is a list": lambda v: v.update(decoder=[1]),
    "the pre-tokenizer is a list": lambda v: v.update(pre_tokenizer=[1]),
    "a pre-tokenizer is a number": lambda v: v.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [5]}
    ),
    "a split has no pattern": lambda v: v.update(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "behavior": "Isolated", "invert": False},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        }
    ),
    "the normalizer has no type": lambda v: v.update(normalizer={"x": 1}),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_tokenizer_is_an_error(change, tokenizer_folder, tmp_path):
    folder = copy_files(tokenizer_folder, tmp_path / "broken")
    (folder / "manifest.json").unlink()
    values = json.loads((folder / "tokenizer.json").read_bytes())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        run_encode(tmp_path / "tokens", folder)
    assert not (tmp_path / "tokens").exists()


def test_odd_but_valid_tokenizers_are_taken(tokenizer_folder, tmp_path):
    folder = copy_files(tokenizer_folder, tmp_path / "odd")
    (folder / "manifest.json").unlink()
    before = (folder / "tokenizer.json").read_bytes()
    values = json.loads(before)
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": []}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert run_encode(tmp_path / "uncut", folder)["n_documents"] == len(TEXTS)
    values = json.loads(before)
    values["model"] |= {"vocab": {}, "merges": []}  # the library numbers the added tokens itself
    (folder / "tokenizer.json").write_text(json.dumps(values))
    assert run_encode(tmp_path / "empty", folder)["n_tokens"] == len(TEXTS)


@pytest.mark.parametrize("text", ["{", "[]", '{"vocab_size": "many"}'])
def test_broken_model_configuration_is_an_error(text, tokenizer_folder, tmp_path):
    folder = copy_files(tokenizer_folder, tmp_path / "model")
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: "):
        run_encode(tmp_path / "tokens", folder)


def test_lossy_tokenizer_is_counted(tokenizer_folder, tmp_path):
    folder = copy_files(tokenizer_folder, tmp_path / "lossy")
    (folder / "manifest.json").unlink()
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    path = write_documents(tmp_path / "a.jsonl", ["Upper"] * 101)
    counts = run_encode(tmp_path / "tokens", folder, [path])
    assert counts["n_lossy"] == 3  # lines 1, 51 and 101 are decoded again


def test_plans_write_nothing(tokenizer_folder, tmp_path):
    output = str(tmp_path / "out")
    planned = train.plan(TokenizeTrainConfig(), [str(CORPUS)], output, options=RunOptions(), reporter=QUIET)
    assert (planned["vocab_size"], planned["model_vocab_size"]) == (100_000, 102_400)
    config = TokenizeEncodeConfig(tokenizer=str(tokenizer_folder), shard_tokens=100)
    planned = encode.plan(config, [str(CORPUS)], output, options=RunOptions(), reporter=QUIET)
    n_bytes = CORPUS.stat().st_size
    assert planned["n_tokens_estimate"] == n_bytes // 4
    assert planned["n_output_bytes_estimate"] == n_bytes // 4 * 4
    assert planned["vocab_size"] == 4096
    assert not Path(output).exists()


def test_sources_beyond_the_first_are_counted_together():
    counts = SourceCounts()
    for index in range(MAX_SOURCES + 3):
        counts.add(f"site-{index}", 1, 2, 6)
    assert len(counts.by_name) == MAX_SOURCES + 1
    assert counts.sources()[OTHERS] == {
        "n_documents": 3,
        "n_tokens": 6,
        "n_bytes": 18,
        "bytes_per_token": 3.0,
    }
    assert counts.totals()["n_documents"] == MAX_SOURCES + 3


def test_task_survives_the_way_to_a_worker(tokenizer_folder):
    import pickle

    from dsllm.io.documents import Batch

    task = pickle.loads(pickle.dumps(EncodeTask(TokenizeEncodeConfig(tokenizer=str(tokenizer_folder)))))
    encoded = task(Batch(0, "a.jsonl", 1, b'{"text": ""}\n\n{"text": "ab"}\n', 10))
    assert encoded.lengths.tolist() == [1, 1 + len(load_once(tokenizer_folder).encode("ab"))]
    assert encoded.line_numbers.tolist() == [1, 3]
    assert (encoded.groups, encoded.group_of.tolist()) == ([("a.jsonl", "")], [0, 0])
    assert encoded.tokens[0] == 401


def test_files_are_those_that_transformers_reads(tokenizer_folder):
    files = tokenizer_files(learn_words(count_pieces(["ab ab"]), TokenizeTrainConfig(vocab_size=243)))
    assert sorted(files) == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads(files["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"], config["add_bos_token"]) == (BOS, EOS, True)
    added = json.loads(files["tokenizer.json"])["added_tokens"]
    assert [(token["content"], token["id"], token["special"]) for token in added] == [
        (BOS, 243, True),
        (EOS, 244, True),
    ]


@pytest.mark.data
@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the corpora")
def test_real_texts_come_back(tokenizer_folder):
    tokenizer = load_once(tokenizer_folder)
    files = sorted((Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain").glob("*.jsonl.zst"))
    assert files
    for path in files:
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"][:20_000] for line in islice(file, 8)]
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_tokens_spell_a_text_or_do_not():
    words = Texts.join([b"", b"a", b"bc"])
    for tokens, text, expected in (
        ([], b"", True),
        ([1, 2, 0, 1], b"abca", True),
        ([1, 2], b"abd", False),
        ([1, 2], b"ab", False),  # the text ends inside a word
        ([1], b"ab", False),
    ):
        found = spell(np.array(tokens, np.uint32), words.data, words.ends, np.frombuffer(text, np.uint8))
        assert found is expected
