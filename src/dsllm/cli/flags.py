"""Settings dataclass -> flags: every stage's command gets its options from its configuration class.

Precedence: a flag, then the `--config` file, then the default. `--help` shows each option's help, unit, range
and default as `setting()` has them.
"""

import dataclasses
import functools
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dsllm.config import DocumentSettings, RunOptions, Setting, Settings, describe, read_config_file
from dsllm.errors import ConfigError

_PANEL = "How it runs"
_PYTHON_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "strs": list[str]}

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Files, folders, globs, URLs, or - for standard input."),
]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="Folder to write, or - for stdout.")
]
OutputFolder = Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")]
Tokens = Annotated[str, typer.Argument(metavar="TOKENS", help="Folder that tokenize encode wrote.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder with a Llama model.")]


@dataclass(frozen=True)
class RunFlags:
    """What the common flags say, besides `RunOptions`."""

    options: RunOptions
    is_plan: bool
    is_json: bool


Command = Callable[..., None]


def flags_from(config_class: str, stage: str, *, is_stage: bool = True) -> Callable[[Command], Command]:
    """Replace the parameters `config` and `run` of a command by flags.

    `config` becomes one flag per setting of the class, named as `module:Class`; `run` the flags that every
    stage has, or, for a command that writes no folder, the few that make sense there.
    """
    return lambda command: _WithFlags(command, config_class, stage, is_stage)


class _WithFlags:
    """A command that takes flags; the class of its settings is imported when somebody asks for them."""

    def __init__(self, command: Command, config_class: str, stage: str, is_stage: bool) -> None:
        self.__name__, self.__doc__ = command.__name__, command.__doc__
        self._command, self._class_name = command, config_class
        self._stage, self._is_stage = stage, is_stage

    def __call__(self, **arguments: Any) -> None:
        path = arguments.pop("config_file")
        settings = describe(self._config_class)
        flags = {option.name: arguments.pop(option.name) for option in settings}
        flags |= {name: False for name in flags if arguments.pop(_off(name), None)}
        run = _pop_run_flags(arguments)
        if arguments.get("output") == "":
            raise ConfigError("-o is '', no name", hint="check the command: a variable may be empty")
        if arguments.get("output") == "-" and not self._writes_stdout:
            raise ConfigError("-o - is standard output, but this writes a folder", hint="give a folder to -o")
        values = read_config_file(Path(path), self._stage) if path else {}
        where = path or f"dsllm {self._stage}"
        given = {name: value for name, value in flags.items() if value not in (None, [])}
        config = self._config_class.build({**values, **_split_lists(settings, given)}, where=where)
        _check_heeded(config, run.options, arguments.get("output"))
        self._command(**arguments, config=config, run=run)

    @functools.cached_property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self._command).parameters
        parameters = [own[name] for name in own if name not in ("config", "run")]
        options = [flag for option in describe(self._config_class) for flag in _parameters(option)]
        options += _common_parameters(self._config_class, self._is_stage)
        parameters += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
        return inspect.Signature(parameters)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: flag.annotation for name, flag in self.__signature__.parameters.items()}

    @functools.cached_property
    def _config_class(self) -> type[Settings]:
        found: type[Settings] = pkgutil.resolve_name(self._class_name)
        return found

    @property
    def _writes_stdout(self) -> bool:
        output = inspect.signature(self._command).parameters.get("output")
        return output is None or output.annotation != OutputFolder


def _check_heeded(config: Settings, options: RunOptions, output: str | None) -> None:
    """Refuse flags that would change nothing.

    Raises:
        ConfigError: there is one.
    """
    if options.ray_address is not None and options.engine != "ray":
        raise ConfigError(
            f"--ray-address is {options.ray_address}, but --engine is {options.engine}",
            hint="give --engine ray too, or leave out --ray-address",
        )
    if options.skipped is not None and (output != "-" or getattr(config, "on_error", "") != "skip"):
        raise ConfigError(
            f"--skipped is {options.skipped}, but it takes the lines of --on-error skip where -o is -",
            hint="leave out --skipped: a folder has such lines in skipped/"
            if output != "-"
            else "give --on-error skip too",
        )
    shape = getattr(config, "format", None)
    if output == "-" and shape in ("parquet", "jsonl.gz"):
        raise ConfigError(
            f"format is {shape}, but lines to standard output are plain",
            hint="leave out --format, or give a folder to -o",
        )


def _split_lists(settings: list[Setting], given: dict[str, Any]) -> dict[str, Any]:
    """A list is given as `a,b`, or by repeating the flag."""
    lists = {option.name for option in settings if option.kind == "strs"}
    return {
        name: tuple(word for part in value for word in part.split(",") if word) if name in lists else value
        for name, value in given.items()
    }


def _off(name: str) -> str:
    return f"no_{name}"


def _parameters(option: Setting) -> list[inspect.Parameter]:
    """Make the flag of a setting, and for one that is off unless asked for a hidden one that says so.

    The help would show `--no-...` in a column of its own, and cut long names for it on a narrow terminal.
    """
    help_text = option.help.rstrip(".")
    notes = [text for text in (option.unit, option.range) if text]
    if option.default is dataclasses.MISSING:
        notes.append("required")
    elif option.default not in (None, (), ""):
        default = ", ".join(option.default) if isinstance(option.default, tuple) else option.default
        notes.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
    if option.choices:
        notes.insert(0, " | ".join(option.choices))
    text = f"{help_text} [{'; '.join(notes)}]." if notes else f"{help_text}."
    no_flag = f"--no-{option.flag[2:]}"
    is_off = option.kind == "bool" and option.default is False
    flag = f"{option.flag}/{no_flag}" if option.kind == "bool" and not is_off else option.flag
    value_type: Any = _PYTHON_TYPES[option.kind]
    metavar = "<list>" if option.kind == "strs" else None
    help_text = text.replace("[", r"\[")
    flags = {option.name: typer.Option(flag, help=help_text, metavar=metavar, show_default=False)}
    if is_off:
        flags[_off(option.name)] = typer.Option(no_flag, hidden=True)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value_type | None, info]
        )
        for name, info in flags.items()
    ]


def _common_parameters(config_class: type[Settings], is_stage: bool) -> list[inspect.Parameter]:
    n_cores = len(os.sched_getaffinity(0))
    common: list[tuple[str, Any, Any]] = [
        (
            "config_file",
            Annotated[str | None, _option("--config", "TOML file, or the manifest.json of an earlier run.")],
            None,
        ),
        (
            "is_plan",
            Annotated[bool, _option("--plan", "Say what it would read, write and need, then stop.")],
            False,
        ),
        ("overwrite", Annotated[bool, _option("--overwrite", "Make a complete output again.")], False),
        (
            "n_workers",
            Annotated[int, _option("--workers", f"Processes (default {n_cores}).", min=1)],
            n_cores,
        ),
        (
            "engine",
            Annotated[Literal["process", "ray"], _option("--engine", r"Who works \[default process].")],
            "process",
        ),
        ("ray_address", Annotated[str | None, _option("--ray-address", "Of a running Ray cluster.")], None),
        ("is_quiet", Annotated[bool, _option("--quiet", "Say nothing on stderr.")], False),
        (
            "is_json",
            Annotated[bool, _option("--json", "Print the closing summary as JSON on stdout.")],
            False,
        ),
    ]
    if issubclass(config_class, DocumentSettings):
        help_text = "File for the lines that --on-error skip sets aside when the output is -."
        common.append(("skipped", Annotated[str | None, _option("--skipped", help_text)], None))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in common
        if is_stage or name in ("config_file", "is_quiet", "is_json")
    ]


def _option(flag: str, help_text: str, **more: Any) -> Any:
    return typer.Option(flag, help=help_text, rich_help_panel=_PANEL, show_default=False, **more)


def _pop_run_flags(arguments: dict[str, Any]) -> RunFlags:
    is_plan, is_json = arguments.pop("is_plan", False), arguments.pop("is_json")
    names = [field.name for field in dataclasses.fields(RunOptions)]
    options = RunOptions(**{name: arguments.pop(name) for name in names if name in arguments})
    if is_json and arguments.get("output") == "-" and not is_plan:
        raise ConfigError(
            "--json and -o - both want standard output", hint="write to a folder, or leave out --json"
        )
    return RunFlags(options, is_plan, is_json)
