import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dsllm.config import RunOptions
from dsllm.errors import DocumentError, WorkerError
from dsllm.progress import Reporter
from dsllm.workers.pool import map_ordered

TWO = RunOptions(n_workers=2)


class Heard(Reporter):
    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@dataclass(frozen=True)
class Square:
    def __call__(self, number: int) -> int:
        if number % 3 == 0:
            time.sleep(0.01)  # late, so that the order must be kept
        return number * number


@dataclass(frozen=True)
class DieAt:
    """Kill the worker at one item, the first `n_times` it is met."""

    number: int
    n_times: int
    folder: Path

    def __call__(self, number: int) -> int:
        if number == self.number and len(list(self.folder.iterdir())) < self.n_times:
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@dataclass(frozen=True)
class Refuse:
    def __call__(self, number: int) -> int:
        if number == 5:
            raise DocumentError("line 5", hint="mend it")
        if number == 7:
            raise ValueError("a fault of the program")
        if number == 8:
            raise OSError(errno.ENOSPC, "No space left", "a file")
        if number == 9:
            np.zeros(1 << 56)
        return number


class Masked:
    """Tells whether Ctrl-C was held back while the task was sent to the worker, before it worked."""

    def __getstate__(self) -> dict[str, bool]:
        return {"is_sent": True}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.is_held_back = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def __call__(self, number: int) -> bool:
        return self.is_held_back


@pytest.mark.parametrize("n_items", [0, 1, 2, 3, 25])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_items_and_none_is_lost(n_items, n_workers):
    options = RunOptions(n_workers=n_workers)
    results = list(map_ordered(Square(), iter(range(n_items)), options=options))
    assert results == [number * number for number in range(n_items)]


@pytest.mark.parametrize(("options", "n_ahead"), [(RunOptions(), 1), (TWO, 9)], ids=["one", "two"])
def test_items_are_taken_when_their_turn_comes(options, n_ahead):
    """One at a time; two workers have four each, and one more is taken before a result is asked for."""
    taken = []
    items = (taken.append(n) or n for n in range(100))
    for n_done, _ in enumerate(map_ordered(Square(), items, options=options), start=1):
        assert len(taken) <= n_done + n_ahead


def test_a_killed_worker_is_reported_and_its_item_tried_again(tmp_path):
    heard = Heard()
    task = DieAt(3, 1, tmp_path)
    results = map_ordered(task, range(8), options=TWO, describe=lambda n: f"shard {n}", reporter=heard)
    assert list(results) == list(range(8))
    assert heard.lines == [
        "dsllm: a worker was lost (killed by SIGKILL, perhaps out of memory) on shard 3; trying once more"
    ]


def test_an_item_that_kills_two_workers_stops_the_run(tmp_path):
    with pytest.raises(WorkerError, match="lost twice on shard 3: killed by SIGKILL"):
        list(map_ordered(DieAt(3, 2, tmp_path), range(8), options=TWO, describe=lambda n: f"shard {n}"))


def test_an_error_comes_at_its_turn_after_the_results_before_it():
    results = map_ordered(Refuse(), range(20), options=TWO)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DocumentError, match="line 5") as caught:
        next(results)
    assert caught.value.hint == "mend it"


def test_a_fault_in_a_worker_shows_its_trace():
    with pytest.raises(RuntimeError, match=r"(?s)a fault of the program.*in __call__"):
        list(map_ordered(Refuse(), [6, 7], options=TWO))


def test_what_the_machine_lacks_is_no_fault_of_the_program():
    with pytest.raises(OSError, match="No space left") as caught:
        list(map_ordered(Refuse(), [8, 8], options=TWO))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a file")
    with pytest.raises(MemoryError, match="Unable to allocate"):
        list(map_ordered(Refuse(), [9, 9], options=TWO))


def test_ctrl_c_does_not_reach_a_worker_that_starts():
    assert list(map_ordered(Masked(), [0, 1], options=TWO)) == [True, True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from dsllm.config import RunOptions\n"
        "from dsllm.workers.pool import map_ordered\n"
        "def task(n):\n"
        "    print(os.getpid(), flush=True)\n"
        "    return n\n"
        "if __name__ == '__main__':\n"
        "    results = map_ordered(task, range(100), options=RunOptions(n_workers=2))\n"
        "    next(results), next(results)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, script], check=False, stdout=subprocess.PIPE, text=True, timeout=60
    )
    # run() returns within its time only because every holder of the pipe has ended, the workers among them
    assert done.returncode == -signal.SIGKILL
    assert set(done.stdout.split())


@pytest.mark.xdist_group("ray")  # two clusters on one machine would meet
def test_ray_gives_the_same_results_and_errors():
    ray = pytest.importorskip("ray")
    options = RunOptions(n_workers=2, engine="ray")
    try:
        assert list(map_ordered(Square(), range(7), options=options)) == [n * n for n in range(7)]
        with pytest.raises(DocumentError, match="line 5"):
            list(map_ordered(Refuse(), range(6), options=options))
    finally:
        ray.shutdown()


class SquareInThreads(Square):
    releases_lock = True


def test_what_threads_have_done_goes_on_at_once_and_in_order():
    n_asked = 0

    def items():
        nonlocal n_asked
        for number in range(1, 40):
            n_asked += 1
            time.sleep(0.02)  # the one before is done
            yield number

    results = map_ordered(SquareInThreads(), items(), options=TWO)
    assert next(results) == 1
    assert n_asked < 8  # 4 for each worker may be begun
    assert list(results) == [number * number for number in range(2, 40)]
