"""Tasks: what is asked, read from TOML.

A task file has the keys of `TaskSettings` and, for generation, any number of `[[extract]]` tables. The
built-in ones lie in `builtin/`. A data file without one is taken by its fields: `choices` makes multiple
choice, `text` bits per byte, and a `prompt` or `question` with an `answer` generation.

Keys whose value is a *template* are Jinja text (`Question: {{ question }}`); those whose value is an
*expression* are Jinja without the braces (`choices.label.index(answerKey)`), and may give lists and numbers.
"""

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from dsllm.config import Settings, setting
from dsllm.errors import ConfigError, InputError
from dsllm.stages.eval.config import split_task

TASK_FILE = "task.toml"


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """One task, as its TOML file says it."""

    kind: Literal["choice", "continuation", "generation", "documents"] = setting(
        help="choice: the likeliest of some answers. continuation: how likely is the one answer. "
        "generation: text compared with the answer. documents: bits per byte."
    )
    data: str = setting(
        "*.jsonl", "Files with the items, in the task's folder; {subject} stands for any name."
    )
    shots_from: str | None = setting(None, "Files with the solved examples, by {subject} too.")
    n_shots: int = setting(0, "Solved examples before each question: the first ones of their file.", min=0)
    records: str | None = setting(None, "For .json: the key under which the list of items stands.")
    columns: tuple[str, ...] = setting((), "For .csv without a heading: the columns' names.")
    description: str = setting("", "Template: what stands before everything.")
    context: str = setting("", "Template: the question. With `choice` in it, it differs by choice.")
    choices: str = setting("choices", "Expression: the list of answers to choose from.")
    continuation: str = setting(
        "{{ choice }}", "Template: what is scored after the context, for each choice."
    )
    answer: str = setting(
        "answer",
        "Expression: the right choice (index, letter or text), or the text, or list of texts, expected.",
    )
    shot_answer: str | None = setting(None, "Expression: the answer as solved examples show it.")
    text: str = setting("text", "Expression: the document whose bits per byte are counted.")
    delimiter: str = setting(" ", "What stands between context and answer.")
    shot_separator: str = setting("\n\n", "What stands after each solved example.")
    normalise: Literal["none", "characters", "bytes", "tokens", "unconditional"] = setting(
        "none",
        "What a choice's log-likelihood is divided by, or (unconditional) compared with, for the score.",
    )
    unconditional_context: str = setting(
        "", "The context of the unconditional log-likelihood; empty: BOS alone."
    )
    stop: tuple[str, ...] = setting((), "Texts that end a generation.")
    max_new_tokens: int = setting(256, "Longest generation.", unit="tokens", min=1)
    ignore: tuple[str, ...] = setting(
        (), "Patterns that are removed from both sides before they are compared."
    )
    ignore_case: bool = setting(False, "Compare without regard to case.")


@dataclass(frozen=True, kw_only=True)
class Extraction(Settings):
    """How the answer is found in a generation; the first table of a task gives its score."""

    name: str = setting(help="Name in the results.")
    pattern: str = setting(
        help="Regular expression; of its groups the first that is not empty is the answer."
    )
    pick: Literal["first", "last"] = setting("first", "Which of several matches.")


@dataclass(frozen=True)
class Task:
    """A task that is ready to be asked: its settings and the files it reads.

    `data_files` and `shot_files` are (subject, path): a question is shown the examples of its own subject.
    """

    name: str
    settings: TaskSettings
    extractions: tuple[Extraction, ...]
    data_files: tuple[tuple[str, Path], ...]
    shot_files: tuple[tuple[str, Path], ...]
    definition: Path | None

    @property
    def files(self) -> list[Path]:
        """All that it reads, but for what comes with the program."""
        named = [] if self.definition is None else [self.definition]
        return named + [path for _, path in (*self.data_files, *self.shot_files)]


def builtin_names() -> list[str]:
    """List the built-in tasks."""
    folder = resources.files("dsllm.stages.eval") / "builtin"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def find_task(given: str, *, n_shots: int | None = None) -> Task:
    """Make the task that `--task NAME[=PATH]` means.

    Args:
        given: the flag's value.
        n_shots: replaces the task's own number of solved examples.

    Raises:
        ConfigError: no such task, or a wrong task file.
        InputError: the data is not there.
    """
    name, path_given = split_task(given)
    if path_given is None:
        known = ", ".join(builtin_names())
        raise ConfigError(
            f"task {name!r}: no path to its data",
            hint=f"nothing is downloaded: give --task {name}=PATH; built-in formats: {known}",
        )
    path = Path(path_given)
    if not path.exists():
        raise InputError(
            f"task {name}: {path}: no such file or folder", hint="give the folder or file of the task's data"
        )
    folder = path if path.is_dir() else path.parent
    definition: Path | None = path if path.suffix == ".toml" else folder / TASK_FILE
    if definition is not None and definition.exists():
        values = _read_toml(definition.read_bytes(), str(definition))
    else:
        values, definition = _builtin_definition(name) or _guess_definition(name, path), None
    extractions = _extractions(values.pop("extract", []), f"task {name}")
    settings = TaskSettings.build(values, where=f"task {name}")
    if n_shots is not None and settings.kind != "documents":
        settings = replace(settings, n_shots=n_shots)
    if path.is_file() and path.suffix != ".toml":
        data_files: tuple[tuple[str, Path], ...] = ((_subject(path.name, settings.data), path),)
    else:
        data_files = _match(folder, settings.data)
    if not data_files:
        raise InputError(
            f"task {name}: {folder}: no file {settings.data}",
            hint="give the folder that holds it, or the file itself",
        )
    shot_files = _shot_files(name, folder, settings, data_files)
    return Task(name, settings, extractions, data_files, shot_files, definition)


def _builtin_definition(name: str) -> dict[str, Any] | None:
    if name not in builtin_names():
        return None
    resource = resources.files("dsllm.stages.eval") / "builtin" / f"{name}.toml"
    return _read_toml(resource.read_bytes(), f"{name}.toml")


def _read_toml(data: bytes, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:
        raise ConfigError(f"{where}: not TOML: {error}", hint="mend the file at that place") from None


def _guess_definition(name: str, path: Path) -> dict[str, Any]:
    """Tell the kind of a plain data file by the fields of its first record."""
    from dsllm.stages.eval.items import read_items

    files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
    if not files:
        raise InputError(
            f"task {name}: {path}: neither {TASK_FILE} nor *.jsonl in it",
            hint=f"give a file, write a {TASK_FILE}, or use a built-in name: {', '.join(builtin_names())}",
        )
    first = next(iter(read_items(files[0])), {})
    question = next((key for key in ("context", "prompt", "question", "query") if key in first), None)
    answer = next((key for key in ("answer", "gold", "label", "response") if key in first), None)
    if question and answer and "choices" in first:
        return {"kind": "choice", "context": f"{{{{ {question} }}}}", "answer": answer}
    if question and answer:
        return {"kind": "generation", "context": f"{{{{ {question} }}}}", "answer": answer}
    if "text" in first:
        return {"kind": "documents"}
    raise InputError(
        f"task {name}: {files[0]}: cannot tell what to ask from the fields {', '.join(first) or '(none)'}",
        hint=f"understood are question, choices, answer; prompt, answer; text; others need a {TASK_FILE}",
    )


def _extractions(tables: Any, where: str) -> tuple[Extraction, ...]:
    if not isinstance(tables, list):
        raise ConfigError(
            f"{where}: extract is {tables!r}, no list of tables", hint="write it as [[extract]]"
        )
    return tuple(Extraction.build(table, where=f"{where}, extract") for table in tables)


def _shot_files(
    name: str, folder: Path, settings: TaskSettings, data_files: tuple[tuple[str, Path], ...]
) -> tuple[tuple[str, Path], ...]:
    """Find the solved examples; without a file of their own they come from the items themselves."""
    if not settings.n_shots:
        return ()
    if settings.shots_from is None:
        return data_files
    found = _match(folder, settings.shots_from)
    missing = sorted({subject for subject, _ in data_files} - {subject for subject, _ in found})
    if "{subject}" not in settings.shots_from:
        missing = [] if found else [""]
    if missing:
        wanted = settings.shots_from.replace("{subject}", missing[0])
        raise InputError(
            f"task {name}: {folder / wanted}: no solved examples there, and {settings.n_shots} are asked for",
            hint="put the file there, or ask without examples: --n-shots 0",
        )
    return found


def _match(folder: Path, pattern: str) -> tuple[tuple[str, Path], ...]:
    """List (subject, path) of the files behind a pattern, in sorted order."""
    paths = sorted(folder.glob(pattern.replace("{subject}", "*")))
    return tuple((_subject(path.name, pattern), path) for path in paths)


def _subject(name: str, pattern: str) -> str:
    """Read the subject off a file's name; empty where the pattern has none or does not fit."""
    before, mark, after = pattern.rsplit("/", 1)[-1].partition("{subject}")
    if not mark or not name.startswith(before) or not name.endswith(after):
        return ""
    return name[len(before) : len(name) - len(after)]
