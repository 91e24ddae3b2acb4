"""Entry: run the command line, and turn what can go wrong into one error line and one hint line."""

import copy
import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from dsllm.errors import DsllmError

# Typer brings its own copy of Click since 0.20 and used the package before: its class, wherever it is from.
_UsageError: Any = typer.BadParameter.__mro__[1]

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_COMMAND, EXIT_INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """Run `dsllm` with the arguments of this process."""
    # Imports leave 75,000 objects: looking through them for cycles takes 0.15 s a start, and 0.05 s an end.
    gc.set_threshold(200_000, 20, 100)
    # NumPy's matrix products here are tiny, and its threads would spin. torch has its own library for them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # torch's threads would go on spinning between its operators, where our loops run on threads of their own:
    # a training step on two cores takes 1.3 times as long. libgomp reads it when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    _fill_closed_streams()
    status = run_command_line(sys.argv[1:])
    if "triton" not in sys.modules:  # which would find its objects left over, and tell
        gc.freeze()
    sys.exit(status)


def _fill_closed_streams() -> None:
    """Take the places of standard streams that were closed, which the next file would have otherwise.

    Reading or writing there is an error then, as it is for other programs; what goes to stderr is lost.
    """
    for number, name, flags in (
        (0, "stdin", os.O_WRONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_RDWR),
    ):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status.

    0 done, 1 failed, 2 wrong command, 130 interrupted. A closed pipe downstream is a quiet end.
    """
    try:
        return _invoke(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted", "the same command carries on where it stopped", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # or Python would try once more at its end, and say so
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        place = f"{error.filename}: " if error.filename else ""
        hint = "free some space" if error.errno == errno.ENOSPC else "check the path and the permissions"
        return _fail(f"{place}{error.strerror or error}", hint, EXIT_FAILED)
    except MemoryError:
        return _fail("out of memory", "give fewer --workers or a smaller batch", EXIT_FAILED)


def _invoke(arguments: Sequence[str]) -> int:
    from dsllm.cli.app import app

    command = typer.main.get_command(_with_one_command(app, arguments[:1]))
    try:
        status = command.main(list(arguments), prog_name="dsllm", standalone_mode=False)
        sys.stdout.flush()
    except DsllmError as error:
        return _fail(error.message, error.hint, error.exit_status)
    except _UsageError as error:
        if not error.format_message():  # no arguments: the help has been printed
            return EXIT_WRONG_COMMAND
        path = error.ctx.command_path if error.ctx else "dsllm"
        return _fail(error.format_message(), f"see: {path} --help", EXIT_WRONG_COMMAND)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as error:  # so Typer says that a pipe is closed
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    if status == EXIT_INTERRUPTED:  # so Typer says Ctrl-C
        raise KeyboardInterrupt
    return status if isinstance(status, int) else EXIT_DONE


def _with_one_command(app: typer.Typer, name: Sequence[str]) -> typer.Typer:
    """Leave out the commands that are not asked for: making all their flags takes a tenth of a second."""
    commands = [
        c for c in app.registered_commands if c.callback and [c.name or c.callback.__name__] == [*name]
    ]
    groups = [group for group in app.registered_groups if [group.name] == [*name]]
    if not commands and not groups:
        return app
    trimmed = copy.copy(app)
    trimmed.registered_commands, trimmed.registered_groups = commands, groups
    return trimmed


def _fail(message: str, hint: str, status: int) -> int:
    lines = " ".join(message.split())
    sys.stderr.write(f"dsllm: error: {lines}\ndsllm: hint: {' '.join(hint.split())}\n")
    return status
