"""Settings of `dsllm filter` about evaluation sets, personal data, addresses and what recurs."""

from dataclasses import dataclass
from typing import Literal

from dsllm.config import DocumentSettings, setting
from dsllm.errors import ConfigError
from dsllm.text.personal_patterns import KINDS


@dataclass(frozen=True, kw_only=True)
class CleaningSettings(DocumentSettings):
    """What `FilterConfig` has beside its rules and models."""

    decontaminate: tuple[str, ...] = setting(
        (), "Evaluation sets, files or folders of .jsonl, .json, .csv, .tsv: documents that hold items go."
    )
    decontaminate_fields: tuple[str, ...] = setting(
        (), "Fields of items to look for; without, those with the name of a question or a text."
    )
    decontaminate_words: int = setting(
        13,
        "Words in a row that a document must share with an item, one of them changed at most; CJK characters "
        "are words.",
        unit="words",
        min=4,
    )
    decontaminate_min_words: int = setting(
        8, "Shortest text of an item that is looked for; all of it must be there.", unit="words", min=2
    )
    decontaminate_min_share: float = setting(
        0.8, "Share of an item's text that must be in a document; 0: any such words in a row.", min=0, max=1
    )
    decontaminate_quote_words: int = setting(
        50, "Words in a row that are enough, whatever their share of the item.", unit="words", min=4
    )
    decontaminate_action: Literal["drop", "cut"] = setting(
        "drop", "What happens to items in documents: the document is dropped, or the words are cut out of it."
    )
    mask_personal: bool = setting(
        False, "Put placeholders in the place of personal data, and count them by kind."
    )
    personal_kinds: tuple[str, ...] = setting(KINDS, "Kinds of personal data to mask.")
    url_field: str = setting("url", "Field with the address of a document's page.")
    block_urls: tuple[str, ...] = setting(
        (),
        "Files with a domain, the beginning of addresses, or word:WORD a line: documents from there go.",
    )
    max_host_rejection: float | None = setting(
        None, "Share of a host's documents that may be rejected; of others all go (two passes).", min=0, max=1
    )
    min_host_documents: int = setting(10, "Documents that a host must have to be judged.", min=1)
    max_line_repeats: int | None = setting(
        None, "Documents in which a line may occur; lines that recur more often are cut (two passes).", min=1
    )
    min_line_words: int = setting(4, "Words of the shortest line that is counted.", unit="words", min=1)
    max_recurring_frac: float | None = setting(
        None, "Share of a text that may be in recurring lines; documents with more go.", min=0, max=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decontaminate_min_words > self.decontaminate_words:
            raise ConfigError(
                f"decontaminate_min_words is {self.decontaminate_min_words}, but decontaminate_words is "
                f"{self.decontaminate_words}",
                hint="the shortest item cannot be longer than what is looked for",
            )
        for kind in self.personal_kinds:
            if kind not in KINDS:
                raise ConfigError(f"personal_kinds: {kind!r}", hint=f"the kinds are {', '.join(KINDS)}")
        if self.max_recurring_frac is not None and self.max_line_repeats is None:
            raise ConfigError(
                f"max_recurring_frac is {self.max_recurring_frac}, but no line counts as recurring",
                hint="give --max-line-repeats N",
            )
