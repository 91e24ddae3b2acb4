"""The two fastText classifiers: which language a text is in, and how good it is.

The language model that comes with the package, `language_id.ftz`, knows 39 languages by ISO 639-1 code (`zh`
for simplified and traditional) and `code` for source code, LaTeX and rows of figures. It was trained by
`benchmarks/train_language_id.py` on the packages that `language_id.toml` lists. On sentences it was not
trained on, in 12 languages (`benchmarks/language_id_accuracy.py`), 99.6 % of those over 40 characters (20 in
Chinese, Japanese and Korean) get their own language, and all of them when five are joined; 94 % of source
files and 83 % of LaTeX documents come out as `code`. A language that it does not know gets a label that it
knows, at times with confidence. Text without any letter is `none`, whatever the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.text.texts import Texts

SHIPPED_MODEL = Path(__file__).parent / "language_id.ftz"
NO_LETTERS = "none"
GOOD = "__label__good"
CODE = "__label__code"
SURE_OF_CODE = 0.7
_PREFIX = "__label__"


class LanguageModel:
    """Names the language of a text."""

    def __init__(self, path: str | None) -> None:
        """Load the model at `path`, or the shipped one.

        Raises:
            InputError: no such file, or no fastText classifier.
        """
        self._model = _load(Path(path) if path else SHIPPED_MODEL, "--lid-model")

    def guess(self, text: str) -> tuple[str, float]:
        """Return the likeliest language of the whole text and its probability.

        It is `code` only where that is clear: a manual with much code in it is still a manual.
        """
        if not any(map(str.isalpha, text)):
            return NO_LETTERS, 1.0
        found = self._model.f.predict(_one_line(text), 2, 0.0, "strict")
        probability, label = found[0]
        if label == CODE and probability < SURE_OF_CODE and len(found) > 1:
            second, label = found[1]
            probability = second / (1 - probability)  # given that it is prose
        return label.removeprefix(_PREFIX), _probability(probability)

    def guess_all(self, texts: Texts) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Guess the language of each text: (labels, the number of each text's label, its probability)."""
        found = [self.guess(texts.text(place)) for place in range(len(texts.ends))]
        labels = list(dict.fromkeys(label for label, _ in found))
        numbers = {label: number for number, label in enumerate(labels)}
        index = np.array([numbers[label] for label, _ in found], np.int64)
        return labels, index, np.array([probability for _, probability in found], np.float64)


class QualityModel:
    """Says how probable it is that a text is good."""

    def __init__(self, path: str) -> None:
        """Load the model at `path`.

        Raises:
            InputError: no such file, no fastText classifier, or one without the label for good text.
        """
        self._model = _load(Path(path), "--quality-model")
        labels = self._model.get_labels()
        if GOOD not in labels:
            raise InputError(
                f"{path}: its labels are {', '.join(sorted(labels)[:6])}, {GOOD} is not among them",
                hint=f"give --quality-model a classifier trained with {GOOD} on the good examples",
            )

    def score(self, text: str) -> float:
        """Return the probability of the label for good text."""
        found = self._model.f.predict(_one_line(text), -1, 0.0, "strict")
        return next((_probability(probability) for probability, label in found if label == GOOD), 0.0)

    def score_all(self, texts: Texts) -> NDArray[np.float64]:
        """Score each text, shape (n_texts,)."""
        return np.array([self.score(texts.text(place)) for place in range(len(texts.ends))], np.float64)


def _load(path: Path, flag: str) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file", hint=f"give {flag} a fastText model, .bin or .ftz")
    import fasttext

    try:
        model = fasttext.load_model(str(path))
        is_classifier = model.f.getArgs().model.name == "supervised"
    except (ValueError, MemoryError, RuntimeError) as error:  # what the C++ reader throws at other files
        raise InputError(f"{path}: {error}", hint=f"give {flag} a fastText model, .bin or .ftz") from None
    if not is_classifier:
        raise InputError(
            f"{path}: word vectors, not a classifier", hint=f"give {flag} a model of `fasttext supervised`"
        )
    return model


def _one_line(text: str) -> str:
    """Make one line of all lines; `</s>` would end the text for fastText, wherever it stands."""
    return text.replace("\n", " ").replace("</s>", "< /s>") + "\n"


def _probability(value: float) -> float:
    return min(1.0, round(value, 6))  # fastText adds 1e-5 before the logarithm
