"""Settings of `dsllm filter`."""

from dataclasses import dataclass

from dsllm.config import setting
from dsllm.errors import ConfigError
from dsllm.stages.filter.cleaning import CleaningSettings
from dsllm.stages.filter.training_settings import TrainingSettings

BUCKETS = ("head", "middle", "tail")
MIN_QUALITY = 0.5


@dataclass(frozen=True, kw_only=True)
class FilterConfig(CleaningSettings, TrainingSettings):
    """Which documents stay: by language, by rules, by a quality model, in this order.

    The first test that a document fails removes it.
    """

    languages: tuple[str, ...] = setting(
        ("en", "zh"),
        "Languages to keep, as ISO 639-1 codes; also `code` (source code, LaTeX) and `none` (no letters); "
        "`any` keeps all.",
    )
    min_language_confidence: float = setting(
        0.5, "Probability that the language must have, by the language model.", min=0, max=1
    )
    lid_model: str | None = setting(
        None,
        "fastText language model to use in place of the shipped one: lid.176.ftz, lid.176.bin; `script` "
        "looks at the letters alone: zh, ja, ko, en for what is in Latin letters, other, none.",
    )
    rules: str = setting(
        "dsllm", "Rules: the preset dsllm, gopher, c4 or fineweb, a TOML file of your own, or none."
    )
    bad_words: str | None = setting(
        None, "File of words and phrases, one a line: documents with one of them are rejected, as in C4."
    )
    quality_model: str | None = setting(
        None, "fastText classifier with the label __label__good; without one quality is not judged."
    )
    min_quality: float = setting(
        MIN_QUALITY, "Probability of __label__good that a document must have.", min=0, max=1
    )
    keep_frac: float | None = setting(
        None,
        "Share of the documents to keep, the best by the quality model, in place of min_quality: of all that "
        "the tests before have left, over the whole corpus (two passes).",
        above=0,
        max=1,
    )
    word_model: str | None = setting(
        None, "Model of words that dsllm filter --train-words has made: a second opinion (two passes)."
    )
    keep_thirds: tuple[str, ...] = setting(
        BUCKETS, "Thirds of the corpus to keep, from the least perplexity on: head, middle, tail."
    )
    keep_frac_by: tuple[str, ...] = setting(
        ("language",),
        "Groups of each of which that share is kept, or that are cut into thirds: `language`, and fields "
        "such as `source`; `corpus` for one of all.",
    )
    exempt_sources: tuple[str, ...] = setting(
        (),
        "Documents with one of these values in their `source` field are kept untested: rules made for prose "
        "reject all code.",
    )
    annotate: bool = setting(
        False, "Keep every document, with what the tests found added to it in the field dsllm_filter."
    )
    explain: bool = setting(
        False,
        "Make every test of every document and tell, for each: what it removes alone and together with "
        "others, by language and source, and documents at its border. What is kept is the same.",
    )
    rejected: str | None = setting(
        None, "Folder for the rejected documents, each with the reason in the field dsllm_filter."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.languages:
            raise ConfigError("languages is empty: nothing would be kept", hint="try --languages any")
        if self.rejected in ("", "-"):
            raise ConfigError(f"rejected is {self.rejected!r}, not a folder", hint="try --rejected FOLDER")
        for bucket in self.keep_thirds:
            if bucket not in BUCKETS:
                raise ConfigError(f"keep_thirds: {bucket!r}", hint=f"the buckets are {', '.join(BUCKETS)}")
        if self.keep_frac is not None and self.quality_model is None:
            raise ConfigError(
                f"keep_frac is {self.keep_frac}, but there is no quality model to tell the best by",
                hint="give --quality-model, one that dsllm filter --train-quality has made",
            )
        if self.min_quality != MIN_QUALITY and self.quality_model is None:
            raise ConfigError(
                f"min_quality is {self.min_quality}, but there is no quality model to judge by",
                hint="give --quality-model, one that dsllm filter --train-quality has made",
            )
        if self.keep_thirds != BUCKETS and self.word_model is None:
            raise ConfigError(
                f"keep_thirds is {', '.join(self.keep_thirds)}, but there is no model to cut into thirds by",
                hint="give --word-model, one that dsllm filter --train-words has made",
            )
        if self.annotate and self.rejected is not None:
            raise ConfigError(
                f"annotate keeps every document, but rejected names a folder: {self.rejected}",
                hint="give --annotate or --rejected, not both",
            )
