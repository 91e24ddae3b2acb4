"""`dsllm remix`: what sizes and shares are counted in, even shares, budgets."""

import pytest
from tests.stages.tiny_chat import write_tokenizer

from dsllm.config import RunOptions
from dsllm.errors import ConfigError
from dsllm.io.documents import Batch
from dsllm.progress import Reporter
from dsllm.stages.remix import measure as measure_module
from dsllm.stages.remix import run as run_module
from dsllm.stages.remix.config import RemixConfig
from dsllm.stages.remix.measure import Measure


def remix(inputs, output, **settings):
    return run_module.run(
        RemixConfig(**settings),
        inputs,
        str(output),
        options=RunOptions(n_workers=1),
        reporter=Reporter(is_quiet=True),
    )


def test_unimax_divides_evenly_up_to_the_cap(tmp_path):
    """en is nine times zh: half of as many bytes as there are is five epochs of zh, the cap is two."""
    for name, n_documents in (("en", 900), ("zh", 100)):
        (tmp_path / f"{name}.jsonl").write_bytes(b'{"text":"%s"}\n' % (b"x" * 50) * n_documents)
    two = [f"{name}={tmp_path / name}.jsonl" for name in ("en", "zh")]
    counts = remix(two, tmp_path / "even", even=True)
    assert counts["sources"]["zh"]["reached"] == pytest.approx(0.5, abs=0.005)
    counts = remix(two, tmp_path / "out", even=True, max_epochs=2.0)
    assert counts["sources"]["zh"]["epochs"] == pytest.approx(2.0, abs=0.01)
    assert counts["n_text_bytes_written"] == pytest.approx(counts["n_text_bytes"], rel=0.005)


def test_shares_of_tokens(tmp_path):
    """A tokenizer of bytes, and one token behind each document: 3 bytes are 4 tokens, 15 bytes are 16."""
    tokenizer = write_tokenizer(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"abc"}\n' * 400)
    (tmp_path / "b.jsonl").write_bytes('{"text":"五个汉字呢"}\n'.encode() * 100)
    inputs = [f"a={tmp_path / 'a.jsonl'}", f"b={tmp_path / 'b.jsonl'}"]
    counts = remix(inputs, tmp_path / "all", tokenizer=str(tokenizer))
    assert {name: source["n_tokens"] for name, source in counts["sources"].items()} == {"a": 1600, "b": 1600}
    assert counts["n_tokens"] == counts["n_tokens_written"] == 3200
    settings = {"tokenizer": str(tokenizer), "weights": ("a=0.25", "b=0.75"), "budget": "1.6K-tokens"}
    counts = remix(inputs, tmp_path / "out", **settings)
    assert {name: source["n_tokens_written"] for name, source in counts["sources"].items()} == {
        "a": 400,
        "b": 1200,
    }
    assert counts["sources"]["b"]["n_text_bytes_written"] == 75 * 15


@pytest.mark.parametrize(
    ("budget", "tokenizer", "expected"),
    [("1000", None, 1000), ("1.5MB", None, 1_500_000), ("2B-tokens", "t", 2 * 10**9), ("30 tokens", "t", 30)],
)
def test_budgets_are_read(budget, tokenizer, expected):
    assert RemixConfig(budget=budget, tokenizer=tokenizer).budget_size == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"budget": "2B-tokens"}, "tokenizer is None"),
        ({"budget": "1GB", "tokenizer": "t"}, "bytes, but tokenizer"),
        ({"budget": "0"}, "nothing"),
        ({"budget": "lots"}, "no amount of bytes"),
        ({"even": True, "temperature": 2.0}, "temperature is 2.0, even is True"),
        ({"target": ("en=1",)}, "no losses"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        RemixConfig(**settings)


@pytest.mark.parametrize("last", ["", "\n"], ids=["no line feed", "line feed"])
@pytest.mark.parametrize("field", ["source", "text"])
def test_sizes_are_those_of_the_plain_reader(last, field, monkeypatch):
    lines = '{"text":"a\\u00e9 b","source":"x"}\n\n{"source":7,"text":"汉字"}\n  {"text":""} ' + last
    batch = Batch(0, "a.jsonl", 5, lines.encode(), 0)
    task = Measure(RemixConfig(source_field=field), ())
    found = task(batch).arrays
    monkeypatch.setattr(measure_module, "read_texts", lambda *_: None)
    expected = Measure(RemixConfig(source_field=field), ())(batch).arrays
    assert found["documents"].tolist() == expected["documents"].tolist()
    assert found["names"].tobytes() == expected["names"].tobytes()
    assert found["documents"]["line"].tolist() == [5, 7, 8]
    assert found["documents"]["n_bytes"].tolist() == [5, 6, 0]
