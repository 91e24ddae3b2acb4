"""Terms by hand, and the classes that they are made of. What is expected is what spaCy 3.8 cuts."""

import pytest

from dsllm.text.terms import is_address, sentences, terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('He said: "Don\'t go!"', ["He", "said", ":", '"', "Do", "n't", "go", "!", '"']),
        ("(see Fig. 3.2, p. 7)", ["(", "see", "Fig", ".", "3.2", ",", "p.", "7", ")"]),
        (
            "Mr. Smith's well-known e.g. and/or",
            ["Mr.", "Smith", "'s", "well", "-", "known", "e.g.", "and/or"],
        ),
        ("http://a.example.com/b-c?d=e, now", ["http://a.example.com/b-c?d=e", ",", "now"]),
        ("src/main.py and x=y", ["src", "/", "main.py", "and", "x", "=", "y"]),
        ("10km 50% $5 3+4 snake_case", ["10", "km", "50", "%", "$", "5", "3", "+", "4", "snake_case"]),
        ("wait... what… ok--yes", ["wait", "...", "what", "…", "ok", "--", "yes"]),
        ("I’m here; cannot stay", ["I", "’m", "here", ";", "can", "not", "stay"]),
        ("U.S. troops", ["U.S.", "troops"]),
        ("me@mail.example.org.", ["me@mail.example.org", "."]),
        ("", []),
        ("*** ,", ["*", "*", "*", ","]),
    ],
)
def test_terms_by_hand(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("One. Two! Three", 3),
        ("Mr. Smith went. e.g. here", 2),  # the second one begins with "e.g."
        ('He asked: "Why?" She knew.', 2),  # a quotation mark goes on with what has ended
        ("3.14 is pi...", 1),
        ("...", 1),
        ("", 0),
    ],
)
def test_sentences_by_hand(line, expected):
    assert sentences(line) == expected


@pytest.mark.parametrize("address", ["a.example.com", "https://x.org:8080/a", "me@x.org", "x.org/a?b"])
def test_addresses(address):
    assert is_address(address)


@pytest.mark.parametrize("other", ["a.B", "3.14", "a..b.com", "x.org:a", "foo](http://x.org/a", "com", "a.c"])
def test_what_is_no_address(other):
    assert not is_address(other)
