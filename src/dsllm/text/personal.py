"""Personal data in texts: what counts as such, and where it is.

A compiled pass (`personal_compiled.py`) says where there may be any; the patterns below, which are the
definition, are tried there alone. Kinds:

- `email`: a local part, @, a domain whose last label is two letters long or a well-known one; not those of
  documentation (example.com, .test; RFC 2606), nor what version control writes (git@host:path).
- `phone`: an international number with + and its country's code; North American ones with their separators;
  Chinese mobile numbers, and others with their area code; other numbers behind a word such as Tel or 电话.
- `id`: Chinese resident identity numbers (GB 11643: region, date of birth, check digit modulo 11-2), and US
  social security numbers behind their name.
- `card`: 12 to 19 digits that begin as a card's do and satisfy Luhn's check (ISO/IEC 7812).
- `iban`: the length of its country, and 1 modulo 97 (ISO 13616).
- `ip`: public addresses, version 4 or 6, no ranges; four numbers below 32 are taken for a version or a
  section, but behind a word such as address or host.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dsllm.text.edits import Edit
from dsllm.text.personal_patterns import KINDS, PATTERNS
from dsllm.text.texts import Texts

_ROOM = 4096
_REACH = 96  # bytes behind a hint that a match may reach
# Which kinds the compiled pass's hints are for, by number.
HINTED = (
    frozenset({"email"}),
    frozenset({"id", "card", "ip", "phone"}),
    frozenset({"iban"}),
    frozenset({"ip"}),
)


class Found(NamedTuple):
    """A piece of personal data: its bytes in a text, and its kind."""

    start: int
    end: int
    kind: str


def placeholder(kind: str) -> bytes:
    """Give what stands in the place of personal data: [EMAIL], [PHONE], [ID], [CARD], [IBAN], [IP]."""
    return f"[{kind.upper()}]".encode()


def find_personal(text: bytes, kinds: tuple[str, ...] = KINDS) -> list[Found]:
    """Find personal data anywhere in a text in UTF-8; of what overlaps, what starts first and is longest."""
    return _disjoint(found for kind in kinds for found in _find(text, kind, 0, len(text)))


def find_edits(texts: Texts, kinds: tuple[str, ...] = KINDS) -> tuple[list[Edit], list[str]]:
    """Find what `find_personal` does in each text, as edits that put placeholders there; and the kinds."""
    from dsllm.text.personal_compiled import FULL, find_hints

    room = _ROOM
    while True:
        hints = np.empty((room, 4), np.int64)
        n_hints = find_hints(texts.data, texts.ends, hints)
        if n_hints != FULL:
            break
        room *= 8
    edits, found_kinds = [], []
    for text, rows in _by_text(hints[:n_hints].tolist()):
        first, end = int(texts.ends[text - 1]) if text else 0, int(texts.ends[text])
        data = texts.data[first:end].tobytes()
        found = _disjoint(
            one
            for _, start, stop, hint in rows
            for kind in kinds
            if kind in HINTED[hint]
            for one in _find(data, kind, start - first, stop - first)
        )
        edits += [Edit(text, one.start, one.end, placeholder(one.kind)) for one in found]
        found_kinds += [one.kind for one in found]
    return edits, found_kinds


def _by_text(rows: list[list[int]]) -> Iterator[tuple[int, list[list[int]]]]:
    by_text: dict[int, list[list[int]]] = {}
    for row in rows:
        by_text.setdefault(row[0], []).append(row)
    yield from by_text.items()


def _find(text: bytes, kind: str, start: int, end: int) -> Iterator[Found]:
    """Find data of a kind that begins in `text[start:end]`."""
    for pattern, check in PATTERNS[kind]:
        place = start
        while found := pattern.search(text, place, min(len(text), end + _REACH)):
            if found.start() >= end:
                break
            group = 1 if pattern.groups else 0
            if check(text, *found.span(group)):
                yield Found(*found.span(group), kind)
                place = found.end()
            else:
                place = found.start() + 1


def _disjoint(found: Iterator[Found]) -> list[Found]:
    chosen: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end, KINDS.index(one.kind))):
        if not chosen or one.start >= chosen[-1].end:
            chosen.append(one)
    return chosen
