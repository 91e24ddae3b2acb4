"""The same map on a Ray cluster: one Ray task per item, results in order, lost nodes retried by Ray."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, WorkerError

T = TypeVar("T")
R = TypeVar("R")

AHEAD_PER_CPU = 4
_loaded: dict[str, Callable[[Any], Any]] = {}  # in a Ray worker: the task it has unpickled


def map_on_ray(
    task: Callable[[T], R], items: Iterable[T], *, options: RunOptions, describe: Callable[[T], str]
) -> Iterator[R]:
    """Yield `task(item)` in order; `--ray-address` names the cluster, without it one starts on this machine.

    Raises:
        ConfigError: Ray is not installed.
        WorkerError: an item's worker was lost more often than Ray retries.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs the package ray", hint="pip install 'dsllm[ray]'") from None
    if not ray.is_initialized():
        start = {} if options.ray_address else {"num_cpus": options.n_workers, "include_dashboard": False}
        ray.init(address=options.ray_address, log_to_driver=False, configure_logging=False, **start)
    name, reference = uuid.uuid4().hex, ray.put(task)
    remote = ray.remote(max_retries=3)(_run)
    ahead = AHEAD_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[tuple[T, Any]] = deque()
    for item in items:
        waiting.append((item, remote.remote(name, [reference], item)))
        if len(waiting) >= ahead:
            yield _take(*waiting.popleft(), describe)
    while waiting:
        yield _take(*waiting.popleft(), describe)


def _run(name: str, references: list[Any], item: Any) -> Any:
    """Run in a Ray worker: the task is fetched once per process, not once per item."""
    if name not in _loaded:
        import ray

        _loaded.clear()
        _loaded[name] = ray.get(references[0])
    return _loaded[name](item)


def _take(item: T, reference: Any, describe: Callable[[T], str]) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"Ray lost the work on {describe(item)}: {type(error).__name__}",
            hint="see the cluster's logs; the same command carries on",
        ) from None
