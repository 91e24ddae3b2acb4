"""Collect the text that any Python installation has, as three sources of documents.

    python examples/collect_corpus.py demo/raw --max-bytes 4000000 --heldout-bytes 30000

Reads the standard library and the installed packages of the Python that runs it and writes `code.jsonl`
(modules), `documentation.jsonl` (the docstrings of a module as one document, and the language reference of
`help()`) and `prose.jsonl` (READMEs, package descriptions, licences, .rst, .md and .txt files), a small part
of each in the folder `heldout`, then `summary.json` last. Nothing is downloaded. Copies stay: vendored
packages and licences are what `dsllm dedup` is for.

Files are taken in the order of a hash of their last two path components, until enough text is there: the
choice does not depend on how the file system lists them, and the copies of a file come together. Those with
the smallest hashes are the part that is held out: of no file is a copy, or the docstrings, among the rest.
"""

import argparse
import ast
import email
import hashlib
import importlib.metadata
import itertools
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}
PROSE_SUFFIXES = {".rst", ".md", ".txt"}
PROSE_NAMES = ("license", "licence", "copying", "notice", "readme", "authors", "changelog")
NO_PROSE = {"top_level.txt", "entry_points.txt", "dependency_links.txt", "requires.txt", "sources.txt"}
HELP_TOPICS = "pydoc_data/topics.py"
HELD_OUT_FRAC = 0.02
MIN_BYTES, MAX_BYTES = 200, 50_000  # of one document: below is no text, above is mostly generated tables


@dataclass(frozen=True, order=True)
class Found:
    """One file of a tree: the first ones by `key` are a random choice, always the same, with their copies."""

    key: str
    path: str  # within its tree, with slashes
    root: Path

    @property
    def is_held_out(self) -> bool:
        """Whether it and its copies are for validation."""
        return int(self.key[:8], 16) < HELD_OUT_FRAC * 2**32


@dataclass(frozen=True)
class Package:
    """What is known about the package that a file belongs to."""

    name: str
    licence: str | None


PYTHON = Package("python", "PSF-2.0")


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect the documents that the command line asks for."""
    options = _parse(arguments)
    roots = [Path(root) for root in options.root] or installed_roots()
    packages = dict(item for root in roots for item in packages_of(root).items())
    files = sorted(found for root in roots for found in find_files(root))
    if not files:
        print(f"collect_corpus: no files under {', '.join(map(str, roots))}", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    summary = {}
    for source in SOURCES:
        for name, is_held_out, max_bytes in (
            (source, False, options.max_bytes),
            (f"heldout/{source}", True, options.heldout_bytes),
        ):
            part = (found for found in files if found.is_held_out == is_held_out)
            documents = read_documents(part, source, packages)
            counts = write_documents(options.output / f"{name}.jsonl", take(documents, max_bytes))
            print(f"{name}: {counts['n_documents']:,} documents, {counts['n_bytes']:,} bytes of text")
            summary[name] = counts
    summary_path = options.output / "summary.json"
    partial = summary_path.with_name(".summary.json.partial")
    partial.write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    partial.replace(summary_path)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Collect text of this Python installation as documents: code, documentation and prose.",
        epilog="Result: OUT/SOURCE.jsonl and OUT/heldout/SOURCE.jsonl for each, and OUT/summary.json last.",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write to; it is made if missing")
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=4_000_000,
        metavar="N",
        help="bytes of text to take of each source, about (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout-bytes",
        type=int,
        default=30_000,
        metavar="N",
        help="bytes of text of each source that are held out (default: %(default)s)",
    )
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="DIR",
        help="tree to read instead of this installation's own; can be given several times",
    )
    options = parser.parse_args(arguments)
    for flag, value, least in (
        ("--max-bytes", options.max_bytes, 1),
        ("--heldout-bytes", options.heldout_bytes, 0),
    ):
        if value < least:
            parser.error(f"{flag} is {value}; give a number from {least} on")
    for root in options.root:
        if not Path(root).is_dir():
            parser.error(f"--root {root}: no such folder")
    return options


def installed_roots() -> list[Path]:
    """The standard library and the package folders of the running Python, each once."""
    names = ("stdlib", "purelib", "platlib")
    return list(dict.fromkeys(Path(sysconfig.get_path(name)).resolve() for name in names))


def find_files(root: Path) -> Iterator[Found]:
    """List the files of a tree that may hold text; package folders inside it are trees of their own."""
    for folder, names, file_names in os.walk(root):
        names[:] = [name for name in names if name not in SKIPPED_FOLDERS]
        for name in file_names:
            path = (Path(folder) / name).relative_to(root).as_posix()
            if is_code(path) or is_prose(path):
                copies = "/".join(path.split("/")[-2:])
                yield Found(hashlib.sha256(copies.encode()).hexdigest(), path, root)


def is_code(path: str) -> bool:
    """Whether it is a Python module."""
    return path.endswith(".py")


def is_prose(path: str) -> bool:
    """Whether it is a README, a package's METADATA, a licence or another text in words."""
    name = path.rsplit("/", 1)[-1].lower()
    suffix = Path(name).suffix
    if name == "metadata":
        return ".dist-info/" in path
    has_known_name = name.startswith(PROSE_NAMES) and suffix in ("", *PROSE_SUFFIXES)
    return name not in NO_PROSE and (suffix in PROSE_SUFFIXES or has_known_name)


def packages_of(root: Path) -> dict[str, Package]:
    """Say of each folder or module at the top of a package tree to which package it belongs."""
    owners = {}
    for distribution in importlib.metadata.distributions(path=[str(root)]):
        fields = distribution.metadata
        licence = next((fields[key] for key in ("License-Expression", "License") if key in fields), None)
        if licence and ("\n" in licence or len(licence) > 80):
            licence = None  # the whole text of the licence, which is among the prose
        package = Package(fields["Name"], licence)
        for file in distribution.files or []:
            owners[file.parts[0]] = package
    return owners


def read_documents(
    files: Iterable[Found], source: str, packages: dict[str, Package]
) -> Iterator[list[dict[str, str]]]:
    """Read the documents of one source, in the order of the files; copies come together in one list."""
    for _, copies in itertools.groupby(files, key=lambda found: found.key):
        documents = []
        for found in copies:
            package = packages.get(found.path.split("/")[0], PYTHON)
            about = {"path": found.path, "package": package.name}
            if package.licence:
                about["licence"] = package.licence
            for name, text in SOURCES[source](found):
                if MIN_BYTES <= len(text.encode()) <= MAX_BYTES:
                    documents.append({"id": f"{source}/{name}", "source": source, "text": text, **about})
        if documents:
            yield documents


def take(groups: Iterator[list[dict[str, str]]], max_bytes: int) -> Iterator[dict[str, str]]:
    """Take whole groups of documents off the iterator until there are `max_bytes` bytes of text."""
    n_bytes = 0
    while n_bytes < max_bytes and (documents := next(groups, None)) is not None:
        n_bytes += sum(len(document["text"].encode()) for document in documents)
        yield from documents


def read_code(found: Found) -> Iterator[tuple[str, str]]:
    """The source of a module."""
    if is_code(found.path):
        yield from ((found.path, text) for text in _read(found))


def read_documentation(found: Found) -> Iterator[tuple[str, str]]:
    """The docstrings of a module, each under the name of what it documents; a topic of `help()`."""
    for path, text in read_code(found):
        try:
            with warnings.catch_warnings(action="ignore"):  # about escapes in other people's strings
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):  # test data, templates, other Pythons
            continue
        if path == HELP_TOPICS:
            yield from ((f"{path}/{topic}", words) for topic, words in _help_topics(tree))
        else:
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield path, "\n\n".join(_docstrings(tree, module))


def read_prose(found: Found) -> Iterator[tuple[str, str]]:
    """A text file, or the description in a package's METADATA."""
    if not is_prose(found.path):
        return
    for text in _read(found):
        is_metadata = found.path.endswith("/METADATA")
        yield found.path, _description(text) if is_metadata else text


SOURCES: dict[str, Callable[[Found], Iterator[tuple[str, str]]]] = {
    "code": read_code,
    "documentation": read_documentation,
    "prose": read_prose,
}


def write_documents(path: Path, documents: Iterable[dict[str, str]]) -> dict[str, int]:
    """Write JSON Lines under a temporary name, then rename; return the counts."""
    n_documents = n_bytes = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        for document in documents:
            file.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
            n_documents += 1
            n_bytes += len(document["text"].encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return {"n_documents": n_documents, "n_bytes": n_bytes}


def _read(found: Found) -> list[str]:
    """The file's text; nothing where it cannot be read or is no UTF-8 text."""
    try:
        text = (found.root / found.path).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return []
    return [] if "\0" in text else [text]


def _description(metadata: str) -> str:
    """The long description of a package: what follows the fields of its METADATA."""
    return str(email.message_from_string(metadata).get_payload()).strip()


def _docstrings(tree: ast.AST, name: str) -> Iterator[str]:
    """Walk a module from top to bottom and yield name and docstring of all that has one."""
    if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(tree)
        if docstring:
            yield f"{name}\n\n{docstring}"
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def _help_topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The chapters of the language reference that `help()` shows: the dict of strings in pydoc_data."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            yield from ast.literal_eval(statement.value).items()


if __name__ == "__main__":
    sys.exit(main())
