"""Machine code that numba made, linked into this process without numba.

An object file has one entry, which takes a row of 64-bit slots: of an array its address and its shape, of
anything else the value; it writes the results behind them, and a 1 behind these when it came to its end.
"""

import ctypes
import functools
import importlib.util
import json
import struct
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

# Modules of numba with functions that compiled code calls, and what their names begin with there.
_RUNTIME = {"core/runtime/_nrt_python": "NRT_", "_helperlib": "numba_"}
_CODES = {"b1": "q", "i8": "q", "f8": "d", "u8": "Q"}  # of a slot, as `struct` names them
_engines: list[Any] = []  # code lives as long as these


def n_dims_of(kind: str) -> int:
    """Give the dims of an array such as "u1x2"; a number has none."""
    return int(kind.partition("x")[2] or 0)


def load_code(kept: bytes, kinds: Sequence[str], name: str) -> Callable[..., Any] | None:
    """Link what `compile_entry` gave; None where it asks for what is not there."""
    import llvmlite.binding as llvm

    head_bytes, _, code = kept.partition(b"\n")
    head = json.loads(head_bytes)
    _register_runtime()
    engine = _make_engine()  # first, since it makes the symbols of this process known
    if not all(llvm.address_of_symbol(symbol) for symbol in head["asks"]):
        return None
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address(head["entry"]))
    _engines.append(engine)
    return _make_run(call, kinds, head["results"], name, is_tuple=head["is_tuple"])


def _make_run(
    call: Callable[[Any], None], kinds: Sequence[str], results: list[str], name: str, *, is_tuple: bool
) -> Callable[..., Any]:
    """Give the function that fills the slots, calls the code and reads the results."""
    arrays = [n_dims_of(kind) for kind in kinds]
    codes = "".join(
        "q" * (1 + n_dims) if n_dims else _CODES[kind] for kind, n_dims in zip(kinds, arrays, strict=True)
    )
    given = struct.Struct(codes)
    found = struct.Struct("".join(_CODES[kind] for kind in results) + "q")
    places_of_bools = [index for index, kind in enumerate(results) if kind == "b1"]

    def run(*arguments: Any) -> Any:
        values: list[Any] = []
        for argument, n_dims in zip(arguments, arrays, strict=True):
            if n_dims:
                assert argument.flags.c_contiguous, f"{name}: an array that is not contiguous"
                assert argument.dtype.isnative, f"{name}: an array of another byte order"
                values.append(argument.__array_interface__["data"][0])
                values.extend(argument.shape)
            else:
                values.append(argument)
        slots = ctypes.create_string_buffer(given.size + found.size)
        given.pack_into(slots, 0, *values)
        call(slots)
        *returned, is_done = found.unpack_from(slots, given.size)
        if not is_done:
            raise MemoryError(f"{name}: no memory for what it keeps")
        for place in places_of_bools:
            returned[place] = bool(returned[place])
        return tuple(returned) if is_tuple else returned[0] if returned else None

    return run


def _make_engine() -> Any:
    """Make a linker: one for each object file, since numba may name unlike things alike in two of them."""
    import llvmlite.binding as llvm

    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


@functools.cache
def _register_runtime() -> None:
    """Tell LLVM where numba's runtime is: two extension modules, which need nothing else of numba."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    found = importlib.util.find_spec("numba")
    assert found is not None
    assert found.origin is not None
    root = Path(found.origin).parent
    for place, prefix in _RUNTIME.items():
        name = "numba." + place.replace("/", ".")
        module = sys.modules.get(name)
        if module is None:
            spec = PathFinder.find_spec(name, [str((root / place).parent)])
            if spec is None or spec.loader is None:  # another numba: what asks for it is not loaded
                continue
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[name] = module  # numba, imported later, takes it from there
        for helper, address in module.c_helpers.items():
            llvm.add_symbol(helper if helper.startswith("_") else prefix + helper, address)
