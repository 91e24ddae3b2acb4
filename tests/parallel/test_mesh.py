import json
import multiprocessing
import os
import socket

import pytest
import torch
from torch import nn

from dsllm.errors import ConfigError
from dsllm.parallel import mesh
from dsllm.parallel.mesh import Ranks, find_device, start_ranks

WORLD_SIZE = 2


def run_rank(folder, environment):
    """One rank, as a launcher starts it: does a bit of everything and writes what it saw."""
    torch.set_num_threads(1)
    os.environ.update(environment)
    with start_ranks("cpu") as ranks:
        shared = torch.full((2,), float(ranks.rank + 5))
        ranks.share([shared])
        seen = {
            "place": [ranks.rank, ranks.world_size, ranks.local_rank, ranks.is_first],
            "numbers": ranks.sum_numbers([1.0, ranks.rank]),
            "gradients": sum_gradients(ranks),
            "shared": shared.tolist(),
            "object": ranks.share_object({"rank": ranks.rank}),
        }
        ranks.wait()
    (folder / f"seen-{ranks.rank}.json").write_text(json.dumps(seen))


def sum_gradients(ranks):
    """Gradients of three sizes in buckets of 16 bytes; all ranks but the first have none for the third."""
    mesh.BUCKET_BYTES = 16
    parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 5, 2)]
    for number, parameter in enumerate(parameters[: 2 if ranks.rank else 3]):
        parameter.grad = torch.arange(parameter.numel()) + 10.0 * number + 100.0 * ranks.rank
    ranks.sum_gradients(parameters)
    return [parameter.grad.tolist() for parameter in parameters]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What two ranks saw; they are told their place as torchrun does it, by environment variables."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    launcher = {"WORLD_SIZE": str(WORLD_SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = multiprocessing.get_context("forkserver")  # forks of a process that has computed nothing
    context.set_forkserver_preload(["torch"])
    processes = [
        context.Process(
            target=run_rank, args=(folder, {**launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * WORLD_SIZE
    return [json.loads((folder / f"seen-{rank}.json").read_bytes()) for rank in range(WORLD_SIZE)]


def test_ranks_know_their_place(seen):
    assert [rank["place"] for rank in seen] == [[0, 2, 0, True], [1, 2, 1, False]]


def test_numbers_are_summed(seen):
    assert [rank["numbers"] for rank in seen] == [[2.0, 1.0]] * 2


def test_gradients_are_summed_over_buckets(seen):
    # rank 0 has 0.. , 10.. and 20.., rank 1 has 100.. , 110.. and nothing
    expected = [[100.0, 102.0, 104.0], [120.0, 122.0, 124.0, 126.0, 128.0], [20.0, 21.0]]
    assert [rank["gradients"] for rank in seen] == [expected] * 2


def test_rank_0_is_heard(seen):
    assert [rank["shared"] for rank in seen] == [[5.0, 5.0]] * 2
    assert [rank["object"] for rank in seen] == [{"rank": 0}] * 2


def test_one_process_needs_no_launcher():
    with start_ranks("cpu", environment={}) as ranks:
        assert ranks == Ranks()
        assert ranks.sum_numbers([2.0]) == [2.0]
        assert ranks.share_object(3) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_said():
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="finds no GPU") as error:
        find_device("cuda")
    assert "--device cpu" in error.value.hint
