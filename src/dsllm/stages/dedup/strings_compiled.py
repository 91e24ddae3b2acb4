"""The loops of `strings.py`, compiled: minimisers of N-grams, and the N-grams of some minimisers.

The minimiser of an N-gram is the place, in its document, of the least hash among its runs of
`minimiser_words` words, the first of equal ones. Equal N-grams have it at the same distance from their start.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.word_hashes_compiled import hash_runs


def minimiser_words(n_span_words: int) -> int:
    """Give the length of the runs among which an N-gram's minimiser is: half of its own."""
    return max(1, n_span_words // 2)


@compiled
def find_minimisers(
    words: NDArray[np.uint64],
    ends: NDArray[np.int64],
    n_span_words: int,
    n_run_words: int,
    keys: NDArray[np.uint64],
    texts: NDArray[np.int64],
    places: NDArray[np.int32],
) -> int:
    """List the minimisers of all texts, each once: its hash, its text and its place in the text.

    Args:
        words: the hashes of all words, shape (n_words,).
        ends: where those of each text end, shape (n_texts,).
        n_span_words: length of an N-gram.
        n_run_words: length of the runs that are hashed, at most that.
        keys: to be filled, shape (n_words,), as the next two.
        texts: the number of each one's text.
        places: the number of each one's first word in it.

    Returns:
        The number of minimisers.
    """
    n_found = start = 0
    for text in range(len(ends)):
        own = words[start : ends[text]]
        start = ends[text]
        runs, minimisers = _slide(own, n_span_words, n_run_words)
        last = -1
        for place in minimisers:
            if place != last:
                keys[n_found], texts[n_found], places[n_found] = runs[place], text, place
                n_found += 1
                last = place
    return n_found


@compiled
def find_spans(
    words: NDArray[np.uint64],
    ends: NDArray[np.int64],
    n_span_words: int,
    n_run_words: int,
    range_ends: NDArray[np.int64],
    firsts: NDArray[np.int32],
    lasts: NDArray[np.int32],
    keys: NDArray[np.uint64],
    texts: NDArray[np.int64],
    places: NDArray[np.int32],
) -> int:
    """List the N-grams whose minimiser is in one of their text's ranges: hash, text and place.

    Args:
        words: as in `find_minimisers`, and so the rest of that name.
        ends: where the words of each text end.
        n_span_words: length of an N-gram.
        n_run_words: length of the runs that are hashed.
        range_ends: where the ranges of each text end among all of them, shape (n_texts,).
        firsts: first place of each range, ascending in a text, shape (n_ranges,).
        lasts: the place behind it, shape (n_ranges,).
        keys: to be filled, shape (n_words,), as the next two.
        texts: the number of each one's text.
        places: the number of each one's first word in it.

    Returns:
        The number of N-grams.
    """
    n_found = start = number = 0
    spans = np.empty(len(words), np.uint64)
    for text in range(len(ends)):
        own = words[start : ends[text]]
        start = ends[text]
        _, minimisers = _slide(own, n_span_words, n_run_words)
        hash_runs(own, n_span_words, spans)
        for place in range(len(minimisers)):  # minimisers never go back, so one walk along the ranges does
            while number < range_ends[text] and lasts[number] <= minimisers[place]:
                number += 1
            if number < range_ends[text] and firsts[number] <= minimisers[place]:
                keys[n_found], texts[n_found], places[n_found] = spans[place], text, place
                n_found += 1
        number = range_ends[text]
    return n_found


@compiled
def _slide(words, n_span_words, n_run_words):
    """Hash a text's runs, and find the minimiser of each of its N-grams; none where it has fewer words."""
    n_spans = max(0, len(words) - n_span_words + 1)
    runs = np.empty(len(words) if n_spans else 0, np.uint64)
    minimisers = np.empty(n_spans, np.int64)
    if not n_spans:
        return runs, minimisers
    n_runs = hash_runs(words, n_run_words, runs)
    width = n_span_words - n_run_words + 1
    queue = np.empty(n_runs, np.int64)  # places whose hashes ascend; the least one is at its head
    head = tail = 0
    for place in range(n_runs):
        while tail > head and runs[queue[tail - 1]] > runs[place]:
            tail -= 1
        queue[tail] = place
        tail += 1
        span = place - width + 1
        if span >= 0:
            if queue[head] < span:
                head += 1
            minimisers[span] = queue[head]
    return runs, minimisers
