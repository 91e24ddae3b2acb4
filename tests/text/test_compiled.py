"""What `text/compiled.py` says of compiling, and that kept code computes what Python does."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dsllm.text import compiled as module
from dsllm.text.compiled import announce_compiling, compiled, kept_array, kept_object


@compiled
def _half(value):
    return value / 2


@compiled
def _describe(values, weights, factor, is_negative, wide):
    """Every kind of argument and of result; calls another compiled function."""
    total = np.zeros(1, np.float64)  # memory of its own: numba's runtime is asked for it
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            total[0] += values[row, column] * weights[column] * factor
    if is_negative:
        total[0] = -total[0]
    weights[0] = 7.0
    return values.shape[0], total[0], is_negative, wide + np.uint64(1), _half(total[0])


def _arguments():
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    return values, np.array([1.0, 10.0, 100.0]), 0.5, True, np.uint64(2**64 - 2)


def test_arguments_and_results_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path)
    for _ in range(2):  # made, then found
        _describe._runs.clear()
        weights = np.array([1.0, 10.0, 100.0])
        values, _, factor, is_negative, wide = _arguments()
        found = _describe(values, weights, factor, is_negative, wide)
        # (0 + 10 + 200 + 3 + 40 + 500) / 2
        assert found == (2, -376.5, True, 2**64 - 1, -188.25)
        assert [type(value) for value in found] == [int, float, bool, int, float]
        assert weights[0] == 7.0
    assert len(list(tmp_path.iterdir())) == 1


def test_one_function_takes_arrays_of_several_kinds():
    assert (_half(3), _half(3.0)) == (1.5, 1.5)


def test_compiling_is_announced_once_and_only_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path)
    said = []
    with announce_compiling(said.append):
        _half._runs.clear()
        assert (_half(1), _half(1.0), _half(np.uint64(4))) == (0.5, 0.5, 2.0)
        assert len(said) == 1
    _half._runs.clear()
    with announce_compiling(said.append):
        assert _half(1) == 0.5
    assert len(said) == 1  # it was there
    _half(True)
    assert len(said) == 1


def test_without_a_folder_the_function_runs_anyway(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path / "file" / "folder")
    _half._runs.clear()
    assert _half(5) == 2.5
    _half._runs.clear()


def test_code_that_asks_for_an_unknown_symbol_is_not_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path)
    _half._runs.clear()
    _half(5)
    (path,) = tmp_path.iterdir()
    head, _, code = path.read_bytes().partition(b"\n")
    asking = json.loads(head) | {"asks": ["no_such_symbol"]}
    path.write_bytes(json.dumps(asking).encode() + b"\n" + code)
    _half._runs.clear()
    assert _half(5) == 2.5
    assert _half._runs[("i8",)] is _half.dispatcher
    _half._runs.clear()


def test_an_array_with_gaps_is_refused():
    with pytest.raises(AssertionError, match="not contiguous"):
        _describe(*_arguments()[:1], np.zeros(6)[::2], 1.0, False, np.uint64(0))


def test_an_array_of_another_byte_order_is_refused():
    with pytest.raises(AssertionError, match="byte order"):
        _describe(np.zeros((2, 3), ">i4"), np.zeros(3), 1.0, False, np.uint64(0))


def test_an_array_is_made_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path / "folder")
    made = []

    def make():
        made.append(1)
        return np.arange(5, dtype=np.uint32)

    for _ in range(2):
        assert kept_array("five", make).tolist() == [0, 1, 2, 3, 4]
    assert len(made) == 1
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path / "folder" / "five.npy" / "none")
    assert kept_array("five", make).tolist() == [0, 1, 2, 3, 4]


def test_an_object_is_made_once_and_kept_and_again_where_its_file_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path / "folder")
    made = []

    def make():
        made.append(1)
        return {"five": np.arange(5)}

    for n_made in (1, 1, 2, 2):
        if n_made > len(made) > 0:
            (tmp_path / "folder" / "five.pickle").write_bytes(b"\x80\x05cut")
        assert kept_object("five", make)["five"].tolist() == [0, 1, 2, 3, 4]
        assert len(made) == n_made
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path / "folder" / "five.pickle" / "none")
    assert kept_object("five", make)["five"].tolist() == [0, 1, 2, 3, 4]


def test_kept_code_needs_no_numba():
    script = (
        "import sys, numpy as np\n"
        "from dsllm.text.json_lines_compiled import count_line_feeds\n"
        "assert count_line_feeds(np.frombuffer(b'a\\nb\\n', np.uint8)) == 2\n"
        "print('numba' in sys.modules)"
    )
    for expected in (None, "False"):  # the first may have to compile
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert expected in (None, run.stdout.strip())


def test_several_may_keep_the_same_file_at_once(tmp_path):
    path, data = tmp_path / "made" / "file", bytes(1 << 16)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: module._keep(path, data), range(200)))
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_threads_that_ask_for_an_array_at_once_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_folder", lambda: tmp_path)
    n_made = []
    with ThreadPoolExecutor(8) as threads:
        found = list(
            threads.map(
                lambda _: kept_array("squares", lambda: n_made.append(1) or np.arange(9) ** 2), range(50)
            )
        )
    assert all(array.tolist() == [0, 1, 4, 9, 16, 25, 36, 49, 64] for array in found)
    assert len(n_made) == 1
