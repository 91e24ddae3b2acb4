"""Questions: the items of a task with their templates filled, ready to be put to a model.

The prompt is `description`, then each solved example as context, delimiter, answer, separator, then the
context of the item. As in lm-evaluation-harness the examples are the first ones of their file; an item that
is among them is passed over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsllm.errors import ConfigError, InputError
from dsllm.stages.eval.items import read_items
from dsllm.stages.eval.task import Task, TaskSettings
from dsllm.stages.eval.templates import evaluate, render


@dataclass(frozen=True)
class Question:
    """One item, rendered.

    `pairs` are (context, continuation): one per choice, one in all for the kinds continuation and generation
    (whose continuation is empty), none for documents. `choices` are the continuations without the delimiter:
    their lengths normalise. `right` is the index of the right one. `accepted` are the texts that a generation
    may equal.
    """

    index: int
    subject: str
    pairs: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()
    right: int = 0
    accepted: tuple[str, ...] = ()
    document: str = ""


def build_questions(task: Task, *, limit: int | None = None) -> list[Question]:
    """Read and render the items of a task, in the order of its files.

    Args:
        task: what is asked.
        limit: only the first items.

    Raises:
        ConfigError, InputError: a template that does not fit an item, which is named; no items at all.
    """
    shots = _Shots(task)
    questions: list[Question] = []
    for subject, path in task.data_files:
        for number, item in enumerate(_read(task, subject, path)):
            if limit is not None and len(questions) >= limit:
                return questions
            where = f"task {task.name}: {path}, item {number + 1:,}"
            questions.append(_build(task.settings, len(questions), item, shots.of(item), where))
    if not questions:
        paths = ", ".join(str(path) for _, path in task.data_files[:3])
        raise InputError(f"task {task.name}: no items in {paths}", hint="check the task's data")
    return questions


def _read(task: Task, subject: str, path: Path) -> list[dict[str, Any]]:
    items = read_items(path, columns=task.settings.columns, records=task.settings.records)
    return [{"subject": subject, **item} for item in items]


class _Shots:
    """The solved examples of each subject, rendered once."""

    def __init__(self, task: Task) -> None:
        self._settings = task.settings
        self._by_subject: dict[str, list[tuple[dict[str, Any], str]]] = {}
        for subject, path in task.shot_files:
            known = self._by_subject.setdefault(subject, [])
            for number, item in enumerate(_read(task, subject, path)):
                if len(known) > task.settings.n_shots:  # one more, to stand in for the item itself
                    break
                where = f"task {task.name}: {path}, item {number + 1:,}"
                known.append((item, _shot_text(task.settings, item, where)))

    def of(self, item: dict[str, Any]) -> str:
        if not self._settings.n_shots:
            return ""
        known = self._by_subject.get(item["subject"], self._by_subject.get("", []))
        texts = [text for shot, text in known if shot != item]
        return "".join(texts[: self._settings.n_shots])


def _build(settings: TaskSettings, index: int, item: dict[str, Any], shots: str, where: str) -> Question:
    subject = str(item["subject"])
    if settings.kind == "documents":
        return Question(index, subject, document=str(evaluate(settings.text, item, where=where)))
    before = render(settings.description, item, where=where) + shots
    if settings.kind == "generation":
        accepted = _texts(evaluate(settings.answer, item, where=where), where)
        context = before + render(settings.context, item, where=where)
        return Question(index, subject, ((context, ""),), accepted=accepted)
    if settings.kind == "continuation":
        choices, right = _texts(evaluate(settings.answer, item, where=where), where)[:1], 0
    else:
        choices, right = _choices_and_right(settings, item, where)
    pairs, texts = [], []
    for choice in choices:
        values = {**item, "choice": choice}
        context = before + render(settings.context, values, where=where)
        continuation = render(settings.continuation, values, where=where)
        if not continuation:
            raise InputError(f"{where}: an empty answer has no likelihood", hint="mend the item")
        pairs.append((context, settings.delimiter + continuation))
        texts.append(continuation)
    return Question(index, subject, tuple(pairs), tuple(texts), right)


def _shot_text(settings: TaskSettings, item: dict[str, Any], where: str) -> str:
    """Render a solved example: context, delimiter, answer, separator."""
    if settings.kind == "documents":
        raise ConfigError(
            f"{where}: documents have no solved examples", hint="give no --n-shots for this task"
        )
    if settings.shot_answer is not None:
        answer = str(evaluate(settings.shot_answer, item, where=where))
        values = item
    elif settings.kind == "choice":
        choices, right = _choices_and_right(settings, item, where)
        values = {**item, "choice": choices[right]}
        answer = render(settings.continuation, values, where=where)
    else:
        answer = _texts(evaluate(settings.answer, item, where=where), where)[0]
        values = {**item, "choice": answer}
    return (
        render(settings.context, values, where=where) + settings.delimiter + answer + settings.shot_separator
    )


def _choices_and_right(
    settings: TaskSettings, item: dict[str, Any], where: str
) -> tuple[tuple[str, ...], int]:
    choices = evaluate(settings.choices, item, where=where)
    if not isinstance(choices, list | tuple) or not choices:
        raise InputError(
            f"{where}: the choices are {choices!r}, no list", hint="check the key `choices` of the task"
        )
    texts = tuple(str(choice) for choice in choices)
    return texts, right_index(evaluate(settings.answer, item, where=where), texts, where)


def right_index(answer: Any, choices: Sequence[str], where: str) -> int:
    """Tell which choice an answer means: by index, by its text, or by its letter.

    Raises:
        InputError: none of them.
    """
    index: int | None = None
    if isinstance(answer, int):  # True and False among them: the second and the first
        index = int(answer)
    elif isinstance(answer, str):
        stripped = answer.strip()
        if answer in choices:
            index = choices.index(answer)
        elif stripped.isdecimal():
            index = int(stripped)
        elif len(stripped) == 1 and stripped.isascii() and stripped.isalpha():
            index = ord(stripped.upper()) - ord("A")
    if index is None or not 0 <= index < len(choices):
        raise InputError(
            f"{where}: the answer is {answer!r}, and there are {len(choices)} choices",
            hint="an answer is an index from 0, a letter from A, or the choice's own text",
        )
    return index


def _texts(answer: Any, where: str) -> tuple[str, ...]:
    texts = tuple(map(str, answer)) if isinstance(answer, list | tuple) else (str(answer),)
    if not texts:
        raise InputError(f"{where}: no answer is given", hint="mend the item")
    return texts
