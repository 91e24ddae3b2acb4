"""Loops compiled by numba once per machine; afterwards they run without numba, whose import takes 0.6 s.

What numba made is kept as an object file, see `numba_entry.py`, and linked by `object_code.py`. Without a
folder to keep it in, or where a symbol is missing that the code asks for, numba itself runs the function.
"""

import functools
import hashlib
import importlib
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dsllm.text.object_code import load_code

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

PACKAGE = Path(__file__).parent.parent
_SCALARS = {bool: "b1", int: "i8", float: "f8"}

_lock = threading.RLock()
_listeners: list[Callable[[], None]] = []


def compiled(function: F) -> F:
    """Compile a function for this processor at its first call; it runs without Python's global lock.

    It takes arrays that are C-contiguous, bools, ints and floats, and returns numbers, a tuple of these, or
    nothing. Other compiled functions may be called in it with anything that numba knows.
    """
    return cast(F, functools.update_wrapper(Compiled(function), function))


def compiled_apart(function: F) -> F:
    """As `compiled`, but compiled functions call it, where the others become part of them.

    For stages of a large function, whose inner loops want all registers.
    """
    return cast(F, functools.update_wrapper(Compiled(function, is_apart=True), function))


def instruction(function: F) -> F:
    """Name a function that only compiled code can call: `MODULE_llvm.py` says what it becomes."""
    return cast(F, Instruction(function))


class Instruction:
    """A function of that name in the module beside its own whose name ends with `_llvm`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name, self._module = function.__name__, f"{function.__module__}_llvm"

    @functools.cached_property
    def intrinsic(self) -> Any:
        """What numba takes for it."""
        return getattr(importlib.import_module(self._module), self._name)


class Compiled:
    """A function, and its machine code for each combination of arguments that was met."""

    def __init__(self, function: Callable[..., Any], *, is_apart: bool = False) -> None:
        self._function, self._is_apart = function, is_apart
        self._runs: dict[tuple[str, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run it, on as many threads at a time as there are callers."""
        kinds = tuple(map(_kind, arguments))
        run = self._runs.get(kinds)
        if run is None:
            with _lock:
                run = self._runs.get(kinds) or self._runs.setdefault(kinds, self._prepare(kinds))
        return run(*arguments)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """The function as numba knows it, which calls others as numba knows those."""
        function = cast(FunctionType, self._function)
        known = {
            name: _as_numba(function.__globals__[name])
            for name in _global_names(function.__code__)
            if name in function.__globals__
        }
        copy = FunctionType(function.__code__, known, function.__name__, function.__defaults__)
        from dsllm.text.numba_entry import make_dispatcher

        return make_dispatcher(copy, is_apart=self._is_apart)

    def _prepare(self, kinds: tuple[str, ...]) -> Callable[..., Any]:
        """Find the machine code, or make it."""
        name = f"{self._function.__module__}.{self._function.__name__}"
        path = code_folder() / f"{name}-{hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]}.code"
        try:
            kept = path.read_bytes()
        except OSError:
            for tell in list(_listeners):
                tell()
            from dsllm.text.numba_entry import compile_entry

            kept = compile_entry(self.dispatcher, name, kinds)
            _keep(path, kept)
        return load_code(kept, kinds, name) or self.dispatcher


def kept_array(name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Give an array that takes long to make: once per machine, kept beside the code."""
    path = code_folder() / f"{name}.npy"
    with _lock:
        if not path.exists():
            made, file = make(), BytesIO()
            np.save(file, made)
            if not _keep(path, file.getvalue()):
                return made
    return cast(NDArray[Any], np.load(path, mmap_mode="r"))


def kept_object(name: str, make: Callable[[], T]) -> T:
    """Give an object of this package's own classes that takes long to make: as `kept_array`."""
    path = code_folder() / f"{name}.pickle"
    with _lock:
        try:
            return cast(T, pickle.loads(path.read_bytes()))  # the folder has machine code, which is run too
        except Exception:  # noqa: BLE001  # not there, or damaged: made again
            made = make()
            _keep(path, pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
            return made


def _keep(path: Path, data: bytes) -> bool:
    """Write a file that other processes may be writing, too: all of them write the same.

    Returns whether it could be written; if not, every process makes it anew.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError:
        return False
    return True


@contextmanager
def announce_compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Let `say` tell the user, once, when code must be compiled: later runs find it on disk."""

    def tell() -> None:
        _listeners.remove(tell)
        say("dsllm: compiling for this processor, up to a minute; later runs find the code on disk")

    _listeners.append(tell)
    try:
        yield
    finally:
        with suppress(ValueError):
            _listeners.remove(tell)


@functools.cache
def code_folder() -> Path:
    """Name the folder of compiled code by all that it is made from and for."""
    import llvmlite.binding as llvm

    sources = [*sorted((PACKAGE / "text").glob("*.py")), *sorted(PACKAGE.rglob("*_compiled.py"))]
    stamps: list[Any] = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sources]
    stamps += [version("numba"), version("llvmlite"), version("numpy"), sys.version]
    stamps += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    name = f"compiled-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]}"
    is_ours = os.access(PACKAGE, os.W_OK)
    return (PACKAGE / "__pycache__" if is_ours else Path.home() / ".cache" / "dsllm") / name


def _global_names(code: CodeType) -> list[str]:
    """Name what of its module a function uses, its inner ones included."""
    names = [name for inner in code.co_consts if isinstance(inner, CodeType) for name in _global_names(inner)]
    return [*code.co_names, *names]


def _as_numba(value: Any) -> Any:
    if isinstance(value, Compiled):
        return value.dispatcher
    return value.intrinsic if isinstance(value, Instruction) else value


def _kind(argument: Any) -> str:
    """Say what an argument is: "u1x2" for an array of two dims of bytes, "i8" for an int."""
    if isinstance(argument, np.ndarray):
        return f"{argument.dtype.str[1:]}x{argument.ndim}"
    if isinstance(argument, np.generic):
        return argument.dtype.str[1:]
    return _SCALARS[type(argument)]
