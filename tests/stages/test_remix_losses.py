"""`dsllm remix --from-losses`: a law fitted to small runs, and the shares at its lowest point."""

import itertools

import numpy as np
import orjson
import pytest

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.progress import Reporter
from dsllm.stages.remix import run as run_module
from dsllm.stages.remix.config import RemixConfig
from dsllm.stages.remix.mixing_law import MixingLaw, fit_law, lowest_point, propose, read_runs

NAMES = ("code", "en", "zh")
# A law made up: each domain is learned mostly from its own text, en and zh a little from each other.
LAW = MixingLaw(np.array([1.2, 1.9, 2.2]), np.array([[-1.6, 0.1, 0.2], [0.3, -1.1, -0.3], [0.4, -0.2, -1.4]]))


def mixtures(n, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(3), n)


def write_runs(path, weights, losses, *, scale=1.0):
    rows = [
        {
            "weights": dict(zip(NAMES, (shares * scale).tolist(), strict=True)),
            "losses": dict(zip(NAMES, of_run.tolist(), strict=True)),
        }
        for shares, of_run in zip(weights, losses, strict=True)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


def test_a_known_law_is_found_again():
    weights = mixtures(12)
    losses = np.array([LAW.losses(row) for row in weights])
    found = fit_law(weights, losses)
    others = mixtures(200, seed=1)
    expected = np.array([LAW.losses(row) for row in others])
    assert np.abs(np.array([found.losses(row) for row in others]) - expected).max() < 2e-3
    assert found.floors == pytest.approx(LAW.floors, abs=0.02)


@pytest.mark.parametrize("target", [(1, 1, 1), (0, 1, 0), (5, 1, 1)], ids=str)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.5)], ids=str)
def test_the_lowest_point_is_that_of_a_search_over_a_grid(target, low, high):
    weights = np.array(target) / sum(target)
    found = lowest_point(LAW, weights, low=np.full(3, low), high=np.full(3, high))
    grid = [
        np.array([a, b, 100 - a - b]) / 100
        for a, b in itertools.product(range(101), repeat=2)
        if all(low * 100 <= share <= high * 100 for share in (a, b, 100 - a - b))
    ]
    best = min(float(weights @ LAW.losses(shares)) for shares in grid)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= low - 1e-9).all()
    assert (found <= high + 1e-9).all()
    assert weights @ LAW.losses(found) <= best + 1e-9


def test_bounds_that_leave_no_choice_are_kept():
    found = lowest_point(LAW, np.full(3, 1 / 3), low=np.zeros(3), high=np.array([0.2, 0.2, 0.1]))
    assert found == pytest.approx([0.4, 0.4, 0.2])


def test_weights_of_a_run_are_shares_whatever_they_add_up_to(tmp_path):
    weights = mixtures(8)
    losses = np.array([LAW.losses(row) for row in weights])
    one = read_runs([write_runs(tmp_path / "one.jsonl", weights, losses)])
    ten = read_runs([write_runs(tmp_path / "ten.jsonl", weights, losses, scale=10.0)])
    assert ten.weights == pytest.approx(one.weights)
    assert one.weights == pytest.approx(weights)


def test_a_proposal_keeps_to_the_range_of_the_runs_and_states_its_error(tmp_path):
    weights = mixtures(10)
    losses = np.array([LAW.losses(row) for row in weights])
    runs = read_runs([write_runs(tmp_path / "runs.jsonl", weights, losses)])
    names = ["zh", "code", "en"]
    found = propose(runs, names, target={"zh": 1.0}, caps=[1.0, 1.0, 1.0])
    columns = weights[:, [NAMES.index(name) for name in names]]
    assert (columns.min(axis=0) - 1e-6 <= found.shares).all()
    assert (found.shares <= columns.max(axis=0) + 1e-6).all()
    expected = LAW.losses(np.array([found.shares[names.index(name)] for name in NAMES]))
    for loss, value in zip(NAMES, expected.tolist(), strict=True):
        assert found.losses[loss]["predicted"] == pytest.approx(value, abs=5e-3)
        assert found.losses[loss]["error"] < 0.02
    assert found.losses["zh"]["predicted"] <= losses[:, 2].min() + 1e-3
    capped = propose(runs, names, target={"zh": 1.0}, caps=[0.3, 1.0, 1.0])
    assert capped.shares[0] == pytest.approx(0.3, abs=1e-6)


def test_remix_reaches_the_proposed_shares(tmp_path):
    weights = mixtures(10)
    losses = np.array([LAW.losses(row) for row in weights])
    runs = write_runs(tmp_path / "runs.jsonl", weights, losses)
    inputs = []
    for name, n_documents in zip(NAMES, (300, 900, 400), strict=True):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"".join(b'{"text":"%s"}\n' % (b"x" * (20 + i % 50)) for i in range(n_documents)))
        inputs.append(f"{name}={path}")
    config = RemixConfig(from_losses=(runs,), target=("code=1", "zh=1"), max_epochs=4.0)
    arguments = {"options": RunOptions(n_workers=1), "reporter": Reporter(is_quiet=True)}
    counts = run_module.run(config, inputs, str(tmp_path / "out"), **arguments)
    planned = run_module.plan(config, inputs, str(tmp_path / "out"), **arguments)["shares"]
    for name, source in counts["sources"].items():
        assert source["reached"] == pytest.approx(source["wanted"], abs=0.005)
        assert source["wanted"] == pytest.approx(planned[name], abs=1e-6)
    assert set(counts["losses"]) == set(NAMES)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (b"", "no run in it"),
        (b"{", "line 1: not JSON"),
        (b'{"weights":{"en":1}}', "losses is None"),
        (b'{"weights":{"en":-1},"losses":{"en":1}}', "weights is"),
        (b'{"weights":{"en":0},"losses":{"en":1}}', "all weights are zero"),
        (b'{"weights":{"en":1},"losses":{"en":1}}\n{"weights":{"zh":1},"losses":{"en":1}}', "line 2"),
    ],
    ids=["empty", "json", "form", "negative", "zero", "names"],
)
def test_runs_of_another_form_are_named(tmp_path, lines, match):
    (tmp_path / "runs.jsonl").write_bytes(lines)
    with pytest.raises(InputError, match=match):
        read_runs([str(tmp_path / "runs.jsonl")])


def test_runs_that_say_too_little_are_refused(tmp_path):
    weights = mixtures(5)
    runs = read_runs([write_runs(tmp_path / "a.jsonl", weights[:4], weights[:4] + 1)])
    with pytest.raises(ConfigError, match="4 runs for 3 sources"):
        propose(runs, NAMES, target={}, caps=[1.0] * 3)
    same = np.tile(weights[:1], (6, 1))
    runs = read_runs([write_runs(tmp_path / "b.jsonl", same, same + 1)])
    with pytest.raises(ConfigError, match="1 of 3 directions"):
        propose(runs, NAMES, target={}, caps=[1.0] * 3)
    runs = read_runs([write_runs(tmp_path / "c.jsonl", weights, weights + 1)])
    with pytest.raises(ConfigError, match="the inputs have en, fr, zh"):
        propose(runs, ("en", "fr", "zh"), target={}, caps=[1.0] * 3)
    with pytest.raises(ConfigError, match="no loss 'fr'"):
        propose(runs, NAMES, target={"fr": 1.0}, caps=[1.0] * 3)
