"""The items of evaluation sets, of whatever form: every string in an item is a text to look for.

A record is an item: a line of JSON Lines, an element of a list in .json (or of the one list in its object), a
row of .csv or .tsv. Its strings count each for itself, however deep they lie, since a document may have the
question without the choices or in another order.

Which strings: those with the name of a question, or without any name (in lists); where an item has none of
these, all but those with the name of an answer, a choice or a label, which much clean text has too. In a
table without such a name in its first row it is the first column with more than one word. Strings without
white space that hold no CJK word (addresses, ids) are no texts.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from dsllm.errors import DocumentError, InputError
from dsllm.io.compression import codec_of_name, decompress
from dsllm.text.scan import CJK, character_classes

PACKED = ("", ".gz", ".zst")
SUFFIXES = tuple(f"{name}{packed}" for name in (".jsonl", ".json", ".csv", ".tsv") for packed in PACKED)
_KNOWN = ".jsonl, .json, .csv and .tsv are read, each also .gz and .zst"
_MAX_CELL = 1 << 24
# Names of fields, in small letters, without digits at their end.
_QUESTIONS = (
    "question query prompt context ctx passage paragraph article text sentence premise hypothesis problem "
    "input content goal stem question_stem instruction instructions translation turns story background "
    "document statement utterance 题目 问题 题干 文章"
)
_ANSWERS = (
    "answer answers choice choices option options candidates endings ending label labels gold target targets "
    "solution solutions response responses completion output outputs continuation explanation explanations "
    "rationale reference chain_of_thought aliases a b c d e id idx index key type category subject source "
    "url title level split metadata canary sol 答案 选项 解析"
)
_IS_QUESTION, _IS_ANSWER = frozenset(_QUESTIONS.split()), frozenset(_ANSWERS.split())
# What stands around a question that is written out as a prompt.
_LABELS = re.compile(
    r"^\s*(?:Question|Q|Problem|Passage|Context|问题|题目|问)\s*[:：]"
    r"|(?:Answer|A|Solution|Response|答案|答|解)\s*[:：]\s*$"
)


@dataclass(frozen=True, slots=True)
class ItemText:
    """A string of an item: the file (under the folder that was given), the item's number there, its field."""

    file: str
    number: int  # counted from 1
    field: str
    text: str

    @property
    def place(self) -> str:
        """Name it: `mmlu/anatomy.csv:12 question`."""
        return f"{self.file}:{self.number} {self.field}".rstrip()


def read_benchmarks(paths: Sequence[str], fields: Sequence[str] = ()) -> Iterator[ItemText]:
    """Read the strings of all items of files and folders; of `fields` only, where they are given.

    Raises:
        InputError: nothing there, or a suffix that is not understood.
        DocumentError: a file that is not what its suffix says.
    """
    for given in paths:
        for path, name in benchmark_files(given):
            for number, item in enumerate(_read_items(path), start=1):
                for field, text in _texts(item, fields):
                    yield ItemText(name, number, field, text)


def benchmark_files(given: str) -> list[tuple[Path, str]]:
    """List the files behind a path, in order, each with the name that it goes by.

    Raises:
        InputError: no such file, or nothing to read in a folder.
    """
    path = Path(given)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not found:
            raise InputError(f"{given}: no evaluation set in this folder", hint=_KNOWN)
        return [(file, str(Path(path.name) / file.relative_to(path))) for file in found]
    if not path.is_file():
        raise InputError(f"{given}: no such file or folder", hint="give --decontaminate evaluation sets")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{given}: unknown suffix", hint=_KNOWN)
    return [(path, path.name)]


def _read_items(path: Path) -> Iterable[Any]:
    with path.open("rb") as file:
        data = b"".join(block for block, _ in decompress(file, codec_of_name(path.name), str(path)))
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".csv", ".tsv")):
        return _read_table(data, path, "\t" if name.endswith(".tsv") else ",")
    if name.endswith(".json"):
        try:
            return _list_in(orjson.loads(data))
        except orjson.JSONDecodeError:
            pass  # perhaps JSON Lines under the other name
    return _read_lines(data, path)


def _read_lines(data: bytes, path: Path) -> Iterator[Any]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line and not line.isspace():
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DocumentError(f"{path}, line {number:,}: not JSON: {error.msg}", hint=_KNOWN) from None


def _list_in(content: Any) -> list[Any]:
    """Take the list of items: the content itself, or the longest list in an object; or the one item."""
    if isinstance(content, list):
        return content
    lists = (
        [value for value in content.values() if isinstance(value, list)] if isinstance(content, dict) else []
    )
    longest = max(lists, key=len, default=[])
    if not longest or not isinstance(longest[0], dict | list):
        return [content]
    rest = {key: value for key, value in content.items() if value is not longest}
    return [*longest, rest]


def _read_table(data: bytes, path: Path, delimiter: str) -> Iterator[dict[str, str]]:
    """Give each row by the names of the columns, or its first cell with more than one word."""
    try:
        text = data.decode("utf-8-sig")
        csv.field_size_limit(_MAX_CELL)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DocumentError(f"{path}: no table in UTF-8: {error}", hint=_KNOWN) from None
    names = [cell.strip() for cell in rows[0]] if rows else []
    if _IS_QUESTION.intersection(map(_plain, names)):
        for row in rows[1:]:
            yield dict(zip(names, row, strict=False))
    else:
        for row in rows:
            yield {"": next(filter(_is_text, row), "")}


def _texts(item: Any, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Choose among the strings of an item: (where, text)."""
    found = [(names, text) for names, text in _strings(item) if _is_text(text)]
    if fields:
        chosen = [(names, text) for names, text in found if set(names) & set(fields)]
    else:
        found = [(names, text) for names, text in found if not _IS_ANSWER.intersection(map(_plain, names))]
        chosen = [(names, text) for names, text in found if _plain(_last_name(names)) in {"", *_IS_QUESTION}]
        chosen = chosen or found
    for names, text in chosen:
        yield ".".join(filter(None, names)), _LABELS.sub("", text)


def _strings(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the strings in a value and the names and numbers that lead to them."""
    if isinstance(value, str):
        yield names, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, (*names, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, (*names, str(number)))


def _last_name(names: tuple[str, ...]) -> str:
    return next((name for name in reversed(names) if not name.isdigit()), "")


def _plain(name: str) -> str:
    return name.lower().rstrip("0123456789_ ")


def _is_text(text: str) -> bool:
    if len(text.split(None, 1)) > 1:
        return True
    classes = character_classes()
    return any(character > "\u2fff" and classes[ord(character)] == CJK for character in text)
