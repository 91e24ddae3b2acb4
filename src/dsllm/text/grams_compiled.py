"""Runs of words that recur in a text, compiled: the characters in them for growing n, as in `features.py`.

An n-gram can recur only where its first n - 1 words do, so each n looks at few places. An n-gram is known by
a hash of 64 bits of its words' hashes.
"""

import numpy as np

from dsllm.text.compiled import compiled

MAX_N = 20
MIN_DUPLICATE_N, MAX_TOP_N = 5, 4
FACTOR = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


@compiled
def measure_grams(hashes, chars_before, n_words, max_n, room, slots, places, keys, top, duplicate):
    """Count the characters in recurring n-grams of words, n = 2 .. max_n.

    Args:
        hashes: uint64, of each word.
        chars_before: int64 (n_words + 1,): the characters of the words before each one.
        n_words: how many there are.
        max_n: the longest n-gram that is asked for.
        room: int64 with room for a table, a key and a count in turns: a power of two, at least 4 * n_words.
        slots: int64 with room for n_words.
        places: int64 with room for n_words.
        keys: uint64 with room for n_words.
        top: float64 (MAX_N + 1, 2), written to at [n]: the characters of the most frequent n-gram, at all its
            places (of equally frequent ones that with most characters; 0 where none recurs); and the same
            with a space between words and of equally frequent ones the first, which may occur once.
        duplicate: float64 (MAX_N + 1, 2), written to at [n]: the characters in n-grams that have occurred
            before, each counted once; and the same where one that is counted is jumped over.
    """
    n_places = n_words
    for index in range(n_words):
        places[index] = index
        keys[index] = hashes[index]
    for n in range(2, max_n + 1):
        n_places = _count_grams(hashes, n_words, n, n_places, room, slots, places, keys)
        if n <= MAX_TOP_N:
            _find_top(chars_before, n_words, n, n_places, room, slots, places, top[n])
        n_places = _keep_recurring(n_places, room, slots, places, keys)
        if n_places == 0:
            break
        if n >= MIN_DUPLICATE_N:
            _find_duplicate(chars_before, n, n_places, room, slots, places, duplicate[n])
    for n in range(2, min(MAX_TOP_N, max_n, n_words) + 1):
        if top[n, 1] == 0:  # none recurs: the first one, once
            top[n, 1] = chars_before[n] + n - 1


@compiled
def _count_grams(hashes, n_words, n, n_places, room, slots, places, keys):
    """Lengthen the grams at `places` by a word and count equal ones; returns the number of places left."""
    while n_places and places[n_places - 1] > n_words - n:
        n_places -= 1
    size = 64
    while size < 4 * n_places:
        size *= 2
    mask = np.int64(size - 2)
    room[:size] = 0
    for index in range(n_places):
        key = (keys[index] ^ keys[index] >> np.uint64(29)) * FACTOR + hashes[places[index] + n - 1]
        key ^= key >> np.uint64(32)
        key = max(key, _ONE)
        keys[index] = key
        wanted = np.int64(key)
        slot = np.int64(key * FACTOR >> np.uint64(20)) & mask
        while room[slot] != wanted:
            if room[slot] == 0:
                room[slot] = wanted
                break
            slot = (slot + 2) & mask
        room[slot + 1] += 1
        slots[index] = slot + 1
    return n_places


@compiled
def _find_top(chars_before, n_words, n, n_places, room, slots, places, found):
    most = np.int64(1)
    longest = first = np.int64(0)
    for index in range(n_places):
        count = room[slots[index]]
        if count < most or count == 1:
            continue
        n_chars = chars_before[places[index] + n] - chars_before[places[index]]
        if count > most:
            most, longest, first = count, n_chars, n_chars
        else:
            longest = max(longest, n_chars)
    if most > 1:
        found[0], found[1] = most * longest, most * (first + n - 1)


@compiled
def _keep_recurring(n_places, room, slots, places, keys):
    n_kept = 0
    for index in range(n_places):
        if room[slots[index]] > 1:
            places[n_kept], keys[n_kept], slots[n_kept] = places[index], keys[index], slots[index]
            n_kept += 1
    return n_kept


@compiled
def _find_duplicate(chars_before, n, n_places, room, slots, places, found):
    """Go through the places in order; a count that is negative marks a gram that has occurred."""
    n_once = n_jumped = np.int64(0)
    covered = next_start = np.int64(0)
    for index in range(n_places):
        place, count = places[index], room[slots[index]]
        end_chars = chars_before[place + n]
        if count < 0:
            n_once += end_chars - chars_before[max(place, covered)]
            covered = place + n
        else:
            room[slots[index]] = -count
    for index in range(n_places):  # back to positive, this time for those that are not jumped over
        place = places[index]
        if place < next_start:
            continue
        if room[slots[index]] > 0:
            n_jumped += chars_before[place + n] - chars_before[place]
            next_start = place + n
        else:
            room[slots[index]] = -room[slots[index]]
    found[0], found[1] = n_once, n_jumped
