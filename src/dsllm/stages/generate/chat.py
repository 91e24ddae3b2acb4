"""`dsllm chat`: a conversation with a model, on a terminal or from piped lines."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.generate.config import ChatConfig
from dsllm.stages.generate.run import one_model
from dsllm.text.compiled import announce_compiling

RESET = "/reset"


def run(
    config: ChatConfig, inputs: Sequence[str], output: str = "-", *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Answer line after line, remembering the conversation; Ctrl-D ends, /reset forgets.

    Answers go to standard output, everything else to standard error, so that questions may be piped in.
    """
    from dsllm.stages.generate.speaker import load_speaker

    speaker = load_speaker(one_model(inputs), config)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        reporter.say(f"chatting with {inputs[0]}: Ctrl-D ends, {RESET} begins anew")
    beginning = [{"role": "system", "content": config.system}] if config.system else []
    messages, n_turns = list(beginning), 0
    with announce_compiling(reporter.say):
        for line in _read_lines(is_terminal=is_terminal):
            if line.strip() == RESET:
                messages = list(beginning)
                reporter.say("forgotten")
                continue
            if not line.strip():
                continue
            messages.append({"role": "user", "content": line})
            answer = ""
            for piece in speaker.answer(messages, turn=n_turns):
                shown = piece if answer else piece.removeprefix(" ")
                sys.stdout.write(shown)
                sys.stdout.flush()
                answer += shown
            sys.stdout.write("\n")
            sys.stdout.flush()
            messages.append({"role": "assistant", "content": answer})
            n_turns += 1
    return {"n_turns": n_turns}


def _read_lines(*, is_terminal: bool) -> Iterator[str]:
    """Yield what is typed or piped, until the end of the input."""
    while True:
        if is_terminal:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            if is_terminal:
                sys.stderr.write("\n")
            return
        yield line.rstrip("\r\n")
