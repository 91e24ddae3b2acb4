import json

import pytest
import torch
from torch import nn

from dsllm.errors import OutputError, ShardError
from dsllm.train.checkpoint import (
    TrainState,
    clear_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    thin_checkpoints,
)
from dsllm.train.optimizer import make_optimizer, set_learning_rate

FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


def make(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return model, make_optimizer(model, weight_decay=0.1)


def update(model, optimizer, step):
    torch.manual_seed(100 + step)
    set_learning_rate(optimizer, 0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture
def trained(tmp_path):
    """A model after two updates, with a checkpoint after each."""
    model, optimizer = make(0)
    for step in range(2):
        update(model, optimizer, step)
        save_checkpoint(tmp_path, model, optimizer, TrainState(step=step + 1, summary={"loss": 0.1 + step}))
    return tmp_path, model, optimizer


def test_training_goes_on_to_equal_bits(trained):
    folder, model, optimizer = trained
    other, other_optimizer = make(1)
    state = load_checkpoint(latest_checkpoint(folder), other, other_optimizer)
    assert (state.step, state.summary) == (2, {"loss": 1.1})
    for step in (2, 3):
        update(model, optimizer, step)
        update(other, other_optimizer, step)
    for expected, actual in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_checkpoint_before_the_first_update(tmp_path):
    model, optimizer = make(0)
    save_checkpoint(tmp_path, model, optimizer, TrainState())
    other, other_optimizer = make(1)
    assert load_checkpoint(latest_checkpoint(tmp_path), other, other_optimizer) == TrainState()
    update(model, optimizer, 0)
    update(other, other_optimizer, 0)
    assert torch.equal(model[0].weight, other[0].weight)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_cut_checkpoint_is_passed_over(trained, name, damage):
    folder, _, _ = trained
    before, newest = list_checkpoints(folder)
    path = newest / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: -3 if damage == "cut" else 0])
    assert list_checkpoints(folder) == [before]


@pytest.mark.parametrize("name", FILES[:2])
def test_changed_byte_is_found(trained, name):
    folder, _, _ = trained
    path = latest_checkpoint(folder) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=f"{name}: its sha256"):
        load_checkpoint(path.parent, *make(1))


def test_checkpoint_of_another_model_is_refused(trained):
    folder, _, _ = trained
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    with pytest.raises(ShardError, match="of another model"):
        load_checkpoint(latest_checkpoint(folder), other, make_optimizer(other, weight_decay=0.1))


def test_half_written_checkpoint_is_neither_taken_nor_kept(trained):
    folder, model, optimizer = trained
    place = folder / "checkpoints"
    newest = latest_checkpoint(folder)
    newest.rename(place / ".partial-step-00000003")  # as a kill leaves it before the rename
    assert latest_checkpoint(folder).name == "step-00000001"
    save_checkpoint(folder, model, optimizer, TrainState(step=4))
    assert sorted(path.name for path in place.iterdir()) == ["step-00000001", "step-00000004"]


def test_thinning_keeps_the_newest_and_the_permanent(tmp_path):
    model, optimizer = make(0)
    for step in range(1, 8):
        save_checkpoint(tmp_path, model, optimizer, TrainState(step=step))
    thin_checkpoints(tmp_path, n_kept=2, keep_every_steps=3)
    assert [int(path.name[-2:]) for path in list_checkpoints(tmp_path)] == [3, 6, 7]
    clear_checkpoints(tmp_path, keep_every_steps=3)
    assert [int(path.name[-2:]) for path in list_checkpoints(tmp_path)] == [3, 6]
    clear_checkpoints(tmp_path, keep_every_steps=None)
    assert not (tmp_path / "checkpoints").exists()


def test_unwritable_folder_is_said(tmp_path):
    (tmp_path / "checkpoints").write_bytes(b"a file in the way")
    with pytest.raises(OutputError, match="step-00000001"):
        save_checkpoint(tmp_path, *make(0), TrainState(step=1))


def test_state_is_for_people_too(trained):
    folder, _, _ = trained
    state = json.loads((latest_checkpoint(folder) / "state.json").read_bytes())
    assert state["step"] == 2
    assert set(state["files"]) == set(FILES[:2])
