import pytest

from dsllm.errors import ConfigError
from dsllm.kernels import report

KIB = 1024


def test_kernels_for_hopper_do_not_spill_and_use_its_tensor_cores():
    rows = report.run("sm_90")  # a 7B model: 4096 wide, heads of 128 channels
    assert {row.kernel for row in rows} == {
        "rms_norm forward",
        "rms_norm backward",
        "attention forward",
        "attention backward of queries",
        "attention backward of keys",
    }
    for row in rows:
        assert row.n_spills == 0, row
        assert row.shared_bytes <= 227 * KIB, row
        assert 0 < row.n_registers <= 255, row
        if row.kernel.startswith("attention"):
            assert row.tensor_instruction == "HGMMA", row
            assert row.n_tensor_instructions > 0, row
        assert row.is_sound, row


def test_a_kernel_that_spills_or_is_too_large_is_not_sound():
    numbers = {"n_registers": 255, "n_spills": 0, "shared_bytes": 99, "max_shared_bytes": 100}
    names = {"kernel": "attention", "case": "", "arch": "sm_90", "n_warps": 8}
    tensor = {"tensor_instruction": "HGMMA", "n_tensor_instructions": 4, "needs_tensor_cores": True}
    assert report.Resources(**names, **tensor, **numbers).is_sound
    assert not report.Resources(**names, **tensor, **{**numbers, "n_spills": 1}).is_sound
    assert not report.Resources(**names, **tensor, **{**numbers, "shared_bytes": 101}).is_sound
    assert not report.Resources(**names, **{**tensor, "n_tensor_instructions": 0}, **numbers).is_sound


def test_unknown_machine_is_named():
    with pytest.raises(ConfigError, match="'sm_3'") as caught:
        report.run("sm_3")
    assert "sm_90" in caught.value.hint
