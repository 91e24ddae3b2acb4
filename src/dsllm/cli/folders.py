"""`inspect`, `verify`, `trace`: what is this, is it whole, where is it from."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsllm.errors import InputError, ShardError
from dsllm.io.documents import Batch, parse_line
from dsllm.io.manifest import MANIFEST, PARTIAL, Manifest, read_manifest
from dsllm.io.provenance import check_is_here
from dsllm.io.sources import SUFFIXES, count_lines, find_sources, read_batches
from dsllm.progress import format_amount, format_cell

SAMPLE_CHARACTERS = 300


def inspect(path: str, *, document: int | None = None, is_json: bool = False) -> None:
    """Print what a file or folder is and holds; of a folder of tokens one document's text, if asked for."""
    if document is not None:
        facts = dict(_document_facts(path, document))
    else:
        facts = dict(_folder_facts(Path(path)) if Path(path).is_dir() else _file_facts(path))
    if is_json:
        sys.stdout.write(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
        return
    for line in _as_text(facts):
        sys.stdout.write(line + "\n")


def verify(paths: list[str]) -> None:
    """Check files and folders against their manifests; print a line for each.

    Raises:
        ShardError: something is missing, cut or changed.
    """
    faults = []
    for path in paths:
        check_is_here(path)
        found = list(_faults(Path(path)))
        faults += found
        state = "whole" if not found else _count_faults(found)
        sys.stdout.write(f"{path}: {state}\n")
        for fault in found:
            sys.stdout.write(f"  {fault}\n")
    if faults:
        raise ShardError(
            f"{_count_faults(faults)}, the first: {faults[0]}", hint="copy the files again, or remake them"
        )


def _faults(path: Path) -> Iterator[str]:
    if path.is_dir():
        manifest = read_manifest(path)
        yield from filter(None, (shard.fault(path) for shard in manifest.shards))
        return
    is_listed = False
    if (path.parent / MANIFEST).is_file():
        for shard in read_manifest(path.parent).shards:
            if shard.name == path.name:
                is_listed = True
                yield from filter(None, [shard.fault(path.parent)])
    if is_listed and not path.name.endswith(SUFFIXES):  # no documents: the manifest says all there is to say
        return
    try:
        for source in find_sources([str(path)]):
            for batch in read_batches(source):
                for number, line in _lines(batch):
                    if isinstance(reason := parse_line(line, None), str):
                        yield f"{path}, line {number:,}: {reason}"
    except ShardError as error:
        yield error.message


def _lines(batch: Batch) -> Iterator[tuple[int, bytes]]:
    """Give the lines that can be documents, and their numbers: blank ones are none."""
    for number, line in enumerate(batch.lines.split(b"\n"), start=batch.first_line):
        if line and not line.isspace():
            yield number, line


def _count_faults(faults: list[str]) -> str:
    return "1 fault" if len(faults) == 1 else f"{len(faults):,} faults"


def _folder_facts(folder: Path) -> Iterator[tuple[str, Any]]:
    yield "path", str(folder)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        yield "state", "complete"
        yield from _manifest_facts(manifest)
    elif (folder / PARTIAL).is_file():
        partial = Manifest.from_bytes((folder / PARTIAL).read_bytes(), folder / PARTIAL)
        yield "state", f"unfinished: {len(partial.shards)} files are done"
        yield "finish it with", partial.command
        yield from _manifest_facts(partial)
        return
    elif not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: neither a folder of dsllm nor a model", hint="give a folder that dsllm wrote"
        )
    yield from _model_facts(folder)
    yield from _token_facts(folder)
    first_lines = (_first_line(str(shard)) for shard in sorted(folder.glob("shard-*.jsonl*")))
    if first := next(filter(None, first_lines), None):
        yield "first document", first


def _manifest_facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    yield "stage", manifest.stage
    yield "command", manifest.command
    yield "made by", f"dsllm {manifest.version}"
    yield "inputs", [record.to_dict() for record in manifest.inputs]
    yield "content", manifest.content
    yield "counts", manifest.counts
    yield "files", {shard.name: format_amount(shard.n_bytes, "bytes") for shard in manifest.shards}


def _model_facts(folder: Path) -> Iterator[tuple[str, Any]]:
    if (folder / "config.json").is_file():
        from dsllm.model.hf import load_config

        config = load_config(folder)
        yield "model", {name: getattr(config, name) for name in config.__dataclass_fields__}


def _token_facts(folder: Path) -> Iterator[tuple[str, Any]]:
    if (folder / "shard-00000.bin").is_file() and "format" not in read_manifest(folder).content:
        from dsllm.text.tokenizer_files import decode_documents

        names = ("first document", "second document", "third document")
        for name, text in zip(names, decode_documents(folder, len(names)), strict=False):
            yield name, text[:SAMPLE_CHARACTERS]


def _document_facts(path: str, index: int) -> Iterator[tuple[str, Any]]:
    from dsllm.io.tokens import TokenFolder
    from dsllm.text.tokenizer_facts import TextDecoder

    tokens = TokenFolder(path)
    if index >= tokens.n_documents:
        raise InputError(
            f"{path}: document {index:,} of {tokens.n_documents:,}", hint="they are counted from 0"
        )
    ids = tokens.document(index).tolist()
    yield "document", index
    yield "tokens", len(ids)
    yield "text", TextDecoder.of_folder(path).decode(ids).decode(errors="replace")


def _first_line(path: str) -> str:
    for source in find_sources([path]):
        for batch in read_batches(source):
            for _, line in _lines(batch):
                return _shorten(line)
    return ""


def _shorten(line: bytes) -> str:
    return line.decode(errors="replace")[:SAMPLE_CHARACTERS]


def _file_facts(path: str) -> Iterator[tuple[str, Any]]:
    sources = find_sources([path])
    if len(sources) > 1:
        raise InputError(f"{path}: {len(sources):,} files", hint=f"give one, such as {sources[0].path}")
    source, first_line = sources[0], ""
    n_read = n_lines = n_bytes = n_text_bytes = 0
    fields: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for batch in read_batches(source):
        n_read, n_bytes = n_read + batch.n_read, n_bytes + len(batch.lines)
        n_lines += count_lines(batch.lines) + (not batch.lines.endswith(b"\n"))
        for _, line in _lines(batch):
            first_line = first_line or _shorten(line)
            parsed = parse_line(line, "text")
            if isinstance(parsed, str):
                faults[parsed] += 1
                continue
            n_text_bytes += len(parsed["text"].encode())
            fields.update(parsed.keys())
            by_source[str(parsed.get("source", "(none)"))] += 1
    yield "path", path
    yield "on disk", format_amount(source.n_bytes or n_read, "bytes")
    yield "sha256", source.stream_hash.hexdigest() if source.stream_hash else source.sha256
    yield "lines", n_lines
    yield "bytes", n_bytes
    yield "bytes of text", n_text_bytes
    yield "fields", dict(fields)
    yield "documents by source", dict(by_source)
    yield "not documents", dict(faults.most_common(10))
    yield "first line", first_line


def _as_text(facts: dict[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {key}: {_cell(part)}" for key, part in value.items())
        elif isinstance(value, list):
            yield f"{name}:"
            yield from (f"  {'  '.join(map(str, part.values()))}" for part in value)
        else:
            yield f"{name}: {_cell(value)}"


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else format_cell(value)
