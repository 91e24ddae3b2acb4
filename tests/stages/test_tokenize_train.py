"""`dsllm tokenize train`: the library's merges, from any number of workers, runs and attempts."""

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.io import batches
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.tokenize import count, train
from dsllm.stages.tokenize.bpe import UNUSED_BYTES
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.stages.tokenize.sampling import parts_to_take
from dsllm.text import piece_counts
from dsllm.text.pretokens import huggingface_pre_tokenizer, pre_tokens
from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER

CORPUS = Path(__file__).parent.parent / "golden" / "tokenizer_corpus.jsonl"
RECORDS = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
TEXTS = [record["text"] for record in RECORDS]
QUIET = Reporter(is_quiet=True)


def run_train(output, inputs=(str(CORPUS),), n_workers=1, **values):
    config = TokenizeTrainConfig(**{"vocab_size": 600, **values})
    options = RunOptions(n_workers=n_workers)
    return train.run(config, list(inputs), str(output), options=options, reporter=QUIET)


def model_of(folder):
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]


def learn_by_library(texts, vocab_size, min_frequency=2, max_token_length=None):
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = huggingface_pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        initial_alphabet=sorted(set(BYTE_OF_CHARACTER) - set(UNUSED_BYTES)),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


@pytest.mark.parametrize("vocab_size", [300, 600, 100_000])
@pytest.mark.parametrize("values", [{}, {"min_frequency": 1}, {"min_frequency": 9}, {"max_token_length": 4}])
def test_merges_are_the_librarys(vocab_size, values, tmp_path):
    run_train(tmp_path / "tok", vocab_size=vocab_size, **values)
    expected = learn_by_library(TEXTS, vocab_size, **values)
    model = model_of(tmp_path / "tok")
    assert model["merges"] == expected["merges"]
    n_words = len(expected["vocab"])
    assert {word: index for word, index in model["vocab"].items() if index < n_words} == expected["vocab"]


# --- workers, runs, resuming, pipes


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three files of many batches, with lines that are no documents."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(5)
    paths = []
    for index in range(3):
        lines = []
        for number in range(150):
            words = " ".join(TEXTS[int(place)] for place in generator.integers(len(TEXTS), size=6))
            source = ["first", "second", "third"][int(generator.integers(3))]
            once = "".join(chr(ord("a") + int(digit)) for digit in f"{index}{number:03}")
            record = {"text": f"{words} {once}", "source": source}
            lines.append(json.dumps(record, ensure_ascii=False))
        path = folder / f"{index}.jsonl"
        path.write_text("\n".join([*lines, "no document"]) + "\n", encoding="utf-8")
        paths.append(str(path))
    return paths


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 20 kB, six to a segment, as if the input were large."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(count, "SEGMENT_BATCHES", 6)


@pytest.fixture(scope="module")
def undisturbed(many):
    folder = Path(many[0]).parent / "undisturbed"
    run_train(folder, many, on_error="skip")
    return folder


def bytes_of(folder, name="undisturbed"):
    relative = os.path.relpath(folder).encode(), os.path.relpath(folder.parent / name).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(b"-o " + relative[0], b"-o " + relative[1])
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size
    }


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_any_workers_and_segments_give_equal_bytes(n_workers, many, undisturbed, small_batches):
    folder = undisturbed.parent / f"workers-{n_workers}"
    run_train(folder, many, n_workers, on_error="skip")
    assert bytes_of(folder) == bytes_of(undisturbed)
    assert not (folder / ".work").exists()


def test_full_tables_give_equal_bytes(many, undisturbed, monkeypatch, small_batches):
    monkeypatch.setattr(piece_counts, "_LEAST_SLOTS", 512)
    monkeypatch.setattr(count, "_TABLES_FRAC", 1e-9)
    written = []
    write_run = count.write_run

    def spy(path, pieces):
        written.append(path.name)
        write_run(path, pieces)

    monkeypatch.setattr(count, "write_run", spy)
    folder = undisturbed.parent / "full"
    run_train(folder, many, 2, on_error="skip")
    assert bytes_of(folder) == bytes_of(undisturbed)
    assert len([name for name in written if name.startswith("run-")]) > 20


def test_counts_say_what_was_read(many, undisturbed):
    counts = json.loads((undisturbed / "manifest.json").read_text())["counts"]
    records = [json.loads(line) for path in many for line in Path(path).read_text().splitlines()[:-1]]
    assert counts["n_documents"] == len(records) == 450
    assert counts["n_bytes"] == sum(len(record["text"].encode()) for record in records)
    pieces = {piece for record in records for piece in pre_tokens(record["text"])}
    assert counts["n_pieces"] == sum(len(piece.encode()) > 1 for piece in pieces)
    assert (counts["n_skipped"], counts["n_pieces_left_out"]) == (3, 0)
    assert sorted(path.name for path in (undisturbed / "skipped").iterdir()) == [
        "00000.jsonl", "00001.jsonl", "00002.jsonl"
    ]  # fmt: skip


KILLED = """
import os, signal, sys
import dsllm.io.batches, dsllm.stages.tokenize.count as count
from dsllm.cli.main import run_command_line
dsllm.io.batches.BATCH_BYTES, count.SEGMENT_BATCHES = 20_000, 6
keep, n_kept = count.PieceCount._keep, 0
def keep_and_die(self, held):
    global n_kept
    keep(self, held)
    n_kept += 1
    if n_kept == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
count.PieceCount._keep = keep_and_die
run_command_line(sys.argv[2:])
"""


@pytest.mark.parametrize("n_segments", [1, 3])
def test_killed_run_carries_on_to_equal_bytes(n_segments, many, undisturbed, monkeypatch, small_batches):
    folder = undisturbed.parent / f"killed-{n_segments}"
    flags = "--vocab-size 600 --on-error skip --workers 2 --quiet".split()
    command = ["tokenize", "train", *many, "-o", str(folder), *flags]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(n_segments), *command], check=False)
    assert killed.returncode == -signal.SIGKILL
    (folder / ".work" / "run-left-over").write_bytes(b"half")
    counted = Counter()
    task = count.CountPieces.__call__

    def spy(self, batch):
        counted["batches"] += 1
        return task(self, batch)

    monkeypatch.setattr(count.CountPieces, "__call__", spy)
    run_train(folder, many, on_error="skip")
    assert bytes_of(folder) == bytes_of(undisturbed)
    n_batches = sum(1 for source in find_sources(many) for _ in read_batches(source))
    assert counted["batches"] == n_batches - 6 * n_segments  # what was counted is not counted again


def test_standard_input_gives_the_same_words(many, undisturbed, tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"".join(Path(path).read_bytes() for path in many))

    monkeypatch.setattr(sys, "stdin", Stdin)
    run_train(tmp_path / "tok", ["-"], on_error="skip")
    assert (tmp_path / "tok" / "tokenizer.json").read_bytes() == (undisturbed / "tokenizer.json").read_bytes()


# --- memory


def test_rarest_pieces_are_left_out_and_said(many, tmp_path, monkeypatch, capsys, small_batches):
    config = TokenizeTrainConfig(vocab_size=600, on_error="skip")
    pieces = Counter(
        piece.encode()
        for path in many
        for line in Path(path).read_text().splitlines()[:-1]
        for piece in pre_tokens(json.loads(line)["text"])
    )
    slots = Counter()
    for piece, n in pieces.items():
        slots[n] += (len(piece) + 1) * (len(piece) > 1)
    assert slots[1] > 200  # of those that occur once, about a half shall fit
    room = sum(slots.values()) - slots[1] // 2
    monkeypatch.setattr(count, "_BYTES_PER_SLOT", config.working_bytes / room)
    made = train.run(config, many, str(tmp_path / "a"), options=RunOptions(), reporter=Reporter())
    assert "distinct pieces do not fit into 2GB" in capsys.readouterr().err
    n_once = sum(n == 1 and len(piece) > 1 for piece, n in pieces.items())
    assert 0.2 * n_once < made["n_pieces_left_out"] < 0.8 * n_once
    run_train(tmp_path / "b", many, 2, on_error="skip")
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (
        tmp_path / "b" / "tokenizer.json"
    ).read_bytes()


def test_little_memory_is_refused():
    with pytest.raises(ConfigError, match="memory is 10MB"):
        TokenizeTrainConfig(memory="10MB")


# --- samples


def test_parts_by_weights():
    # a has 100 bytes, b 300: of equal shares a's 100 set the limit, so a third of b is taken.
    config = TokenizeTrainConfig(weights=("a=1", "b=1"))
    assert parts_to_take(config, {"a": 100, "b": 300}) == {"a": 1.0, "b": pytest.approx(1 / 3)}
    # rest is divided by size: 0.5 for c; a and b get 0.125 and 0.375 of 80 bytes.
    config = TokenizeTrainConfig(weights=("c=0.5", "rest=0.5"), sample="80B")
    expected = {"a": pytest.approx(0.1), "b": pytest.approx(0.1), "c": pytest.approx(0.04)}
    assert parts_to_take(config, {"a": 100, "b": 300, "c": 1000}) == expected
    # What a source lacks is not made up for.
    config = TokenizeTrainConfig(weights=("a=1", "b=1"), sample="400B")
    assert parts_to_take(config, {"a": 100, "b": 300}) == {"a": 1.0, "b": pytest.approx(2 / 3)}
    assert parts_to_take(TokenizeTrainConfig(sample="40B"), {"a": 100, "b": 300}) == {"a": 0.1, "b": 0.1}


@pytest.mark.parametrize(
    ("weights", "message"),
    [(("a=1", "x=1"), "no source 'x'"), (("a=1",), "no share for b"), (("a=1", "b=1", "c=1"), "has no text")],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises((ConfigError, InputError), match=message):
        parts_to_take(TokenizeTrainConfig(weights=weights), {"a": 100, "b": 300, "c": 0})


def test_sample_has_the_weights_shares(many, tmp_path, small_batches):
    values = {"weights": ("first=0.6", "second=0.4", "third=0"), "sample": "200kB", "on_error": "skip"}
    made = run_train(tmp_path / "a", many, seed=1, **values)
    assert set(made["taken"]) == {"first", "second"}
    assert made["n_bytes_taken"] == pytest.approx(200_000, rel=0.15)  # 130 documents or so
    assert made["taken"]["first"]["share"] == pytest.approx(0.6, abs=0.1)
    assert made["n_documents"] == 450
    again = run_train(tmp_path / "b", many, 2, seed=1, **values)
    assert again == made
    other = run_train(tmp_path / "c", many, seed=2, **values)
    assert other["taken"] != made["taken"]


def test_sample_of_standard_input(tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"".join(b'{"text": "word%d and more"}\n' % n for n in range(400)))

    monkeypatch.setattr(sys, "stdin", Stdin)
    made = run_train(tmp_path / "tok", ["-"], sample="2kB")
    assert list(made["taken"]) == ["standard input"]
    assert made["n_bytes_taken"] == pytest.approx(2000, rel=0.3)


def test_sample_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="a sample of 1B holds no document"):
        run_train(tmp_path / "tok", sample="1B")
    with pytest.raises(ConfigError, match="sample is 0B"):
        TokenizeTrainConfig(sample="0B")


def test_plan_reads_no_document(many):
    config = TokenizeTrainConfig(sample="200kB")
    told = train.plan(config, many, "out", options=RunOptions(n_workers=2), reporter=QUIET)
    n_bytes = sum(Path(path).stat().st_size for path in many)
    assert (told["n_files"], told["n_input_bytes"], told["n_passes"]) == (3, n_bytes, 2)
    assert told["sample_bytes"] == 200_000
    assert told["memory_bytes"] == 2_000_000_000
