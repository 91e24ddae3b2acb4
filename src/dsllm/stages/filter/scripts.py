"""The language of a text by its letters alone, for rules where no language model is asked.

Chinese, Japanese and Korean have characters of their own; of all other writing only this much is known, that
text in Latin letters without many accents may be English. It takes a thirtieth of the time of the rules.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.scripts_compiled import ASCII, HAN, HANGUL, KANA, OTHER, count_letters
from dsllm.text.texts import Texts

BY_SCRIPT = "script"  # as --lid-model has it
LABELS = ["none", "en", "zh", "ja", "ko", "other"]
_NONE, _EN, _ZH, _JA, _KO, _OTHER = range(6)
LETTERS_PER_CHARACTER = 3  # a Chinese character says as much as some three letters
LEAST_KANA, LEAST_HANGUL = 0.05, 0.3  # shares of the CJK characters
MOST_ACCENTED = 0.05  # share of the letters beyond ASCII in English


class Scripts:
    """Names a language by the letters of a text; in place of `LanguageModel`, without its probabilities."""

    labels = LABELS

    def guess_all(self, texts: Texts) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Name the language of each text: (labels, the number of each text's label, 1 for each)."""
        counts = count_letters(texts)
        cjk = counts[:, HAN] + counts[:, KANA] + counts[:, HANGUL]
        letters = counts[:, ASCII] + counts[:, OTHER]
        is_cjk = LETTERS_PER_CHARACTER * cjk >= letters
        found = np.where(counts[:, OTHER] <= MOST_ACCENTED * letters, _EN, _OTHER)
        found[is_cjk] = _ZH
        found[is_cjk & (counts[:, KANA] >= LEAST_KANA * cjk)] = _JA
        found[is_cjk & (counts[:, HANGUL] >= LEAST_HANGUL * cjk)] = _KO
        found[letters + cjk == 0] = _NONE
        return LABELS, found.astype(np.int64), np.ones(len(found))
