"""`dsllm dedup --engine ray` on a cluster of two nodes, one of which is killed in the middle."""

import threading
import time
from pathlib import Path

import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.dedup import run as run_module
from dsllm.stages.dedup.config import DedupConfig

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.xdist_group("ray")  # two clusters on one machine would meet


@pytest.fixture
def cluster(monkeypatch):
    """A head without a processor, a node that will be lost and one that will not."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"include_dashboard": False, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={**small, "num_cpus": 0})
    yield made
    ray.shutdown()
    made.shutdown()


def write_sources(folder: Path) -> list[str]:
    """Texts of 400 words in families, some with the same notice, in files of several batches."""
    paths = []
    for index in range(3):
        lines = []
        for n in range(400):
            family = (index * 400 + n) % 150 + 75 * (index == 2)
            words = [f"w{family * 7 + k * k % 997}" for k in range(400)]
            words[n % 400] = f"x{index}-{n}"
            words += [f"notice{k}" for k in range(30)] * (family % 3 == 0)
            lines.append(
                orjson.dumps({"id": f"{index}-{n}", "dump": str(index), "text": " ".join(words)}) + b"\n"
            )
        path = folder / f"{index}.jsonl"
        path.write_bytes(b"".join(lines))
        paths.append(str(path))
    return paths


def shards(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("[s0]*")}


def settings_of(folder: Path, name: str, *, is_against: bool) -> DedupConfig:
    """Strings and rates by dump; or against the first file's index, which another is to be added to."""
    if not is_against:
        return DedupConfig(cut_spans=20, by="dump")
    return DedupConfig(
        cut_spans=20, against=(str(folder / "index"),), write_index=str(folder / f"index-{name}")
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_against", [False, True])
def test_a_lost_node_changes_no_byte(tmp_path, monkeypatch, cluster, is_against):
    monkeypatch.setattr("dsllm.io.batches.BATCH_BYTES", 50_000)
    sources = write_sources(tmp_path)
    quiet = Reporter(is_quiet=True)
    if is_against:
        config = DedupConfig(write_index=str(tmp_path / "index"))
        old = str(tmp_path / "old")
        run_module.run(config, sources[:1], old, options=RunOptions(), reporter=quiet)
        del sources[0]
    config = settings_of(tmp_path, "local", is_against=is_against)
    run_module.run(config, sources, str(tmp_path / "local"), options=RunOptions(), reporter=quiet)

    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    begun = tmp_path / "ray" / ".work" / "00000.done"

    def lose_a_node():
        while not begun.exists():
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)
        lost.set()

    lost = threading.Event()
    killer = threading.Thread(target=lose_a_node, daemon=True)
    killer.start()
    options = RunOptions(engine="ray", ray_address=cluster.address)
    config = settings_of(tmp_path, "ray", is_against=is_against)
    counts = run_module.run(config, sources, str(tmp_path / "ray"), options=options, reporter=quiet)
    killer.join(60)
    assert lost.is_set()
    assert counts["n_removed_near"] > 0
    assert counts["n_cut"] > 0
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")
    assert shards(tmp_path / "index-ray") == shards(tmp_path / "index-local")
    assert bool(shards(tmp_path / "index-ray")) == is_against == bool(counts.get("n_removed_for_indexed"))
    bloom = DedupConfig(bloom=True)
    run_module.run(bloom, sources, str(tmp_path / "local-bloom"), options=RunOptions(), reporter=quiet)
    run_module.run(bloom, sources, str(tmp_path / "ray-bloom"), options=options, reporter=quiet)
    assert shards(tmp_path / "ray-bloom") == shards(tmp_path / "local-bloom")
