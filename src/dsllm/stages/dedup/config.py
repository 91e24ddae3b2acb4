"""Settings of `dsllm dedup`."""

from dataclasses import dataclass
from typing import Literal

from dsllm.config import DocumentSettings, describe, parse_bytes, setting
from dsllm.errors import ConfigError

MIN_MEMORY_BYTES = 100_000_000
LEAST = ":least"
RECALL, BLOOM_ERROR = 0.995, 1e-5


@dataclass(frozen=True, kw_only=True)
class DedupConfig(DocumentSettings):
    """What counts as a duplicate, which copy stays, and how hard near duplicates are looked for.

    A word is what `text/scan.py` says: a CJK character, or a run of letters and digits of other scripts.
    """

    level: Literal["near", "exact"] = setting(
        "near", "Remove documents with the same words (exact), or also those with similar ones (near)."
    )
    threshold: float = setting(
        0.8,
        "Jaccard similarity of the shingle sets from which documents are near duplicates.",
        above=0,
        max=1,
    )
    keep: str = setting(
        "first",
        "Which of several duplicates stays: first, longest, or FIELD for the one with the greatest number or "
        "ISO 8601 date in that field (FIELD:least: the least). Of equals the first; without the field last.",
    )
    shingle_words: int = setting(5, "Length of a shingle.", unit="words", min=1, max=1000)
    fold_case: bool = setting(True, "Take upper and lower case as the same.")
    punctuation: bool = setting(False, "Take punctuation and symbols as words too.")
    n_hashes: int = setting(128, "Hash functions of a signature.", min=1, max=4096)
    recall: float = setting(
        RECALL,
        "Share of the pairs at the threshold that must be found; chooses bands and rows.",
        above=0,
        max=1,
    )
    n_bands: int | None = setting(None, "Bands of a signature, in place of --recall.", min=1)
    n_rows: int | None = setting(None, "Hashes in a band, in place of --recall.", min=1)
    seed: int = setting(1, "Seed of the hash functions.", min=0, max=2**32 - 1)
    memory: str = setting("2GB", "Memory to stay within, such as 500MB; the rest goes through files.")
    cut_spans: int | None = setting(
        None,
        "Cut out spans of at least this many words that occurred before, in any document.",
        min=2,
        max=1_000_000,
    )
    cut_lines: bool = setting(False, "Cut out lines that occurred before: all digits are the same.")
    cut_paragraphs: bool = setting(False, "Cut out paragraphs that occurred before, likewise.")
    estimate_error: bool = setting(
        True, "Estimate recall from pairs of documents that are compared exactly, beside the bands' theory."
    )
    removed: str | None = setting(
        None, "Folder for the removed documents, each with the one that stays and the similarity."
    )
    pairs: str | None = setting(
        None, "File for a line of JSON per removed document: it, the one that stays, and the similarity."
    )
    against: tuple[str, ...] = setting(
        (),
        "Index that an earlier run left: its documents come before all others and stay, whatever --keep "
        "says, and what is like them goes. --cut-... looks at this run's inputs alone. May be repeated.",
    )
    write_index: str | None = setting(
        None,
        "Folder for an index of the documents that stay, for --against in later runs: about 4 bytes a word "
        "and 650 a document.",
    )
    max_removed: float | None = setting(
        None,
        "Stop before anything is written when an input file of 100 documents or more loses a larger share.",
        min=0,
        max=1,
    )
    by: str | None = setting(
        None,
        "Field, such as dump: say what share goes when the first 1, 2, 3... dumps, in order of their names, "
        "are taken together, and what when each is cleaned alone.",
    )
    bloom: bool = setting(
        False,
        "One pass in little memory, for corpora whose signatures are too many: a document goes when a Bloom "
        "filter holds one of its bands, or its words, from one that stays. No texts are compared, so unlike "
        "documents go too, as often as the bands' curve says (--plan).",
    )
    bloom_documents: int | None = setting(
        None,
        "Documents that will stay, at most: --bloom makes its filters for so many. Not given, as many as the "
        "sizes of the inputs suggest; standard input needs it.",
        min=1,
    )
    bloom_error: float = setting(
        BLOOM_ERROR,
        "Probability that a document goes by chance, sharing no band, when the filters hold as many as they "
        "are made for.",
        above=0,
        max=0.5,
    )

    @property
    def asks_fields(self) -> bool:
        """Whether documents must say more than their text and id."""
        return self.keep_field[0] is not None or self.by is not None

    @property
    def keep_field(self) -> tuple[str | None, bool]:
        """The field that `keep` names, None where it names none, and whether the least value stays."""
        if self.keep in ("first", "longest"):
            return None, False
        return self.keep.removesuffix(LEAST), self.keep.endswith(LEAST)

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number."""
        return parse_bytes(self.memory, flag="--memory")

    @property
    def cuts_strings(self) -> bool:
        """Whether documents that stay may lose parts of their text."""
        return self.cut_spans is not None or self.cut_lines or self.cut_paragraphs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise ConfigError(f"memory is {self.memory}, less than 100MB", hint="try --memory 1GB")
        if self.keep in ("", LEAST) or self.by == "":
            raise ConfigError(
                f"keep is {self.keep!r}, by is {self.by!r}: a field without a name",
                hint="try --keep date, --keep rank:least or --by dump",
            )
        if self.by is not None and self.against:
            raise ConfigError(
                f"by is {self.by!r}, but against is {', '.join(self.against)}",
                hint="rates by dump are for one run over all dumps: give these as inputs, or leave out --by",
            )
        for name in ("removed", "write_index"):
            if getattr(self, name) in ("", "-"):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, not a folder",
                    hint=f"try --{name.replace('_', '-')} FOLDER",
                )
        if self.pairs in ("", "-"):
            raise ConfigError(f"pairs is {self.pairs!r}, not a file", hint="try --pairs pairs.jsonl")
        if (self.n_bands is None) != (self.n_rows is None):
            raise ConfigError(
                f"n_bands is {self.n_bands}, n_rows is {self.n_rows}",
                hint="give both --n-bands and --n-rows, or neither",
            )
        if self.n_bands and self.n_rows and self.n_bands * self.n_rows > self.n_hashes:
            raise ConfigError(
                f"{self.n_bands} bands of {self.n_rows} rows are more than n_hashes, {self.n_hashes}",
                hint=f"try --n-hashes {self.n_bands * self.n_rows}",
            )
        if self.n_bands and self.recall != RECALL:
            raise ConfigError(
                f"recall is {self.recall}, but n_bands is {self.n_bands}: both say what bands to take",
                hint="leave out --recall, or --n-bands and --n-rows",
            )
        self._check_level()
        self._check_bloom()

    def _check_level(self) -> None:
        """Refuse settings of near duplicates where none are looked for."""
        if self.level == "near":
            return
        defaults = {option.name: option.default for option in describe(DedupConfig)}
        for name in ("threshold", "shingle_words", "n_hashes", "recall", "n_bands", "n_rows"):
            if (value := getattr(self, name)) != defaults[name]:
                raise ConfigError(
                    f"{name} is {value}, but level is exact: documents with the same words go, no others",
                    hint=f"leave out --{name.replace('_', '-')}, or --level exact",
                )

    def _check_bloom(self) -> None:
        """Refuse settings that ask of one pass what it cannot know."""
        if not self.bloom:
            if self.bloom_documents is not None or self.bloom_error != BLOOM_ERROR:
                raise ConfigError(
                    f"bloom_documents is {self.bloom_documents}, bloom_error {self.bloom_error:g}, but bloom "
                    "is false",
                    hint="give --bloom too",
                )
            return
        cannot = {
            "keep": self.keep != "first" and "of several duplicates only the first can stay",
            "by": self.by is not None and "documents are judged once, all dumps together",
            "pairs": self.pairs is not None and "filters do not know which document is in them",
            "cut_spans": self.cut_spans is not None and "that takes a second pass",
            "cut_lines": self.cut_lines and "that takes a second pass",
            "cut_paragraphs": self.cut_paragraphs and "that takes a second pass",
            "against": bool(self.against) and "an index has no filters",
            "write_index": self.write_index is not None and "filters do not know what is in them",
            "max_removed": self.max_removed is not None and "lines are written before the share is known",
            "recall": self.recall != RECALL
            and "bands balance what they miss against what they take too much",
        }
        for name, reason in cannot.items():
            if reason:
                flag = "--" + name.replace("_", "-")
                instead = ", or choose bands with --n-bands and --n-rows" if name == "recall" else ""
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, which --bloom cannot heed: {reason}",
                    hint=f"leave out {flag}, or leave out --bloom{instead}",
                )
