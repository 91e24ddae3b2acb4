"""Functions compiled by numba, with the entry that `object_code.py` calls. Not imported to run them."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from dsllm.text.object_code import n_dims_of

if "scipy" not in sys.modules:  # where numba would look for BLAS, which takes 0.3 s and is not used here
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        import numba.np.arraymath
    finally:
        del sys.modules["scipy"]

import numba
from numba import types

from dsllm.text.vector_llvm import as_bits, as_number, as_pointer

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def make_dispatcher(function: Callable[..., Any], *, is_apart: bool) -> Any:
    """Give a function that numba compiles when it is called or asked to.

    Unless it is apart, it becomes part of the compiled functions that call it: numba takes each array to
    pieces to pass it, some ten words, and left alone LLVM calls helpers of inner loops so.
    """
    return numba.njit(function, forceinline=not is_apart, **_OPTIONS)


def compile_entry(dispatcher: Any, name: str, kinds: Sequence[str]) -> bytes:
    """Compile a function for arguments of some kinds; returns a line about it, and its object file."""
    given = tuple(map(_type_of, kinds))
    dispatcher.compile(given)
    returned = dispatcher.overloads[given].signature.return_type
    is_tuple = isinstance(returned, types.BaseTuple)
    results = [] if returned == types.none else list(map(_kind_of, returned if is_tuple else [returned]))
    entry = f"entry_{name.replace('.', '_')}"
    names: dict[str, Any] = {"function": dispatcher, "carray": numba.carray, "uint64": np.uint64}
    names |= {"as_bits": as_bits, "as_number": as_number, "as_pointer": as_pointer}
    names |= {f"dtype_{index}": np.dtype(kind.partition("x")[0]) for index, kind in enumerate(kinds)}
    exec(_write_entry(entry, kinds, results, is_tuple=is_tuple), names)
    function = numba.cfunc(types.void(types.CPointer(types.int64)), **_OPTIONS)(names[entry])
    module = function._library._final_module
    symbols = (item for group in (module.functions, module.global_variables) for item in group)
    head = {
        "entry": function._wrapper_name,
        "results": results,
        "is_tuple": is_tuple,
        "asks": sorted(
            item.name for item in symbols if item.is_declaration and not item.name.startswith("llvm.")
        ),
    }
    return json.dumps(head).encode() + b"\n" + cast(bytes, function._library._get_compiled_object())


def _write_entry(entry: str, kinds: Sequence[str], results: Sequence[str], *, is_tuple: bool) -> str:
    """Write the entry as Python: the arguments out of the slots, the results into those behind."""
    arguments = []
    n_slots = 0
    for index, kind in enumerate(kinds):
        slot, n_dims = f"slots[{n_slots}]", n_dims_of(kind)
        if n_dims:
            shape = "".join(f"slots[{n_slots + 1 + dim}], " for dim in range(n_dims))
            arguments.append(f"carray(as_pointer({slot}), ({shape}), dtype_{index})")
        else:
            forms = {"i8": slot, "b1": f"{slot} != 0", "f8": f"as_number({slot})", "u8": f"uint64({slot})"}
            arguments.append(forms[kind])
        n_slots += 1 + n_dims
    lines = [f"def {entry}(slots):", f"    found = function({', '.join(arguments)})"]
    for index, kind in enumerate(results):
        value = f"found[{index}]" if is_tuple else "found"
        lines.append(f"    slots[{n_slots + index}] = " + (f"as_bits({value})" if kind == "f8" else value))
    lines.append(f"    slots[{n_slots + len(results)}] = 1")
    return "\n".join(lines)


def _type_of(kind: str) -> Any:
    dtype = numba.from_dtype(np.dtype(kind.partition("x")[0]))
    return types.Array(dtype, n_dims_of(kind), "C") if n_dims_of(kind) else dtype


def _kind_of(result: Any) -> str:
    if isinstance(result, types.Float):
        return "f8"
    if isinstance(result, types.Boolean):
        return "b1"
    assert isinstance(result, types.Integer), f"a compiled function must not return {result}"
    return "i8" if result.signed else "u8"
