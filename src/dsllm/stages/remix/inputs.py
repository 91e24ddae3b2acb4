"""`NAME=INPUT`: inputs and the names of the sources they are."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dsllm.errors import ConfigError
from dsllm.io.sources import Source, find_sources
from dsllm.stages.remix.config import SOURCE_FIELD, RemixConfig

_NAMED = re.compile(r"([\w.-]+)=(.+)")


def name_inputs(config: RemixConfig, inputs: Sequence[str]) -> tuple[RemixConfig, list[str]]:
    """Move names from `NAME=INPUT` into the settings; returns them and the bare inputs.

    A file that exists under the whole word is meant as it stands.

    Raises:
        ConfigError: some inputs have names and others not, or `names` or `source_field` does not fit.
    """
    matches = [None if Path(word).exists() else _NAMED.fullmatch(word) for word in inputs]
    names = tuple(match[1] for match in matches if match)
    if (known := names or config.names) and config.source_field != SOURCE_FIELD:
        raise ConfigError(
            f"source_field is {config.source_field!r}, but the inputs have names: {', '.join(known)}",
            hint="leave out --source-field, or the names",
        )
    if not names:
        if config.names and len(config.names) != len(inputs):
            raise ConfigError(
                f"{len(config.names)} names for {len(inputs)} inputs", hint="give each input one: NAME=INPUT"
            )
        return config, list(inputs)
    if len(names) != len(inputs):
        bare = next(word for word, match in zip(inputs, matches, strict=True) if not match)
        raise ConfigError(f"{bare}: has no name, but other inputs have", hint=f"give it one: NAME={bare}")
    if config.names and config.names != names:
        raise ConfigError(
            f"names are {', '.join(config.names)}, but the inputs say {', '.join(names)}",
            hint="leave out --names",
        )
    return replace(config, names=names), [match[2] for match in matches if match]


def source_names(config: RemixConfig, inputs: Sequence[str]) -> tuple[list[Source], tuple[str, ...]]:
    """Find the files behind the inputs, and the name of each; no names when the documents say them."""
    if not config.names:
        return find_sources(inputs), ()
    if list(inputs).count("-") > 1:
        raise ConfigError("'-' is given twice", hint="standard input can be read once")
    found = [
        (source, name)
        for name, path in zip(config.names, inputs, strict=True)
        for source in find_sources([path])
    ]
    sources = [replace(source, index=index) for index, (source, _) in enumerate(found)]
    return sources, tuple(name for _, name in found)
