"""Map a task over items, in order: in this process, in threads, in a pool of processes, or on Ray.

A task that spends its time in compiled code without Python's global lock says so (`releases_lock = True`)
and runs in threads: nothing is started, and nothing copied. The pool of processes is its own because it must
know which item a dead worker held: the standard executors only say that the pool is broken. A worker has one
item at a time; one that dies is replaced and its item tried once more.
"""

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from dsllm.config import RunOptions
from dsllm.errors import DsllmError, WorkerError
from dsllm.progress import Reporter
from dsllm.workers.heap import keep_freed_memory

T = TypeVar("T")
R = TypeVar("R")

AHEAD_PER_WORKER = 4  # items begun but not yet yielded, per worker: bounds the memory


def map_ordered(
    task: Callable[[T], R],
    items: Iterable[T],
    *,
    options: RunOptions,
    describe: Callable[[T], str] = repr,
    reporter: Reporter | None = None,
) -> Iterator[R]:
    """Yield `task(item)` for every item, in the order of the items, whoever computes it.

    `task` is pickled once per worker: a frozen dataclass with `__call__`, or a function of a module.
    `describe` names an item in messages. With one worker, or one item, all of it happens in this process.

    Raises:
        WorkerError: a worker died twice on the same item.
        DsllmError: what the task raised, when its turn comes.
    """
    if options.engine == "ray":
        from dsllm.workers.ray import map_on_ray

        yield from map_on_ray(task, items, options=options, describe=describe)
        return
    keep_freed_memory()
    remaining = iter(items)
    head = list(islice(remaining, 2)) if options.n_workers > 1 else []
    if len(head) < 2:
        for item in chain(head, remaining):
            yield task(item)
        return
    if getattr(task, "releases_lock", False):
        yield from _map_in_threads(task, chain(head, remaining), options.n_workers)
        return
    pool = _Pool(task, options.n_workers, describe, reporter)
    try:
        yield from pool.map(chain(head, remaining))
    finally:
        pool.stop()


def _map_in_threads(task: Callable[[T], R], items: Iterator[T], n_workers: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    ahead = AHEAD_PER_WORKER * n_workers
    with ThreadPoolExecutor(n_workers) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(task, item))
                # What is done goes on at once: it would be left for when the workers have no more to do.
                while waiting and (len(waiting) >= ahead or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


@dataclass
class _Worker(Generic[T]):
    process: BaseProcess
    connection: Connection
    number: int | None = None  # of the item it works on
    item: T | None = None
    n_deaths: int = 0  # of workers on this item


class _Pool(Generic[T, R]):
    def __init__(
        self, task: Callable[[T], R], n_workers: int, describe: Callable[[T], str], reporter: Reporter | None
    ) -> None:
        self._task, self._describe, self._reporter = task, describe, reporter
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker[T]] = [self._start_worker() for _ in range(n_workers)]
        self._results: dict[int, tuple[bool, Any]] = {}

    def map(self, items: Iterator[T]) -> Iterator[R]:
        ahead = AHEAD_PER_WORKER * len(self._workers)
        n_begun = n_yielded = 0
        has_more = True
        while True:
            for worker in self._workers:
                if worker.number is None and has_more and n_begun < n_yielded + ahead:
                    try:
                        item = next(items)
                    except StopIteration:
                        has_more = False
                        break
                    worker.number, worker.item, worker.n_deaths = n_begun, item, 0
                    n_begun += 1
                    self._send(worker)
            if n_yielded in self._results:
                is_good, result = self._results.pop(n_yielded)
                if not is_good:
                    raise result
                n_yielded += 1
                yield result
            elif n_yielded == n_begun and not has_more:
                return
            else:
                self._receive()

    def stop(self) -> None:
        """End the workers, whatever they do."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def _start_worker(self) -> _Worker[T]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._task), daemon=True)
        # Ctrl-C would stop a worker that starts, with a trace, before `_work` can see to it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours)

    def _send(self, worker: _Worker[T]) -> None:
        with suppress(OSError):  # it is dead; _receive will find out
            worker.connection.send(worker.item)

    def _receive(self) -> None:
        """Wait for results; replace the workers that died."""
        busy = {worker.connection: worker for worker in self._workers if worker.number is not None}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            try:
                result = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            assert worker.number is not None
            self._results[worker.number] = result
            worker.number = worker.item = None

    def _replace(self, worker: _Worker[T]) -> None:
        worker.process.join()
        worker.connection.close()
        cause = _cause_of_death(worker.process.exitcode)
        place = self._describe(worker.item) if worker.item is not None else "nothing"
        worker.n_deaths += 1
        if worker.n_deaths > 1:
            raise WorkerError(
                f"a worker was lost twice on {place}: {cause}",
                hint="give fewer --workers if memory ran out; the same command carries on",
            )
        if self._reporter:
            self._reporter.say(f"dsllm: a worker was lost ({cause}) on {place}; trying once more")
        fresh = self._start_worker()
        worker.process, worker.connection = fresh.process, fresh.connection
        self._send(worker)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}, perhaps out of memory" if name == "SIGKILL" else f"killed by {name}"
    return f"exit status {exit_code}"


def _work(connection: Connection, task: Callable[[Any], Any]) -> None:
    """What a worker process does: items in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    keep_freed_memory()
    try:
        while True:
            connection.send(_attempt(task, connection.recv()))
    except (EOFError, OSError):  # the parent is gone
        os._exit(0)


def _attempt(task: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, task(item)
    except (DsllmError, OSError) as error:
        return False, error
    except MemoryError as error:  # NumPy's own cannot be sent
        return False, MemoryError(str(error))
    except Exception as error:  # noqa: BLE001  # a fault of the program: the parent raises it with its trace
        return False, RuntimeError(f"{error!r} in a worker process\n{traceback.format_exc()}")
