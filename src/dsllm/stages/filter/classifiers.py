"""The two fastText classifiers: which language a text is in, and how good it is.

The language model that comes with the package, `language_id.ftz`, knows 39 languages by ISO 639-1 code (`zh`
for simplified and traditional) and `code` for source code, LaTeX and rows of figures. It was trained by
`benchmarks/train_language_id.py` on the packages that `language_id.toml` lists. On sentences it was not
trained on, in 12 languages (`benchmarks/language_id_accuracy.py`), 99.6 % of those over 40 characters (20 in
Chinese, Japanese and Korean) get their own language, and all of them when five are joined; 94 % of source
files and 83 % of LaTeX documents come out as `code`. A language that it does not know gets a label that it
knows, at times with confidence. Text without any letter is `none`, whatever the model.
"""

import re
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.text.fasttext_file import read_fasttext
from dsllm.text.fasttext_model import ADDED, FastText
from dsllm.text.letters_compiled import have_letters
from dsllm.text.texts import Texts

SHIPPED_MODEL = Path(__file__).parent / "language_id.ftz"
NO_LETTERS = "none"
GOOD = "__label__good"
CODE = "__label__code"
SURE_OF_CODE = 0.7
_PREFIX = "__label__"


class _Classifier(Protocol):
    """A model: `predict` gives the probability of each of its `labels`, shape (n_texts, n_labels)."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, texts: Texts) -> NDArray[np.float64]: ...


class LanguageModel:
    """Names the language of texts."""

    def __init__(self, path: str | None) -> None:
        """Load the model at `path`, or the shipped one.

        Raises:
            InputError: no such file, or no fastText classifier.
        """
        self._model = _load(Path(path) if path else SHIPPED_MODEL, "--lid-model")
        self._labels = [*(label.removeprefix(_PREFIX) for label in self._model.labels), NO_LETTERS]

    @property
    def labels(self) -> list[str]:
        """All that it calls texts: languages, and `none`."""
        return self._labels

    def guess(self, text: str) -> tuple[str, float]:
        """Return the likeliest language of the whole text and its probability: see `guess_all`."""
        labels, index, confidence = self.guess_all(Texts.join([text.encode()]))
        return labels[index[0]], float(confidence[0])

    def guess_all(self, texts: Texts) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Guess the language of each text: (labels, the number of each text's label, its probability).

        It is `code` only where that is clear: a manual with much code in it is still a manual.
        """
        found = self._model.predict(texts)
        rows = np.arange(len(found))
        index = found.argmax(axis=1)
        confidence = found[rows, index]
        if CODE in self._model.labels and len(self._model.labels) > 1:
            unsure = np.flatnonzero((index == self._model.labels.index(CODE)) & (confidence < SURE_OF_CODE))
            found[unsure, index[unsure]] = -1
            index[unsure] = found[unsure].argmax(axis=1)
            # given that it is prose
            confidence[unsure] = found[unsure, index[unsure]] / (1 - confidence[unsure])
        nothing = ~have_letters(texts) | (confidence == 0)
        index[nothing], confidence[nothing] = len(self._labels) - 1, 1.0
        return self._labels, index, np.minimum(1.0, np.round(confidence, 6))


class QualityModel:
    """Says how probable it is that a text is good."""

    def __init__(self, path: str) -> None:
        """Load the model at `path`.

        Raises:
            InputError: no such file, no fastText classifier, or one without the label for good text.
        """
        self._model = _load(Path(path), "--quality-model")
        labels = self._model.labels
        if GOOD not in labels:
            raise InputError(
                f"{path}: its labels are {', '.join(sorted(labels)[:6])}, {GOOD} is not among them",
                hint=f"give --quality-model a classifier trained with {GOOD} on the good examples",
            )
        self._place = labels.index(GOOD)

    def score(self, text: str) -> float:
        """Return the probability of the label for good text."""
        return float(self.score_all(Texts.join([text.encode()]))[0])

    def score_all(self, texts: Texts) -> NDArray[np.float64]:
        """Give the probability of the label for good text of each, shape (n_texts,)."""
        return np.clip(self._model.predict(texts)[:, self._place] - ADDED, 0, 1)


class _Library:
    """A classifier that only the package `fasttext` can read."""

    def __init__(self, path: Path, flag: str) -> None:
        import fasttext

        try:
            self._model = fasttext.load_model(str(path))
            is_classifier = self._model.f.getArgs().model.name == "supervised"
        except (ValueError, MemoryError, RuntimeError) as error:  # what the C++ reader throws at other files
            raise InputError(f"{path}: {error}", hint=f"give {flag} a fastText model, .bin or .ftz") from None
        if not is_classifier:
            raise InputError(
                f"{path}: word vectors, not a classifier",
                hint=f"give {flag} a model of `fasttext supervised`",
            )
        self.labels = tuple(self._model.get_labels())
        self._places = {label: place for place, label in enumerate(self.labels)}

    def predict(self, texts: Texts) -> NDArray[np.float64]:
        """As `FastText.predict`."""
        probabilities = np.zeros((len(texts.ends), len(self.labels)))
        for text in range(len(texts.ends)):
            for probability, label in self._model.f.predict(one_line(texts.text(text)), -1, 0.0, "strict"):
                probabilities[text, self._places[label]] = probability
        return probabilities


def _load(path: Path, flag: str) -> _Classifier:
    if not path.is_file():
        raise InputError(f"{path}: no such file", hint=f"give {flag} a fastText model, .bin or .ftz")
    found = read_fasttext(path) if path.stat().st_size else "empty"
    return found if isinstance(found, FastText) else _Library(path, flag)


def one_line(text: str) -> str:
    """Make one line of all lines, without the words that fastText takes for a line's end or a label."""
    return (
        " ".join(
            word
            for word in re.split(r"[ \t\n\v\f\r\0]+", text)
            if word and word != "</s>" and not word.startswith(_PREFIX)
        )
        + "\n"
    )
