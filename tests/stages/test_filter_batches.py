"""A batch as columns: whichever way it is read, and whatever is changed in its lines."""

import json
import re

import numpy as np
import orjson
import pytest

from dsllm.errors import ConfigError
from dsllm.io.documents import Batch
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.judge import Filter
from dsllm.stages.filter.rules import first_broken, read_line_cut, read_rules
from dsllm.stages.filter.table import Table, read_documents
from dsllm.text.page import Page
from dsllm.text.texts import Texts

PROSE = "The river had been rising since Tuesday, and the road that we have to take was under water. "
UNSURE = b'{"text": "a line with a long number", "n": 12345678901234567890}\n'  # read by orjson alone


def batch_of(lines):
    return Batch(0, "test", 1, lines, len(lines))


def mixed_lines():
    texts = [PROSE * 8, PROSE, "12 34", "河水从星期二就开始上涨。", PROSE * 8]
    rows = [
        {"text": text, "source": source} for text, source in zip(texts, ["a", "b", None, 3, "a"], strict=True)
    ]
    return b"\n".join(json.dumps(row).encode() for row in rows)


@pytest.mark.parametrize("settings", [{}, {"annotate": True}, {"rejected": "aside"}], ids=str)
def test_lines_that_only_orjson_reads_change_nothing_for_the_others(settings):
    task = Filter(FilterConfig(exempt_sources=("b",), **settings))
    lines = mixed_lines()
    alone, both = task(batch_of(lines)), task(batch_of(UNSURE + b"\n" + lines))
    n_more = both.lines.find(alone.lines)
    assert n_more == (len(task(batch_of(UNSURE)).lines) if "annotate" in settings else 0)
    assert both.side.get("rejected", b"").endswith(alone.side.get("rejected", b""))
    for group in ("source.a.", "source.b.", "language.zh.", "language.none.", "rule.n_words."):
        for measure in ("n_documents", "n_bytes", "n_kept", "n_kept_bytes"):
            n_unsure = {"rule.n_words.n_documents": 1, "rule.n_words.n_bytes": len(UNSURE)}
            key = f"{group}{measure}"
            assert both.counts.get(key, 0) == alone.counts.get(key, 0) + n_unsure.get(key, 0)


def test_blank_lines_and_bad_ones_are_not_copied():
    lines = mixed_lines().split(b"\n")
    given_lines = b"\n\n".join([lines[0], b" ", b"no json", lines[1], lines[4]])
    task = Filter(FilterConfig(rules="none", on_error="skip"))
    part = task(batch_of(given_lines))
    assert part.lines == b"".join(line + b"\n" for line in (lines[0], lines[1], lines[4]))
    assert [bad.line for bad in part.bad] == [b"no json"]


def test_a_batch_is_judged_as_its_documents_one_by_one():
    documents = read_documents(batch_of(mixed_lines()), "text", ("source",), on_error="stop")
    task = Filter(FilterConfig(languages=("any",), min_language_confidence=0))
    table = task.judge(documents)
    for place in range(len(documents)):
        language = table.languages[table.language[place]]
        expected = first_broken(read_rules("dsllm"), Page(documents.texts.text(place), language))
        found = table.tests[table.first[place]] if table.first[place] >= 0 else None
        assert (found and found.rule) == (expected and expected.rule)
        if found and expected:
            assert (found.value(place), found.bound) == (expected.value, expected.bound)


def test_thorough_tests_look_at_documents_already_rejected():
    for is_thorough, n_broken in ((True, 2), (False, 1)):
        documents = read_documents(batch_of(mixed_lines()), "text", ("source",), on_error="stop")
        table = Table(documents, is_thorough)
        table.exempt(np.array([True, False, False, False, False]))
        for limit in (1, 2):
            values = np.arange(5.0)
            table.test(f"over_{limit}", table.looked_at & (values <= limit), values, limit)
        assert table.first.tolist() == [-1, 0, 1, -1, -1]
        assert table.tests[1].broken.sum() == n_broken


def test_texts_are_taken_in_order():
    texts = Texts.join([b"a", b"", "中".encode()])
    taken = texts.take(np.array([2, 0]))
    assert [taken.text(place) for place in range(2)] == ["中", "a"]
    assert texts.take(np.arange(3)) is texts
    assert len(texts.take(np.zeros(0, np.int64)).ends) == 0


def test_a_batch_without_documents_is_nothing():
    for annotate in (True, False):
        part = Filter(FilterConfig(annotate=annotate))(batch_of(b"\n \n"))
        assert part.lines == b""
        assert part.counts["n_documents"] == 0


def c4_lines():
    texts = [
        "Home | About\nThe river is wide. It has risen since Tuesday. We have a boat.\n"
        "You must enable JavaScript.\nThe road is under water. Nobody in the valley is angry.",
        'The river is wide. It has risen since Tuesday. We have a boat. It is "old". It leaks.',
        "Home | About",
    ]
    rows = [{"n": 1.50, "text": text, "id": at} for at, text in enumerate(texts)]
    return [json.dumps(row).encode() + b"\n" for row in rows]


@pytest.mark.parametrize("is_sure", [True, False])
def test_cut_lines_are_left_out_of_the_text_and_nothing_else_changes(is_sure):
    lines = c4_lines()
    task = Filter(FilterConfig(rules="c4", lid_model="script", rejected="aside"))
    part = task(batch_of(b"".join(lines) + (b"" if is_sure else UNSURE)))
    first, second = part.lines.splitlines(keepends=True)
    assert first == (
        b'{"n": 1.5, "text": "The river is wide. It has risen since Tuesday. We have a boat.\\n'
        b'The road is under water. Nobody in the valley is angry.", "id": 0}\n'
    )
    assert second == lines[1]
    assert part.counts["n_kept_bytes"] == len(first) + len(second)
    aside = orjson.loads(part.side["rejected"].splitlines()[0])
    assert (aside["text"], aside["dsllm_filter"]["rule"]) == ("", "n_line_sentences")


def test_line_cuts_that_cannot_be_are_errors(tmp_path):
    path = tmp_path / "rules.toml"
    for content, message in (
        ("lines = 1", "1 is no table"),
        ("[lines]\nend = ['.']", "unknown key 'end'"),
        ("[lines]\nends = '.'", "ends is '.'"),
        ("[lines]\nmin_words = true", "min_words is True"),
        ("[lines]\nwithout = ['a']", "too short"),
    ):
        path.write_text(content + "\n[[rules]]\nfeature = 'n_words'\nmin = 1\n")
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_line_cut(str(path))
