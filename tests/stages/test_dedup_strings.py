"""The string level of `dsllm dedup`: brute force in plain Python against the way through files."""

import random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsllm.config import RunOptions
from dsllm.errors import OutputError
from dsllm.io.sources import find_sources
from dsllm.progress import Reporter
from dsllm.stages.dedup import cuts as cuts_module
from dsllm.stages.dedup import repeats, string_definition, strings
from dsllm.stages.dedup.corpus import DOCUMENT, Corpus
from dsllm.stages.dedup.cuts import Cuts, cut_line, cut_text, read_cuts
from dsllm.stages.dedup.strings import StringSettings, find_cuts
from dsllm.text.scan import words
from dsllm.workers.passes import Pass, column_path

ALL = {"n_span_words": 5, "lines": True, "paragraphs": True}


def prepare(folder, sources, *, without=()):
    """Write sources (lists of texts) and what the first pass leaves of them: rows with their lines."""
    (folder / "scratch").mkdir(parents=True)
    numbers = iter(range(10**6))
    for index, texts in enumerate(sources):
        lines, rows = [], np.zeros(len(texts), DOCUMENT)
        for row, text in enumerate(texts):
            lines += [b"\n"] * (row % 3 == 1)  # blank lines are no documents
            lines.append(orjson.dumps({"id": next(numbers), "text": text}) + b"\n")
            rows[row]["line"] = len(lines)
        (folder / f"{index}.jsonl").write_bytes(b"".join(lines))
        column_path(folder / "scratch", index, "documents").write_bytes(rows.tobytes())
    found = find_sources([str(folder / f"{index}.jsonl") for index in range(len(sources))])
    corpus = Corpus.open(folder / "scratch", found, 0)
    stays = np.ones(len(corpus), bool)
    stays[list(without)] = False
    return corpus, stays, found


def find(folder, sources, *, without=(), n_workers=1, **given_settings):
    """Give the cuts of each source as the way through files finds them."""
    corpus, stays, found = prepare(folder, sources, without=without)
    return find_again(corpus, stays, found, n_workers=n_workers, **given_settings)


def find_again(corpus, stays, found, *, n_workers=1, **given_settings):
    work = Pass(corpus.scratch, RunOptions(n_workers=n_workers), Reporter(is_quiet=True))
    find_cuts(corpus, stays, StringSettings(**given_settings), found, work)
    return [
        read_cuts(corpus.scratch, index, 0, n_documents)
        for index, n_documents in enumerate(corpus.n_documents)
    ]


def expect(
    sources, *, without=(), n_span_words=None, lines=False, paragraphs=False, fold=True, punctuation=False
):
    """Give the same by the definition."""
    places = [(index, row) for index, texts in enumerate(sources) for row in range(len(texts))]
    places = [place for number, place in enumerate(places) if number not in without]
    texts = [sources[index][row] for index, row in places]
    found = {place: Cuts() for place in places}

    def put(kind, ranges):
        for place, own in zip(places, ranges, strict=True):
            setattr(found[place], kind, own)

    if n_span_words:
        split = [words(text, fold=fold, punctuation=punctuation) for text in texts]
        put("spans", string_definition.repeated_words(split, n_span_words))
    if lines:
        put("lines", string_definition.repeated_lines(texts))
    if paragraphs:
        put("paragraphs", string_definition.repeated_paragraphs(texts))
    return [
        {row: cuts for (source, row), cuts in found.items() if source == index and cuts != Cuts()}
        for index in range(len(sources))
    ]


def families(seed, n_sources=3, n_texts=12):
    """Texts put together from a few phrases, so that strings of all lengths occur again."""
    draw = random.Random(seed)
    alphabet = ["ab", "Ab", "cd", "ef", "12", "34", "中", "文", "字", "É", "é", "x_y"]
    phrases = [[draw.choice(alphabet) for _ in range(draw.choice([1, 2, 5, 9, 30, 70]))] for _ in range(10)]
    phrases += [[draw.choice(alphabet)] * draw.choice([2, 12, 130]) for _ in range(2)]

    def text():
        parts = []
        for _ in range(draw.randrange(8)):
            parts += draw.choice(phrases)
            parts.append(
                draw.choice([" ", "\n", "\n\n", " \n\t\n", ", ", "\r\n", "\n-\n", f"w{draw.randrange(99)}"])
            )
        return "".join(part + draw.choice([" ", " ", "", ". "]) for part in parts)

    return [[text() for _ in range(draw.randrange(n_texts))] for _ in range(n_sources)]


@pytest.mark.parametrize("n_span_words", [1, 2, 3, 7, 10, 50])
def test_the_way_through_files_finds_what_brute_force_finds(tmp_path, n_span_words):
    n_cut = 0
    for seed in range(12):
        sources = families(seed)
        options = {"n_span_words": n_span_words, "lines": True, "paragraphs": True, "fold": seed % 2 == 0}
        options["punctuation"] = seed % 3 == 0
        without = random.Random(seed).sample(range(6), 2) if sum(map(len, sources)) > 6 else ()
        expected = expect(sources, without=without, **options)
        assert find(tmp_path / str(seed), sources, without=without, **options) == expected, seed
        n_cut += sum(len(own.spans) for by_row in expected for own in by_row.values())
    assert n_cut > 0


def test_spans_longer_than_all_texts(tmp_path):
    assert find(tmp_path, [["a b c", "a b c", ""]], n_span_words=4) == [{}]


def test_long_texts_and_long_lines(tmp_path):
    """Longer than the pieces in which texts are scanned."""
    draw = random.Random(5)
    base = [f"w{draw.randrange(500)}" for _ in range(20_000)]
    texts = [" ".join(base[start : start + 9000]) + "\n" + "z" * 40_000 for start in (0, 3000, 11_000)]
    options = {"n_span_words": 50, "lines": True, "paragraphs": True}
    assert find(tmp_path, [texts[:2], texts[2:]], **options) == expect([texts[:2], texts[2:]], **options)


def test_by_hand(tmp_path):
    """N is 3. The second text repeats words 1 to 4 of the first, and "d" once more in no repeated 3-gram."""
    texts = ["a b c d e f", "x B C D e y d", "p q", "a b"]
    (found,) = find(tmp_path, [texts], n_span_words=3)
    assert found == {1: Cuts(spans=[(1, 5)])}
    assert cut_text(texts[1], found[1]) == "x y d"


def test_what_overlaps_the_first_occurrence_does_not_count(tmp_path):
    """With N = 3, of seven equal words the first three stay; "b c b c b" repeats "b c b" by overlap only."""
    (found,) = find(tmp_path, [["a a a a a a a", "b c b c b"]], n_span_words=3)
    assert found == {0: Cuts(spans=[(3, 7)])}


def test_documents_that_go_count_for_nothing(tmp_path):
    (found,) = find(tmp_path, [["a b c", "a b c", "a b c"]], without=[0], n_span_words=3, lines=True)
    assert found == {2: Cuts(spans=[(0, 3)], lines=[(0, 1)])}


def test_lines_are_alike_by_words_with_digits_as_zero(tmp_path):
    """Numbers of the same length are one; what has no words is never cut. Lines 0 to 2 of the second go."""
    texts = [
        "Page 12 of 99\n}\n\nÄpfel: ٣",
        "page 34, of 56!\r\nPage 77 of 10\näpfel 5\n}\n\nPage 123 of 10\n",
    ]
    (found,) = find(tmp_path, [texts], lines=True)
    assert found == {1: Cuts(lines=[(0, 3)])}
    assert cut_text(texts[1], found[1]) == "}\n\nPage 123 of 10\n"


def test_paragraphs_go_with_the_blank_lines_behind_them(tmp_path):
    texts = ["One\ntwo.\n\nThree", "Four\n \n one,\ntwo\n\n\nFive"]
    (found,) = find(tmp_path, [texts], paragraphs=True)
    assert found == {1: Cuts(paragraphs=[(1, 2)])}
    assert cut_text(texts[1], found[1]) == "Four\n \nFive"


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("sizes", [(2000, 7, 2), (10**9, 1, 1), (500, 10**6, 3)])
def test_partitions_chunks_and_workers_change_nothing(tmp_path, monkeypatch, n_workers, sizes):
    memory_bytes, stretch, chunk = sizes
    monkeypatch.setattr(repeats, "STRETCH_RECORDS", stretch)
    monkeypatch.setattr("dsllm.stages.dedup.corpus.CHUNK_DOCUMENTS", chunk)
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 300)
    sources = families(3)
    found = find(tmp_path, sources, n_workers=n_workers, memory_bytes=memory_bytes, **ALL)
    assert found == expect(sources, **ALL)


@pytest.mark.parametrize("n_written", range(0, 60, 4))
def test_killed_run_resumes_to_equal_cuts(tmp_path, monkeypatch, n_written):
    """Stopped at the n-th file that would appear, whichever it is, and run again."""
    sources = families(4)
    corpus, stays, found = prepare(tmp_path, sources)
    options = {**ALL, "memory_bytes": 20_000}
    left = iter(range(n_written))
    whole = repeats.atomic_file

    def failing(path):
        if next(left, None) is None:
            raise OutputError(f"{path}: stopped", hint="")
        return whole(path)

    with monkeypatch.context() as patch:
        for module in ("repeats", "strings", "shuffle"):
            patch.setattr(f"dsllm.stages.dedup.{module}.atomic_file", failing)
        patch.setattr("dsllm.workers.passes.atomic_file", failing)
        patch.setattr("dsllm.io.atomic.atomic_file", failing)  # for `write_atomic`
        with pytest.raises(OutputError):
            find_again(corpus, stays, found, **options)
    assert find_again(corpus, stays, found, **options) == expect(sources, **ALL)
    assert find_again(corpus, stays, found, **options) == expect(sources, **ALL)  # nothing to do


def test_nothing_is_written_where_nothing_is_asked(tmp_path):
    assert find(tmp_path, [["a b c", "a b c"]]) == [{}]


@settings(max_examples=150)
@given(st.text("aB\u0301É中か\n\r \t._9\U0001f9d1", max_size=40), st.data())
def test_the_words_of_a_cut_text_are_those_that_stay(text, data):
    for punctuation in (False, True):
        split = words(text, punctuation=punctuation)
        is_cut = data.draw(st.lists(st.booleans(), min_size=len(split), max_size=len(split)))
        cut = cut_text(text, Cuts(spans=string_definition._ranges(is_cut)), punctuation=punctuation)
        expected = [word for word, goes in zip(split, is_cut, strict=True) if not goes]
        assert words(cut, punctuation=punctuation) == expected


def test_all_kinds_of_cuts_together():
    text = "one two\nthree four\n\nfive six\n\nseven eight nine"
    cuts = Cuts(spans=[(1, 3), (7, 8)], lines=[(3, 4)], paragraphs=[(1, 2)])
    assert cut_text(text, cuts) == "one four\n\nseven nine"


def test_only_the_text_of_a_line_is_changed():
    line = (
        b'{"n": 1.50, "in": {"text": "a b"}, "text" : "a \\u0062\\n\\"c\\"", "big":123456789012345678901}\n'
    )
    cut = cut_line(line, Cuts(spans=[(1, 2)]), text_field="text", punctuation=False)
    assert cut == b'{"n": 1.50, "in": {"text": "a b"}, "text" : "a c\\"", "big":123456789012345678901}\n'
    escaped = b'{"te\\u0078t": "a b"}\n'
    assert cut_line(escaped, Cuts(spans=[(0, 1)]), text_field="text", punctuation=False) == b'{"text":"b"}\n'


def test_a_document_left_without_words_goes():
    assert cut_line(b'{"text":"(a b)"}', Cuts(spans=[(0, 2)]), text_field="text", punctuation=False) is None


def test_kinds_are_those_that_are_found():
    assert set(cuts_module.KINDS) == {strings.SPANS, strings.LINES, strings.PARAGRAPHS}
