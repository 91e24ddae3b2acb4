import pytest
from tests.stages.tiny_chat import write_tokenizer

from dsllm.errors import ConfigError
from dsllm.text.stops import StopStrings, decode_pieces
from dsllm.text.tokenizer_files import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One that has a token for each byte and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(folder)


def first_end(stops, tokens):
    return next((n for n in range(1, len(tokens) + 1) if stops.is_ended(tokens[:n])), None)


def test_a_stop_string_ends_where_its_last_token_comes(tokenizer):
    stops = StopStrings(tokenizer, ["END", "\n\n"])
    assert first_end(stops, tokenizer.encode("an END of it")) == len("an END")
    assert first_end(stops, tokenizer.encode("a\n\nb")) == 3
    assert first_end(stops, tokenizer.encode("EN D")) is None


def test_characters_of_several_tokens_are_found_when_they_are_whole(tokenizer):
    stops = StopStrings(tokenizer, ["。"])
    tokens = tokenizer.encode("你好。吗")
    assert first_end(stops, tokens) == 9  # three bytes each
    assert first_end(stops, tokens[1:]) == 8  # behind half a character


def test_special_tokens_are_no_text(tokenizer):
    stops = StopStrings(tokenizer, ["ab"])
    a, b = tokenizer.encode("ab")
    special = next(iter(tokenizer.special_tokens.values()))
    assert stops.is_ended([a, *[special] * 20, b])


def test_a_text_is_cut_at_the_first_of_all_stop_strings(tokenizer):
    stops = StopStrings(tokenizer, ["cd", "bcx", "bc"])
    assert stops.cut("abcde") == "a"  # "bc" begins before "cd"
    assert stops.cut("axyz") == "axyz"
    assert StopStrings(tokenizer, []).cut("a") == "a"
    assert not StopStrings(tokenizer, []).is_ended([5])


@pytest.mark.parametrize(
    ("text", "expected"), [("abcX", "abc"), ("abEN", "abEN"), ("aENDb", "a"), ("aEENDb", "aE"), ("END", "")]
)
def test_pieces_hold_back_what_may_begin_a_stop_string(tokenizer, text, expected):
    stops = StopStrings(tokenizer, ["END", "X"])
    pieces = list(stops.cut_pieces(iter(text)))
    assert "".join(pieces) == expected
    assert all(piece in ("a", "b", "c", "E", "EN", "") for piece in pieces)


def test_characters_come_whole(tokenizer):
    tokens = tokenizer.encode("a你好!")
    assert len(tokens) == 8
    assert list(decode_pieces(tokens, tokenizer)) == ["a", "你", "好", "!"]


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="empty"):
        StopStrings(tokenizer, ["a", ""])
