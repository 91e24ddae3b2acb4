r"""Conversations as token ids: DeepSeek LLM's template, and a mask of what a model is to learn from them.

A template is Jinja, as `transformers` has it. What it renders inside `{% generation %}` is the assistant's:
the answer and the stop token. The whole text between two special tokens is encoded at once, and a token is
the assistant's when one of its characters is, so ids and mask are those of `transformers` and TRL. A special
token's name that somebody wrote into a message stays plain text: only the template can place special tokens.

Inside this module lone surrogates mark places in a rendered text. No valid text has them, and none reaches
the tokenizer.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsllm.errors import InputError
from dsllm.text.tokenizer_files import LoadedTokenizer

# DeepSeek LLM's README, section "Chat Completion": BOS, then `User: ...` and `Assistant: ...` with EOS; a
# system message stands bare. The space after `Assistant:` belongs to the answer: after a prompt that ends in
# the colon, the model writes it.
DEEPSEEK_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant:' }}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\\n\\n' }}"
    "{% else %}"
    "{{ raise_exception('the roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_BEGIN, _END, _HOLD = (
    "\ud801",
    "\ud802",
    "\ud803",
)  # the assistant's begins, ends; no special token after this
_MARKS = re.compile(f"[{_BEGIN}{_END}{_HOLD}]")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatTokens:
    """A conversation's ids, and for each whether the model is to learn it."""

    token_ids: list[int]
    loss_mask: list[bool]


def render_chat(
    messages: Sequence[Message], tokenizer: LoadedTokenizer, *, add_generation_prompt: bool = False
) -> ChatTokens:
    """Encode a conversation; the mask covers the assistant's answers and their stop tokens.

    The tokenizer's own template is taken, DeepSeek's where it has none.

    Raises:
        InputError: the messages are no conversation, or the template cannot render or mask them.
    """
    template = tokenizer.chat_template or DEEPSEEK_TEMPLATE
    has_answer = any(message.get("role") == "assistant" for message in messages)
    if has_answer and not _has_generation(template):
        raise InputError(
            "the chat template has no {% generation %} block, so the answers cannot be told apart",
            hint="put {% generation %} and {% endgeneration %} around the answer and its stop token",
        )
    return _encode(_render(messages, tokenizer, add_generation_prompt), tokenizer)


def render_completion(
    prompt: Sequence[Message], completion: Sequence[Message], tokenizer: LoadedTokenizer
) -> ChatTokens:
    """Encode a prompt with one of its completions; the mask covers all that follows the generation prompt.

    Raises:
        InputError: as `render_chat`, or the template renders the prompt otherwise when more follows.
    """
    before = _without_answers(_render(prompt, tokenizer, add_generation_prompt=True))
    whole = _without_answers(_render([*prompt, *completion], tokenizer, add_generation_prompt=False))
    if not whole.startswith(before):
        raise InputError(
            f"the chat template ends a prompt with {before[-20:]!r}, but not so when an answer follows",
            hint="take a template that renders a prompt as the beginning of the whole",
        )
    return _encode(before + _BEGIN + whole[len(before) :] + _END, tokenizer)


def chat_text(
    messages: Sequence[Message], tokenizer: LoadedTokenizer, *, add_generation_prompt: bool = False
) -> str:
    """Render a conversation as text, special tokens by their names."""
    return _MARKS.sub("", _render(messages, tokenizer, add_generation_prompt))


def _render(messages: Sequence[Message], tokenizer: LoadedTokenizer, add_generation_prompt: bool) -> str:
    """Render with marks."""
    held = [_hold_special_tokens(message, tokenizer) for message in _checked(messages)]
    try:
        return _compile(tokenizer.chat_template or DEEPSEEK_TEMPLATE).render(
            messages=held,
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
            add_generation_prompt=add_generation_prompt,
        )
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error}", hint="mend the messages or the template") from None


def _checked(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages:
        raise InputError("a conversation without messages", hint='give [{"role": "user", "content": "..."}]')
    for number, message in enumerate(messages, start=1):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise InputError(
                    f"message {number} of {len(messages)} has no {key!r} that is a string",
                    hint='each message is like {"role": "user", "content": "..."}',
                )
    return messages


def _hold_special_tokens(message: Message, tokenizer: LoadedTokenizer) -> dict[str, Any]:
    """Mark the names of special tokens in a message, so that `_encode` takes them for text."""
    names = _any_of(tuple(sorted(tokenizer.special_tokens)))
    return {
        key: re.sub(f"(?={names})", _HOLD, value) if isinstance(value, str) else value
        for key, value in message.items()
    }


def _without_answers(marked: str) -> str:
    return marked.replace(_BEGIN, "").replace(_END, "")


def _encode(marked: str, tokenizer: LoadedTokenizer) -> ChatTokens:
    """Encode a rendered text with marks: special tokens by id, what lies between as whole texts."""
    result = ChatTokens([], [])
    is_answer = False
    names = _any_of(tuple(sorted(tokenizer.special_tokens)))
    for index, part in enumerate(re.split(f"(?<!{_HOLD})({names})", marked)):
        if index % 2:
            result.token_ids.append(tokenizer.special_tokens[part])
            result.loss_mask.append(is_answer)
            continue
        characters, are_answer = [], bytearray()
        for run in re.split(f"([{_BEGIN}{_END}])", part.replace(_HOLD, "")):
            if run in (_BEGIN, _END):
                is_answer = run == _BEGIN
            else:
                characters.append(run)
                are_answer += bytes([is_answer]) * len(run)
        token_ids, offsets = tokenizer.encode_with_offsets("".join(characters))
        result.token_ids.extend(token_ids)
        result.loss_mask.extend(any(are_answer[start:end]) for start, end in offsets)
    return result


@functools.lru_cache(maxsize=16)
def _any_of(names: tuple[str, ...]) -> str:
    """Write a pattern for any of the names, the longest first; of no name, one that matches nothing."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"


def _has_generation(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\b", template) is not None


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    """Compile a template in the environment that `transformers` gives it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error}", hint="mend the template") from None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}`: marks what it holds."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own protocol

    def parse(self, parser: Parser) -> nodes.Node:
        """Turn the block into a call of `_mark`."""
        line_number = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line_number)

    def _mark(self, caller: Callable[[], str]) -> str:
        return _BEGIN + caller() + _END
