"""The processes of a run: which one this is, and sums over all of them.

`torchrun` tells each process its place in environment variables; this is the only file that reads any.
Data parallelism: every rank holds the whole model, works on its part of each global batch, and the summed
gradients are added up over ranks after the last micro-batch, in flat buckets. Rank 0 alone writes files.
The gloo path (CPU) is tested with two ranks; the NCCL path (CUDA) has not run on a GPU yet.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dsllm.errors import ConfigError

BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Add up each number over ranks, in fp64."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over ranks; a rank that had no batch adds zero."""
        if self.world_size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all ranks by those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def share_object(self, value: object) -> object:
        """Return rank 0's value on every rank; it must pickle."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def start_ranks(device: str, *, environment: Mapping[str, str] | None = None) -> Iterator[Ranks]:
    """Join the other processes of the run, if a launcher has started any, and leave them at the end.

    Args:
        device: "auto", "cpu" or "cuda".
        environment: where RANK, WORLD_SIZE and LOCAL_RANK stand; the process's own by default.

    Raises:
        ConfigError: CUDA is asked for and absent, or fewer GPUs than ranks on this machine.
    """
    variables = os.environ if environment is None else environment
    rank, world_size, local_rank = (
        int(variables.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    place = find_device(device, local_rank)
    ranks = Ranks(rank=rank, world_size=world_size, local_rank=local_rank, device=place)
    if world_size == 1:
        yield ranks
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", rank=rank, world_size=world_size)
    try:
        yield ranks
        dist.barrier()  # nobody leaves while another rank still sums
    finally:
        dist.destroy_process_group()


def find_device(device: str, local_rank: int = 0) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into the device of this rank."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is {device}, but torch {torch.__version__} finds no GPU here",
            hint="try --device cpu, or install a torch with CUDA on a machine with a GPU",
        )
    n_gpus = torch.cuda.device_count()
    if local_rank >= n_gpus:
        raise ConfigError(
            f"local rank {local_rank} needs a GPU of its own, but there are {n_gpus}",
            hint=f"try torchrun --nproc-per-node {n_gpus}",
        )
    return torch.device("cuda", local_rank)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut the gradients into runs of about BUCKET_BYTES of one dtype."""
    bucket: list[Tensor] = []
    n_bytes = 0
    for gradient in gradients:
        if bucket and (n_bytes >= BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, n_bytes = [], 0
        bucket.append(gradient)
        n_bytes += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket
