"""Conversations and preference pairs as token ids, each checked before anything is trained on it.

A record of fine-tuning data has one of these shapes:

    {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}, ...]}
    {"prompt": TEXT or messages, "completion" (or "response"): TEXT or messages}
    {"instruction": TEXT, "input": TEXT, "output": TEXT}                             (as Alpaca has it)
    {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": TEXT}, ...]}   (ShareGPT)

and a preference pair has `prompt` (or `conversations`), `chosen` and `rejected`. Of a conversation every
answer of the assistant is learnt, of a prompt with its completion the completion alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dsllm.errors import InputError
from dsllm.text.chat import ChatTokens, Message, render_chat, render_completion
from dsllm.text.tokenizer_files import LoadedTokenizer

ROLES = ("system", "user", "assistant")
COMPLETIONS = ("completion", "response")

_ROLE_OF_SPEAKER = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}
_HINT = "mend the line, or give --on-error skip to set such lines aside"


def encode_conversation(fields: Mapping[str, Any], tokenizer: LoadedTokenizer) -> list[ChatTokens]:
    """Encode one record of fine-tuning data; the mask is on what is learnt.

    Raises:
        InputError: not one of the shapes above, no answer of the assistant, an unknown role, or a template
            that doubles the first token or does not end each answer with the stop token.
    """
    if "messages" in fields or "conversations" in fields:
        messages = _messages(fields)
        if not any(message["role"] == "assistant" for message in messages):
            raise InputError("no message is the assistant's: nothing to learn", hint=_HINT)
        return [_check(render_chat(messages, tokenizer), tokenizer)]
    if "instruction" in fields and "output" in fields:
        question = "\n".join(filter(None, (_text(fields, "instruction"), _text(fields, "input", ""))))
        return [_complete(_said("user", question), _said("assistant", _text(fields, "output")), tokenizer)]
    answer = next((key for key in COMPLETIONS if key in fields), None)
    if "prompt" not in fields or answer is None:
        raise InputError(
            f"no conversation in the fields {', '.join(fields) or '(none)'}",
            hint='give {"messages": [{"role": "user", "content": "..."}, ...]}, or prompt and completion',
        )
    return [_complete(_turns(fields, "prompt", "user"), _turns(fields, answer, "assistant"), tokenizer)]


def encode_preference(fields: Mapping[str, Any], tokenizer: LoadedTokenizer) -> list[ChatTokens]:
    """Encode a preference pair: the prompt with the chosen answer, then with the rejected one.

    Raises:
        InputError: as `encode_conversation`.
    """
    missing = [key for key in ("chosen", "rejected") if key not in fields]
    if missing or not ("prompt" in fields or "conversations" in fields):
        raise InputError(
            f"no preference pair in the fields {', '.join(fields) or '(none)'}",
            hint='give {"prompt": "...", "chosen": "...", "rejected": "..."}, texts or lists of messages',
        )
    prompt = _turns(fields, "prompt", "user") if "prompt" in fields else _messages(fields)
    return [_complete(prompt, _turns(fields, key, "assistant"), tokenizer) for key in ("chosen", "rejected")]


def _complete(
    prompt: Sequence[Message], completion: Sequence[Message], tokenizer: LoadedTokenizer
) -> ChatTokens:
    """Encode a prompt and its completion; what a template puts behind the last stop token is not learnt."""
    if not completion or completion[-1]["role"] != "assistant":
        raise InputError("the completion's last message is not the assistant's", hint=_HINT)
    tokens = render_completion(prompt, completion, tokenizer)
    stop_id = tokenizer.eos_id
    if stop_id in tokens.token_ids:
        end = len(tokens.token_ids) - tokens.token_ids[::-1].index(stop_id)
        tokens.loss_mask[end:] = [False] * (len(tokens.loss_mask) - end)
    return _check(tokens, tokenizer)


def _check(tokens: ChatTokens, tokenizer: LoadedTokenizer) -> ChatTokens:
    """Refuse what would teach a model never to stop, or to begin twice."""
    ids, mask = tokens.token_ids, tokens.loss_mask
    ends = [
        at for at, is_learnt in enumerate(mask) if is_learnt and not (at + 1 < len(mask) and mask[at + 1])
    ]
    wrong = next((at for at in ends if ids[at] != tokenizer.eos_id), None)
    if not ends or wrong is not None:
        shown = "nothing at all" if wrong is None else repr(tokenizer.decode([ids[wrong]]))
        raise InputError(
            f"an answer's last learnt token is {shown}, not the stop token {tokenizer.eos_token!r}",
            hint="put eos_token inside the {% generation %} block of the chat template, behind the answer",
        )
    if tokenizer.bos_id is not None and ids[:2] == [tokenizer.bos_id] * 2:
        raise InputError(
            f"the conversation begins with {tokenizer.bos_token!r} twice",
            hint="leave bos_token out of the chat template's text, or out of the messages",
        )
    return tokens


def _messages(fields: Mapping[str, Any]) -> list[Message]:
    """Read `messages`, or `conversations` in the words of ShareGPT."""
    if "messages" in fields:
        return _turns(fields, "messages", "user")
    turns = fields["conversations"]
    if isinstance(turns, list) and all(isinstance(turn, dict) and "from" in turn for turn in turns):
        speakers = [str(turn["from"]) for turn in turns]
        turns = [
            {"role": _ROLE_OF_SPEAKER.get(speaker, speaker), "content": turn.get("value")}
            for speaker, turn in zip(speakers, turns, strict=True)
        ]
    return _turns({"conversations": turns}, "conversations", "user")


def _turns(fields: Mapping[str, Any], key: str, role: str) -> list[Message]:
    """Read a text, which is the message of `role`, or a list of messages."""
    value = fields[key]
    if isinstance(value, str):
        return _said(role, value)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{key!r} is neither a text nor a list of messages", hint=_HINT)
    unknown = [message.get("role") for message in messages if message.get("role") not in ROLES]
    if unknown:
        raise InputError(f"unknown role {unknown[0]!r}, not one of {', '.join(ROLES)}", hint=_HINT)
    return messages


def _said(role: str, content: str) -> list[Message]:
    return [{"role": role, "content": content}]


def _text(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise InputError(f"{key!r} is a {type(value).__name__}, not a string", hint=_HINT)
    return value
