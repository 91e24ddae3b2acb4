"""`dsllm tokenize train`: words against a plain BPE, and what is said about them."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stages.tiny_tokens import (
    CORPUS,
    RECORDS,
    TEXTS,
    load_once,
    run_encode,
    run_train,
    write_documents,
)

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, DocumentError, InputError
from dsllm.progress import Reporter
from dsllm.stages.tokenize import train
from dsllm.stages.tokenize.bpe import BOS, EOS, UNUSED_BYTES, learn_words
from dsllm.stages.tokenize.config import N_BYTES_IN_UTF8, TokenizeTrainConfig
from dsllm.stages.tokenize.vocabulary import padded
from dsllm.text.piece_counts import count_pieces
from dsllm.text.pretokens import pre_tokens
from dsllm.text.tokenizer_files import (
    BYTE_OF_CHARACTER,
    load_tokenizer,
)

CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    run_train(folder)
    return folder


def plain_bpe(texts, vocab_size, min_frequency):
    """BPE as Sennrich has it, over pre-tokens: merge the commonest pair; ties go to the lower pair of ids."""
    alphabet = sorted(set(BYTE_OF_CHARACTER) - set(UNUSED_BYTES))
    ids = {character: index for index, character in enumerate(alphabet)}
    pieces = Counter(piece for text in texts for piece in pre_tokens(text))
    words = [([CHARACTER_OF_BYTE[byte] for byte in piece.encode()], n) for piece, n in pieces.items()]
    merges = []
    while len(ids) < vocab_size:
        pairs = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                pairs[pair] += n
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]), default=None)
        if best is None or pairs[best] < min_frequency:
            break
        merges.append(best)
        ids.setdefault("".join(best), len(ids))
        words = [(merged(parts, best), n) for parts, n in words]
    return ids, merges


def merged(parts, pair):
    result, index = [], 0
    while index < len(parts):
        is_pair = tuple(parts[index : index + 2]) == pair
        result.append("".join(pair) if is_pair else parts[index])
        index += 2 if is_pair else 1
    return result


def test_merges_by_hand():
    # "aab" 3 times, "ab" twice: pairs ab 5, aa 3. Then a+ab 3. Then nothing is left that occurs twice.
    words = learn_words(count_pieces(["aab\naab\naab\nab\nab\n"]), TokenizeTrainConfig(vocab_size=300))
    assert words.merges == [("a", "b"), ("a", "ab")]
    assert (words.ids["ab"], words.ids["aab"]) == (N_BYTES_IN_UTF8, N_BYTES_IN_UTF8 + 1)


@pytest.mark.parametrize("min_frequency", [2, 5])
def test_words_are_those_of_a_plain_bpe(min_frequency):
    config = TokenizeTrainConfig(vocab_size=420, min_frequency=min_frequency)
    words = learn_words(count_pieces(TEXTS), config)
    ids, merges = plain_bpe(TEXTS, config.vocab_size, min_frequency)
    assert words.merges == merges
    assert words.ids == ids


def test_ids_of_special_tokens(tokenizer_folder):
    vocabulary = load_tokenizer(tokenizer_folder).library.get_vocab(with_added_tokens=True)
    by_id = {index: word for word, index in vocabulary.items()}
    assert sorted(by_id) == list(range(415))
    # PAPER: behind the words BOS, EOS, then the stand-ins of the bytes that UTF-8 never uses.
    assert [by_id[400 + index] for index in range(15)] == [BOS, EOS, *"øöúÿõ÷ûýÀùÁþü"]
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert {BYTE_OF_CHARACTER[character] for character in UNUSED_BYTES} == never
    used = {byte for code in range(0x110000) if not 0xD800 <= code < 0xE000 for byte in chr(code).encode()}
    assert used == set(range(256)) - never


def test_byte_alphabet_is_the_librarys():
    from tokenizers.pre_tokenizers import ByteLevel

    encoded = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("aß é\n你\x00")
    expected = [BYTE_OF_CHARACTER[character] for piece, _ in encoded for character in piece]
    assert bytes(expected) == "aß é\n你\x00".encode()
    assert set(ByteLevel.alphabet()) == set(BYTE_OF_CHARACTER)


@pytest.mark.parametrize(
    ("n_ids", "multiple", "expected"),
    [(100_015, 4096, 102_400), (4096, 4096, 4096), (4097, 64, 4160), (5, 1, 5)],
)
def test_model_vocabulary_is_the_next_multiple(n_ids, multiple, expected):
    assert padded(n_ids, multiple) == expected


@settings(max_examples=200)
@given(text=st.text())
def test_every_text_comes_back(text, tokenizer_folder):
    # Letters that stand for unused bytes, and names of special tokens, are text like any other.
    tokenizer = load_once(tokenizer_folder)
    for each in (text, f"{text}für{EOS}{text}ø"):
        token_ids = tokenizer.encode(each)
        assert tokenizer.decode(token_ids) == each
        assert not any(index >= 400 for index in token_ids)


def test_train_says_what_it_made(tokenizer_folder):
    manifest = json.loads((tokenizer_folder / "manifest.json").read_text())
    assert manifest["stage"] == "tokenize train"
    assert manifest["content"] == {
        "kind": "tokenizer",
        "vocab_size": 400,
        "n_special_tokens": 15,
        "model_vocab_size": 4096,
        "bos_token": BOS,
        "bos_id": 400,
        "eos_token": EOS,
        "eos_id": 401,
    }
    assert manifest["counts"]["n_documents"] == len(TEXTS)
    assert manifest["counts"]["n_bytes"] == sum(len(text.encode()) for text in TEXTS)
    sources = manifest["counts"]["sample"]["sources"]
    assert list(sources) == ["prose", "chinese", "code", "math", "other"]
    tokenizer = load_tokenizer(tokenizer_folder)
    n_tokens = sum(len(tokenizer.encode(r["text"])) for r in RECORDS if r["source"] == "code")
    n_bytes = sum(len(r["text"].encode()) for r in RECORDS if r["source"] == "code")
    assert sources["code"] == {
        "n_documents": 3,
        "n_tokens": n_tokens,
        "n_bytes": n_bytes,
        "bytes_per_token": round(n_bytes / n_tokens, 4),
    }


def test_small_corpus_gives_fewer_words_and_says_so(tmp_path, capsys):
    path = write_documents(tmp_path / "a.jsonl", ["ab ab"])
    config = TokenizeTrainConfig(vocab_size=1000, pad_vocab_to=64)
    reporter = Reporter()
    made = train.run(config, [path], str(tmp_path / "out"), options=RunOptions(), reporter=reporter)
    # 243 bytes, then "ab": the only pair that occurs twice, since " ab" is another piece ending in it.
    assert (made["vocab_size"], made["bos_id"], made["model_vocab_size"]) == (244, 244, 320)
    assert "the corpus gave 244 words, not 1,000" in capsys.readouterr().err
    assert load_tokenizer(tmp_path / "out").n_ids == 259


def test_warnings_say_which_limits_there_were(capsys, tmp_path, monkeypatch):
    learned = train.learn_words
    monkeypatch.setattr(train, "learn_words", lambda *given: replace(learned(*given), n_pairs_forgotten=1234))
    path = write_documents(tmp_path / "a.jsonl", ["abcd abcd"])
    config = TokenizeTrainConfig(vocab_size=1000, max_token_length=3)
    made = train.run(config, [path], str(tmp_path / "out"), options=RunOptions(), reporter=Reporter())
    said = " ".join(capsys.readouterr().err.split())
    # "ab" and "cd" are made, "abcd" is too long, and nothing else occurs twice.
    assert (
        "the corpus gave 245 words, not 1,000; no other pair occurs 2 times and makes a word shorter" in said
    )
    assert "shorter than 3 bytes" in said
    assert "1,234 pairs that occurred less than 2 times were forgotten to stay within 2GB" in said
    assert made["n_pairs_forgotten"] == 1234


def test_same_files_give_the_same_bytes_in_any_number_of_threads(tokenizer_folder, tmp_path):
    code = (
        "import sys; from dsllm.cli.main import run_command_line as run;"
        "sys.exit(run(['tokenize', 'train', *sys.argv[1:], '--vocab-size', '400', '--quiet']))"
    )
    output = tmp_path / "tokenizer"
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(CORPUS), "-o", str(output)], check=True, env=environment)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (output / name).read_bytes() == (tokenizer_folder / name).read_bytes()


def test_line_that_is_no_document_stops_or_is_set_aside(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one one"}\n{"txt": 1}\n{"text": "two two"}\n')
    with pytest.raises(DocumentError, match=r"a.jsonl, line 2: no field 'text', only txt"):
        run_train(tmp_path / "stop", [str(path)])
    counts = run_train(tmp_path / "skip", [str(path)], on_error="skip")
    assert (counts["n_documents"], counts["n_skipped"]) == (2, 1)
    (line,) = (tmp_path / "skip" / "skipped" / "00000.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 2


def test_empty_input_is_an_error(tokenizer_folder, tmp_path):
    path = write_documents(tmp_path / "a.jsonl", [])
    with pytest.raises(InputError, match="no document in it"):
        run_train(tmp_path / "tok", [path])
    with pytest.raises(InputError, match="no document in it"):
        run_encode(tmp_path / "tokens", tokenizer_folder, [path])
    assert not (tmp_path / "tokens" / "manifest.json").exists()


def test_fewer_words_than_bytes_are_refused():
    with pytest.raises(ConfigError, match="vocab_size is 242"):
        TokenizeTrainConfig(vocab_size=242)
