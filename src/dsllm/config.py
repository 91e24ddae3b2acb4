"""Settings: one `setting()` per option gives its default, help, unit, range, flag, TOML key and manifest key.

A stage's configuration is a frozen dataclass that derives from `Settings`. The command line makes its flags
from it (`cli/flags.py`), `--config FILE` reads its keys, and the manifest stores it whole. The name of the
field is the TOML key and the manifest key; with dashes it is the flag.
"""

import dataclasses
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from dsllm.errors import ConfigError

# The commands that have settings, as the tables of a file name them.
STAGES = (
    "dedup",
    "filter",
    "remix",
    "tokenize train",
    "tokenize encode",
    "tokenize decode",
    "pretrain",
    "sft",
    "dpo",
    "eval",
    "generate",
    "chat",
    "fit-scaling plan",
    "fit-scaling fit",
    "fit-scaling predict",
    "report",
)

Kind = Literal["int", "float", "str", "bool", "strs"]

_KINDS: dict[object, Kind] = {int: "int", float: "float", str: "str", bool: "bool"}
_MAX_INT = 2**63 - 1
_PYTHON_TYPES: dict[Kind, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "strs": (tuple,),
}


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    unit: str | None = None,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
) -> Any:
    """Describe one option of a `Settings` dataclass.

    Args:
        default: its value when not given; left out, the option is required. None means "not given".
        help: one sentence for `--help`, without the unit and the default, which are added.
        unit: what the number counts or measures ("words", "bytes", "seconds").
        min: the smallest allowed value.
        max: the largest allowed value.
        above: the value must be greater than this (an open lower end).
    """
    metadata = {"help": help, "unit": unit, "min": min, "max": max, "above": above}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One option, as `describe` reads it off a `Settings` class."""

    name: str
    kind: Kind
    is_optional: bool
    choices: tuple[str, ...]
    default: Any  # dataclasses.MISSING where the option is required
    help: str
    unit: str | None
    min: float | None
    max: float | None
    above: float | None

    @property
    def flag(self) -> str:
        """The flag's name: `--n-bands` for `n_bands`."""
        return "--" + self.name.replace("_", "-")

    @property
    def range(self) -> str:
        """The allowed range in words, empty where there is none."""
        parts = []
        if self.above is not None:
            parts.append(f"> {self.above:.10g}")
        if self.min is not None:
            parts.append(f">= {self.min:.10g}")
        if self.max is not None:
            parts.append(f"<= {self.max:.10g}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every stage's configuration: checks types and ranges when it is made."""

    def __post_init__(self) -> None:
        for option in describe(type(self)):
            _check(option, getattr(self, option.name))

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str = "the settings") -> Self:
        """Make a configuration out of plain values; an unknown or missing key is a `ConfigError`."""
        options = {option.name: option for option in describe(cls)}
        for name in values:
            if name not in options:
                raise ConfigError(
                    f"{where}: unknown key {name!r}", hint=f"known keys: {', '.join(options) or 'none'}"
                )
        for option in options.values():
            if option.name not in values and option.default is dataclasses.MISSING:
                raise ConfigError(f"{where}: {option.name} is missing", hint=f"give {option.flag}")
        return cls(**{name: _coerce(options[name], value) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The manifest's `config`: plain JSON values, in the order of the fields."""
        values = {option.name: getattr(self, option.name) for option in describe(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults: what a command line must say to repeat this."""
        return {
            option.name: getattr(self, option.name)
            for option in describe(type(self))
            if getattr(self, option.name) != option.default
        }


def describe(cls: type[Settings]) -> list[Setting]:
    """List the options of a `Settings` class, in the order of its fields."""
    hints = typing.get_type_hints(cls)
    return [_describe_field(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _describe_field(field: "dataclasses.Field[Any]", hint: Any) -> Setting:
    is_optional, choices = False, ()
    if isinstance(hint, types.UnionType):
        arms = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
        assert len(arms) == 1, f"{field.name}: only `X | None` is understood"
        is_optional, hint = True, arms[0]
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    kind: Kind = "strs" if hint == tuple[str, ...] else _KINDS[hint]
    return Setting(
        name=field.name,
        kind=kind,
        is_optional=is_optional,
        choices=choices,
        default=field.default,
        **field.metadata,
    )


def _coerce(option: Setting, value: Any) -> Any:
    """Turn what TOML and JSON have (int for float, list for tuple) into the field's own type."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if option.kind == "float" and is_int and abs(value) <= _MAX_INT:
        return float(value)
    if option.kind == "strs" and isinstance(value, str):
        return tuple(word for word in value.split(",") if word)
    if option.kind == "strs" and isinstance(value, list):
        return tuple(value)
    return value


def _check(option: Setting, value: Any) -> None:
    if value is None and option.is_optional:
        return
    expected = _PYTHON_TYPES[option.kind]
    is_bool_as_number = isinstance(value, bool) and option.kind in ("int", "float")
    if not isinstance(value, expected) or is_bool_as_number:
        raise ConfigError(
            f"{option.name} is {value!r}, which is no {option.kind}",
            hint=f"give {option.flag} a value of that kind",
        )
    if isinstance(value, tuple) and not all(isinstance(part, str) for part in value):
        raise ConfigError(
            f"{option.name} is {list(value)!r}, which is no list of strings",
            hint=f"give {option.flag} values of that kind",
        )
    if option.choices and value not in option.choices:
        raise ConfigError(
            f"{option.name} is {value!r}, not one of {', '.join(option.choices)}",
            hint=f"try {option.flag} {option.choices[0]}",
        )
    if isinstance(value, int | float):
        is_outside = (
            (isinstance(value, int) and abs(value) > _MAX_INT)
            or math.isnan(value)
            or (option.min is not None and value < option.min)
            or (option.max is not None and value > option.max)
            or (option.above is not None and value <= option.above)
        )
        if is_outside:
            raise ConfigError(
                f"{option.name} is {value}, outside its range ({option.range or 'of 64 bits'})",
                hint=f"give {option.flag} a value {option.range}",
            )


def read_config_file(path: Path, stage: str) -> dict[str, Any]:
    """Read the settings of one stage from TOML or from the manifest of an earlier run.

    A TOML file may hold one stage's keys at its top level, or a table per stage (`[dedup]`,
    `["tokenize train"]`), of which only this stage's is read.

    Raises:
        ConfigError: no such file, not TOML or JSON, or a manifest of another stage.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", hint="--config takes a file that can be read"
        ) from None
    try:
        values = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except ValueError as error:  # both decoders' errors and bad UTF-8
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not {kind}: {error}", hint="mend the file at that place") from None
    if path.suffix == ".json":
        return _from_manifest(path, values, stage)
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    if not tables:
        return dict(values)
    for name in values:
        if name not in tables or name not in STAGES:
            raise ConfigError(
                f"{path}: unknown {'table' if name in tables else 'key beside tables'} {name!r}",
                hint=f"a table is for a stage: {', '.join(_table(stage) for stage in STAGES)}",
            )
    return dict(tables.get(stage, {}))


def _table(stage: str) -> str:
    return f'["{stage}"]' if " " in stage else f"[{stage}]"


def _from_manifest(path: Path, values: Any, stage: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise ConfigError(f"{path}: no manifest of dsllm", hint="give a TOML file or a manifest.json")
    if values.get("stage") != stage:
        raise ConfigError(
            f"{path}: made by {values.get('stage')}, not by {stage}",
            hint=f"give the manifest of a {stage} run",
        )
    return dict(values["config"])


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs, as opposed to what it makes: none of these changes a byte of the result."""

    n_workers: int = 1
    engine: Literal["process", "ray"] = "process"
    ray_address: str | None = None
    is_quiet: bool = False
    overwrite: bool = False
    skipped: str | None = None  # where lines go that are no documents, when the output is a pipe


@dataclass(frozen=True, kw_only=True)
class DocumentSettings(Settings):
    """What every stage that reads and writes documents lets its user choose."""

    text_field: str = setting("text", "Name of the field that holds the text.")
    on_error: Literal["stop", "skip"] = setting(
        "stop", "At a line that is no document: stop, or skip it and set it aside."
    )
    format: Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet"] = setting(
        "jsonl.zst", "Format of the shards that are written."
    )


def parse_bytes(text: str, *, flag: str) -> int:
    """Read an amount of bytes: 500MB, 1.5 GB, 2GiB; powers of 1000, and of 1024 with an i.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([kMGT]?)(i?)B\s*", text, re.IGNORECASE)
    if not found:
        raise ConfigError(f"{text!r} is no amount of bytes", hint=f"write it like {flag} 500MB or {flag} 2GB")
    base = 1024 if found[3] else 1000
    n_bytes = float(found[1]) * base ** " kmgt".index(found[2].lower() or " ")
    if n_bytes > _MAX_INT:
        raise ConfigError(f"{text!r} is more than can be", hint=f"write it like {flag} 500MB or {flag} 2GB")
    return int(n_bytes)


def parse_weights(weights: tuple[str, ...], setting_name: str) -> dict[str, float]:
    """Read `NAME=SHARE` pairs; empty when none are given.

    Raises:
        ConfigError: not of that form, a share below zero, a name twice, or nothing above zero.
    """
    shares: dict[str, float] = {}
    for pair in weights:
        name, _, number = pair.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not name or not 0 <= share < math.inf:
            raise ConfigError(
                f"{setting_name}: {pair!r} is no share", hint=f"try --{setting_name} en=0.6,zh=0.4"
            )
        if name in shares:
            raise ConfigError(f"{setting_name}: {name} is given twice", hint="give each one share")
        shares[name] = share
    if not sum(shares.values()) < math.inf:
        raise ConfigError(f"{setting_name}: together they are no number", hint="give smaller ones")
    if shares and not any(shares.values()):
        raise ConfigError(f"{setting_name}: all are zero", hint="give at least one a share above zero")
    return shares


def command_line(stage: str, inputs: Sequence[str], output: str, config: Settings) -> str:
    """Write the command that makes this output again: the manifest's `command`."""
    words = ["dsllm", *stage.split(), *map(_shell_word, inputs), "-o", _shell_word(output)]
    flags = {option.name: option.flag for option in describe(type(config))}
    for name, value in config.changed().items():
        if value is True:
            words.append(flags[name])
        elif value is False:
            words.append("--no-" + flags[name].removeprefix("--"))
        elif value is not None:
            parts = value if isinstance(value, tuple) else (value,)
            words += [word for part in parts for word in (flags[name], _shell_word(str(part)))]
    return " ".join(words)


def _shell_word(word: str) -> str:
    import shlex

    return shlex.quote(word)
