"""Jinja templates and expressions of a task, in a sandbox: task files are data, not programs."""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from dsllm.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.environment import TemplateExpression
    from jinja2.sandbox import SandboxedEnvironment


def render(template: str, values: Mapping[str, Any], *, where: str) -> str:
    """Fill a template.

    Raises:
        ConfigError: the template is wrong, or the item lacks a field that it names; `where` says which item.
    """
    from jinja2 import TemplateError

    if "{" not in template:
        return template
    try:
        return _template(template).render(values)
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise _template_error(where, template, error, values) from None


def evaluate(expression: str, values: Mapping[str, Any], *, where: str) -> Any:
    """Compute an expression: the value is a Python object.

    Raises:
        ConfigError: as `render`.
    """
    from jinja2 import TemplateError, Undefined

    try:
        value = _expression(expression)(values)
        if isinstance(value, Undefined):
            str(value)  # a strict undefined value complains when it is used
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise _template_error(where, expression, error, values) from None
    return value


@cache
def _environment() -> "SandboxedEnvironment":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["sub"] = lambda text, pattern, by: re.sub(pattern, by, text)
    return environment


@cache
def _template(source: str) -> "Template":
    return _environment().from_string(source)


@cache
def _expression(source: str) -> "TemplateExpression":
    return _environment().compile_expression(source, undefined_to_none=False)


def _template_error(where: str, source: str, error: Exception, values: Mapping[str, Any]) -> ConfigError:
    fields = ", ".join(map(str, values)) or "none"
    return ConfigError(f"{where}: {source!r}: {error}", hint=f"mend the task's file; this item has: {fields}")
