"""What the filter's rules look at: features of one document, in plain Python, the definition of each.

Words, lines and paragraphs are those of `dsllm.text.scan`, lines without the blank ones and without white
space at either end. A feature named `..._frac` is a share between 0 and 1, `..._char_frac` a share of all
characters of the text, white space included; of nothing, a share is 0. `FEATURES` lists them all by name.

Sources: the quality and repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1 and
table A1) and the rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2). Chinese, Japanese and
Korean characters are words by themselves, so bounds in words differ there and `mean_word_chars` says nothing:
the rules have `chars_per_punctuation` and longer n-grams instead.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dsllm.text.page import Page, share
from dsllm.text.stop_words import STOP_WORDS
from dsllm.text.term_features import TERM_FEATURES
from dsllm.text.texts import Texts

TERMINALS = tuple(".!?\"'”’»。．！？」』…；")  # what ends a sentence, or the quotation around one
CLOSERS = ")]）】*_`"
SENTENCE_ENDS = re.compile(r"[.!?。．！？]+")
ELLIPSIS = re.compile(r"\.{3,}|…+|。{3,}")
BULLETS = tuple("•‣⁃◦∙·*-●○■□▪▫◆◇▶►★☆※")
PUNCTUATION = re.compile(r"[.,;:!?，。．、；：！？…]+")
POLICY_PHRASES = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    *("使用条款", "使用條款", "隐私政策", "隱私政策", "隐私权政策", "隱私權政策", "版权所有", "版權所有"),
)
LOREM_IPSUM = "lorem ipsum"
JAVASCRIPT = "javascript"
SHORT_LINE_CHARS = 30
SHORT_LINE_CJK_CHARS = 12


def n_words(page: Page) -> float:
    """Number of words."""
    return len(page.words)


def mean_word_chars(page: Page) -> float:
    """Characters per word."""
    return share(sum(map(len, page.words)), len(page.words))


def hash_per_word(page: Page) -> float:
    """Hash signs per word."""
    return share(page.text.count("#") + page.text.count("＃"), len(page.words))


def ellipsis_per_word(page: Page) -> float:
    """Ellipses (three or more stops, or any run of the character for them) per word."""
    return share(len(ELLIPSIS.findall(page.text)), len(page.words))


def bullet_line_frac(page: Page) -> float:
    """Share of the lines that start with a bullet."""
    return share(sum(line.startswith(BULLETS) for line in page.lines), len(page.lines))


def ellipsis_line_frac(page: Page) -> float:
    """Share of the lines that end with an ellipsis."""
    return share(sum(_ends_in_ellipsis(line) for line in page.lines), len(page.lines))


def alphabetic_word_frac(page: Page) -> float:
    """Share of the words that have a letter, as opposed to digits only."""
    n_alphabetic = sum(any(map(str.isalpha, word)) for word in page.words)
    return share(n_alphabetic, len(page.words))


def n_stop_words(page: Page) -> float:
    """Number of different stop words of the page's language; 0 where there is no list."""
    wanted = STOP_WORDS.get(page.language, frozenset())
    return len(wanted.intersection(map(str.lower, page.words)))


def stop_word_frac(page: Page) -> float:
    """Share of the words that are stop words of the page's language."""
    wanted = STOP_WORDS.get(page.language, frozenset())
    return share(sum(word.lower() in wanted for word in page.words), len(page.words))


def duplicate_line_frac(page: Page) -> float:
    """Share of the lines that an earlier line equals."""
    return share(len(page.lines) - len(set(page.lines)), len(page.lines))


def duplicate_line_char_frac(page: Page) -> float:
    """Share of the characters that stand in lines which an earlier line equals."""
    return _duplicate_chars(page.lines, page.text)


def duplicate_paragraph_frac(page: Page) -> float:
    """Share of the paragraphs that an earlier paragraph equals."""
    return share(len(page.paragraphs) - len(set(page.paragraphs)), len(page.paragraphs))


def duplicate_paragraph_char_frac(page: Page) -> float:
    """Share of the characters that stand in paragraphs which an earlier paragraph equals."""
    return _duplicate_chars(page.paragraphs, page.text)


def top_gram_char_frac(page: Page, n: int) -> float:
    """Share of the characters that stand in the most frequent n-gram, counted at each of its places.

    Of equally frequent n-grams the one with most characters counts; an n-gram that does not recur is none.
    Only the words' own characters count, so with gaps between words the share stays below 1.
    """
    n_times = Counter(gram for _, gram in page.grams.occurrences(n))
    if not n_times:
        return 0.0
    most = max(n_times.values())
    chars = page.grams.chars
    longest = max(sum(chars[at : at + n]) for at, gram in page.grams.occurrences(n) if n_times[gram] == most)
    return min(1.0, share(most * longest, len(page.text)))


def duplicate_gram_char_frac(page: Page, n: int) -> float:
    """Share of the characters that stand in an n-gram which has occurred before, each counted once."""
    chars = page.grams.chars
    seen: set[int] = set()
    n_chars = covered = 0  # words before `covered` are counted
    for at, gram in page.grams.occurrences(n):
        if gram in seen:
            n_chars += sum(chars[max(at, covered) : at + n])
            covered = at + n
        seen.add(gram)
    return share(n_chars, len(page.text))


def n_sentences(page: Page) -> float:
    """Number of sentences: runs of stops, question and exclamation marks, Chinese ones too."""
    return len(SENTENCE_ENDS.findall(page.text))


def line_feed_per_word(page: Page) -> float:
    """Line feeds per word."""
    return share(page.text.count("\n"), len(page.words))


def terminal_line_frac(page: Page) -> float:
    """Share of the lines that end in terminal punctuation, closing brackets and emphasis left aside."""
    return share(sum(line.rstrip(CLOSERS).endswith(TERMINALS) for line in page.lines), len(page.lines))


def short_line_frac(page: Page) -> float:
    """Share of the lines of at most 30 characters, 12 in Chinese and Japanese."""
    limit = SHORT_LINE_CJK_CHARS if page.language in ("zh", "ja") else SHORT_LINE_CHARS
    return share(sum(len(line) <= limit for line in page.lines), len(page.lines))


def n_curly_brackets(page: Page) -> float:
    """Number of opening curly brackets."""
    return page.text.count("{")


def n_lorem_ipsum(page: Page) -> float:
    """How often the text says "lorem ipsum"."""
    return page.text.lower().count(LOREM_IPSUM)


def javascript_line_frac(page: Page) -> float:
    """Share of the lines that mention javascript."""
    return share(sum(JAVASCRIPT in line.lower() for line in page.lines), len(page.lines))


def policy_line_frac(page: Page) -> float:
    """Share of the lines with a phrase of policy notices, English or Chinese."""
    return share(sum(_has_policy(line) for line in page.lines), len(page.lines))


def chars_per_punctuation(page: Page) -> float:
    """Characters of words per run of punctuation marks: the length of a clause."""
    return sum(map(len, page.words)) / max(1, len(PUNCTUATION.findall(page.text)))


Feature = Callable[[Page], float]

FEATURES: dict[str, Feature] = {
    **{
        feature.__name__: feature
        for feature in (
            *(n_words, mean_word_chars, hash_per_word, ellipsis_per_word, bullet_line_frac),
            *(ellipsis_line_frac, alphabetic_word_frac, n_stop_words, stop_word_frac, duplicate_line_frac),
            *(duplicate_line_char_frac, duplicate_paragraph_frac, duplicate_paragraph_char_frac),
            *(n_sentences, line_feed_per_word, terminal_line_frac, short_line_frac, n_curly_brackets),
            *(n_lorem_ipsum, javascript_line_frac, policy_line_frac, chars_per_punctuation),
        )
    },
    **{f"top_{n}_gram_char_frac": partial(top_gram_char_frac, n=n) for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram_char_frac": partial(duplicate_gram_char_frac, n=n) for n in range(5, 21)},
    **TERM_FEATURES,
}


def measure(
    texts: Texts, languages: Sequence[str], names: Sequence[str], wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compute features of texts, shape (n_texts, n_names); NaN for those that are not wanted.

    This is the definition of `features_compiled.measure`.
    """
    found = np.full((len(texts.ends), len(names)), np.nan)
    for place in np.flatnonzero(wanted).tolist():
        page = Page(texts.text(place), languages[place])
        found[place] = [FEATURES[name](page) for name in names]
    return found


def _duplicate_chars(parts: Sequence[str], text: str) -> float:
    n_chars = sum(map(len, parts)) - sum(map(len, set(parts)))
    return share(n_chars, len(text))


def _ends_in_ellipsis(line: str) -> bool:
    return line.endswith(("...", "…", "。。。"))


def _has_policy(line: str) -> bool:
    lower = line.lower()
    return any(phrase in lower for phrase in POLICY_PHRASES)
