"""The compiled patterns against the regular expressions themselves, as `tokenizers` runs them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

from dsllm.io.sources import find_sources, read_batches
from dsllm.text.json_lines import read_texts
from dsllm.text.patterns import cuts_of
from dsllm.text.patterns_compiled import PLACE, scan_pattern
from dsllm.text.texts import Texts

# As the tokenizer.json files of GPT-4, Llama 3, Qwen 2, GPT-4o and DeepSeek-V3 have them.
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


def split(*patterns, behavior="isolated", invert=False):
    return Sequence([*(Split(Regex(each), behavior, invert) for each in patterns), BYTES])


PRE_TOKENIZERS = {
    "GPT-2": ByteLevel(add_prefix_space=False),
    "StarCoder": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    "Llama 3": split(GPT4),
    "GPT-4": split(GPT4, behavior="removed", invert=True),
    "Qwen 2": split(GPT4.replace("{1,3}", "")),
    "nanochat": split(NANOCHAT),
    "GPT-4o": split(GPT4O, behavior="removed", invert=True),
    "DeepSeek-V3": split(*V3),
}
# One at least of each class, in each length that UTF-8 has, and what the patterns name.
CHARACTERS = (
    " \n\r\t\u3000\xa0\x1f\x00'sStTrReEvVlLmMdDſ0123½Ⅳ٣abAB.,!/-$+^`éÉßǅʰªا中ゟ゠・゛ー〇한"
    "\u0301\u20dd\ufe0f\u200d🙂\U0010ffff\ue000\u0378\u2028𝐀𝟘"
)
texts = st.one_of(
    st.text(st.sampled_from(CHARACTERS), max_size=30),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(st.tuples(st.sampled_from(CHARACTERS), st.integers(1, 5)), max_size=9).map(
        lambda runs: "".join(character * n_times for character, n_times in runs)
    ),
)


@pytest.fixture(params=PRE_TOKENIZERS)
def pre_tokenizer(request):
    return PRE_TOKENIZERS[request.param]


def cuts_for(pre_tokenizer):
    cuts = cuts_of(json.loads(pre_tokenizer.__getstate__()))
    assert cuts is not None
    return cuts


def cut(cuts, text, n_room=96):
    """Cut by the compiled pass: where each piece ends, in bytes."""
    given_texts = Texts.join([text.encode()])
    state, ends, found = np.zeros(2, np.int64), np.empty(n_room, np.int64), []
    end = int(given_texts.ends[0])
    while state[PLACE] < end:
        n_pieces = scan_pattern(given_texts.data, end, state, cuts.classes, cuts.rule, cuts.n_digits, ends)
        found += ends[:n_pieces].tolist()
    return found


def cut_by_library(pre_tokenizer, text):
    sizes = np.cumsum([len(character.encode()) for character in text]).tolist()
    return [sizes[end - 1] for _, (_, end) in pre_tokenizer.pre_tokenize_str(text)]


@settings(max_examples=300)
@given(text=texts)
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_any_text(name, text):
    pre_tokenizer = PRE_TOKENIZERS[name]
    assert cut(cuts_for(pre_tokenizer), text) == cut_by_library(pre_tokenizer, text)


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from(" \n\r\t'sab1.,\x00é") | st.sampled_from(" \n.a"), min_size=30, max_size=300)
)
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_texts_longer_than_a_block(name, text):
    pre_tokenizer = PRE_TOKENIZERS[name]
    assert cut(cuts_for(pre_tokenizer), text, 200) == cut_by_library(pre_tokenizer, text)


def test_every_code_point(pre_tokenizer):
    cuts = cuts_for(pre_tokenizer)
    for first, end in ((0, 0xD800), (0xE000, 0x11000), (0x1F000, 0x20200), (0xE0000, 0xE0200)):
        text = "".join(f"{chr(code)}a {chr(code)} {chr(code)}" for code in range(first, end, 7))
        text += "".join(map(chr, range(first, end)))
        assert cut(cuts, text, 4096) == cut_by_library(pre_tokenizer, text)


def test_what_case_folds_to_a_contraction(pre_tokenizer):
    cuts = cuts_for(pre_tokenizer)
    every = [*range(0x250), *range(0x1E00, 0x2200), *range(0xFB00, 0xFB07)]
    text = "".join(f"a'{chr(code)}'{chr(code)}e'r{chr(code)}'l{chr(code)}'v{chr(code)}\n" for code in every)
    assert cut(cuts, text) == cut_by_library(pre_tokenizer, text)


@pytest.mark.parametrize("unit", ["a", " ", "\n", " \n", "=", "中", "\u0301", "A", "7", "\x00", "'s", "aA"])
def test_long_runs(pre_tokenizer, unit):
    text = unit * 3000 + "b"
    assert cut(cuts_for(pre_tokenizer), text) == cut_by_library(pre_tokenizer, text)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["pretokenizers"][0]["pattern"].update(Regex=r"\w+"),
        lambda values: values["pretokenizers"][0].update(behavior="MergedWithNext"),
        lambda values: values["pretokenizers"][0].update(pattern={"String": "a"}),
        lambda values: values["pretokenizers"].pop(),
        lambda values: values["pretokenizers"][1].update(add_prefix_space=True),
        lambda values: values["pretokenizers"].insert(0, {"type": "Digits", "individual_digits": True}),
    ],
)
def test_other_cuts_are_not_known(change):
    values = json.loads(split(GPT4).__getstate__())
    change(values)
    assert cuts_of(values) is None


def test_no_pre_tokenizer_is_not_known():
    assert cuts_of(None) is None


@pytest.mark.data
@pytest.mark.skipif("DSLLM_TEST_DATA" not in os.environ, reason="needs the corpora")
def test_real_documents(pre_tokenizer):
    cuts = cuts_for(pre_tokenizer)
    for source in find_sources([str(Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain")]):
        found = read_texts(next(iter(read_batches(source))).lines, "text").texts
        for place in range(min(30, len(found.ends))):
            text = found.text(place)[:10_000]
            assert cut(cuts, text, 512) == cut_by_library(pre_tokenizer, text)
