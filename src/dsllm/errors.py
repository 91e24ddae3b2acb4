"""What a user did or met, said so that they can mend it.

Every error that a user can cause is a `DsllmError`: one message with the place and both values, one hint
that says what to type. The command line prints the two lines and exits with `exit_status`; nothing else
is caught, so a traceback always means a fault of the program.
"""


class DsllmError(Exception):
    """An error with a remedy. `exit_status` is 1: the work failed."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, tuple[type["DsllmError"], str, str]]:
        """Survive the way from a worker process: the hint is a keyword."""
        return _remake, (type(self), self.message, self.hint)


def _remake(kind: type[DsllmError], message: str, hint: str) -> DsllmError:
    return kind(message, hint=hint)


class ConfigError(DsllmError):
    """A setting, flag, key or command that cannot be: exit status 2."""

    exit_status = 2


class InputError(DsllmError):
    """An input that is missing, unreadable or of the wrong kind."""


class DocumentError(InputError):
    """A line that is not a document: not JSON, not UTF-8, or without text."""


class ShardError(InputError):
    """A file that is cut, changed, or not what its manifest says."""


class OutputError(DsllmError):
    """An output that cannot be written, or must not be."""


class WorkerError(DsllmError):
    """A worker process died twice on the same piece of work."""
