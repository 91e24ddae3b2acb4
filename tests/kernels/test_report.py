import json
import math

import pytest

from dsllm.cli import kernels as kernels_command
from dsllm.errors import ConfigError
from dsllm.kernels import report
from dsllm.kernels.build import Build, Work
from dsllm.kernels.hardware import UNITS, occupancy
from dsllm.kernels.machine_code import find_inner_loop

KIB = 1024


def test_kernels_for_hopper_do_not_spill_and_use_its_tensor_cores():
    rows = report.run(["sm_90"], kernels=["rms_norm", "attention forward 32 heads"])
    assert {row.kernel for row in rows} == {"rms_norm forward", "rms_norm backward", "attention forward"}
    for row in rows:
        assert row.n_spills == 0, row
        assert row.shared_bytes <= 227 * KIB, row
        assert 0 < row.n_registers <= 255, row
        assert row.n_programs >= 1, row
        if row.kernel == "attention forward":
            assert row.tensor_instruction == "HGMMA", row
            assert row.has_block_copies, row
            assert [bound.gpu for bound in row.bounds] == ["H100 SXM", "H200 SXM"]
        if row.kernel == "attention forward" and "128 channels" in row.case:
            assert row.tensor_frac >= 0.6, row
        assert row.is_sound, row


def test_every_kernel_is_listed():
    names = {build.name.split()[0] for build in report.list_builds("sm_90")}
    assert names == {"rms_norm", "swiglu", "cross_entropy", "adamw", "attention", "rope", "decode"}


def find_misses(**changes):
    good = {
        "n_spills": 0,
        "n_missing_bytes": -1,
        "instruction": "HGMMA",
        "own_instruction": "HGMMA",
        "tensor_frac": 0.6,
        "min_tensor_frac": 0.6,
    }
    return report.find_misses(**{**good, **changes})


def test_a_kernel_that_misses_a_bar_is_not_sound():
    assert not find_misses()
    assert not find_misses(instruction=None, tensor_frac=None)  # no products
    assert find_misses(n_spills=1) == ["1 spills"]
    assert find_misses(n_missing_bytes=1)
    assert find_misses(instruction="HMMA") == ["HMMA, not HGMMA"]
    assert find_misses(instruction="") == ["no tensor cores, not HGMMA"]
    assert find_misses(tensor_frac=0.59)


def test_command_fails_when_a_bar_is_missed(monkeypatch, capsys):
    numbers = dict.fromkeys(("n_warps", "n_registers", "n_spills", "shared_bytes", "max_shared_bytes"), 8)
    numbers |= {"n_programs": 1, "n_resident_warps": 8, "n_tensor_instructions": 0, "n_bytes": 1}
    names = {
        "occupancy_limit": "registers",
        "tensor_instruction": "",
        "has_block_copies": False,
        "work_case": "",
    }
    unknown = dict.fromkeys(("tensor_frac", "overlapped_tensor_frac", "flops", "tile_flops", "tile_bytes"))
    row = {"kernel": "a", "case": "", "arch": "sm_90", **numbers, **names, **unknown}
    bounds = [report.Bound("H100 SXM", 1.5, 2e12, "memory")]
    for misses in ([], ["8 spills"]):
        found = [report.Resources(**row, bounds=bounds, misses=misses)]
        monkeypatch.setattr(kernels_command, "run", lambda archs, kernels, rows=found: rows)
        assert kernels_command.report(["sm_90"], [], is_json=True) == (not misses)
        (printed,) = json.loads(capsys.readouterr().out)
        assert printed["misses"] == misses
        assert printed["bounds"][0]["time_us"] == 1.5
        assert kernels_command.report(["sm_90"], [], is_json=False) == (not misses)
        assert ("8 spills" in capsys.readouterr().err) == bool(misses)


def test_unknown_machine_and_unknown_kernel_are_named():
    with pytest.raises(ConfigError, match="'sm_3'") as caught:
        report.run(["sm_3"])
    assert "sm_90" in caught.value.hint
    with pytest.raises(ConfigError, match="nothing_like_it"):
        report.run(["sm_90"], kernels=["nothing_like_it"])


@pytest.mark.parametrize(
    ("arch", "n_warps", "n_registers", "shared_kib", "expected"),
    [
        # 128 x 32 registers a warp, 4,096; a quarter's 16,384 hold 4 warps, so 16 in all: two programs of 8
        ("sm_90", 8, 128, 0, (2, "registers")),
        # 97 x 32 is 3,104, rounded up to 3,328 by steps of 256: 4 warps a quarter again
        ("sm_90", 8, 97, 0, (2, "registers")),
        ("sm_90", 4, 32, 75, (3, "shared memory")),  # 76 with the system's own of 228
        ("sm_80", 8, 16, 0, (8, "warps")),
        ("sm_80", 1, 16, 0, (32, "programs")),
        ("gfx942", 4, 256, 16, (2, "registers")),  # 512 a lane: two waves on each of four units
        ("gfx942", 4, 64, 32, (2, "shared memory")),
    ],
)
def test_occupancy_by_hand(arch, n_warps, n_registers, shared_kib, expected):
    found = occupancy(UNITS[arch], n_warps=n_warps, n_registers=n_registers, shared_bytes=shared_kib * KIB)
    assert (found.n_programs, found.limit) == expected
    assert found.n_warps == found.n_programs * n_warps


def test_tensor_memory_bounds_blackwell():
    found = occupancy(UNITS["sm_100"], n_warps=4, n_registers=32, shared_bytes=0, tensor_columns=256)
    assert (found.n_programs, found.limit) == (2, "tensor memory")  # of 512 columns


def test_bound_by_hand():
    numbers = {"kernel": None, "types": {}, "constants": {}, "options": {}, "uses_tensor_cores": True}
    # An H100: 989.4e12 operations a second and 3.35e12 bytes a second.
    busy = Build("a", "", **numbers, work=Work("", flops=int(989.4e9), n_bytes=1))
    bound = report.list_bounds(busy, "sm_90")[0]
    assert (bound.gpu, bound.limit) == ("H100 SXM", "arithmetic")
    assert math.isclose(bound.time_us, 1000)
    moving = Build("a", "", **numbers, work=Work("", flops=1, n_bytes=int(6.7e9)))
    bound = report.list_bounds(moving, "sm_90")[0]
    assert bound.limit == "memory"
    assert math.isclose(bound.time_us, 2000)
    assert report.list_bounds(Build("a", "", **numbers), "sm_90") == []


LOOP = """
        /*0100*/                   MOV R1, R2 ;
.L_x_1:
        /*0110*/                   WARPGROUP.ARRIVE ;
        /*0120*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT ;
        /*0130*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24, gsb0 ;
        /*0140*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0150*/              @!P4 BRA P3, `(.L_x_2) ;
        /*0160*/                   FSEL R26, R26, -INF, P1 ;
        /*0170*/                   FSEL R27, R27, -INF, P1 ;
.L_x_2:
        /*0180*/                   MUFU.EX2 R3, R3 ;
        /*0190*/                   MUFU.EX2 R4, R4 ;
        /*01a0*/                   FFMA R3, R4, R5, R6 ;
        /*01b0*/               @P3 BRA `(.L_x_1) ;
        /*01c0*/                   EXIT ;
"""


def test_cycles_of_a_loop_by_hand():
    loop = find_inner_loop(LOOP)
    # 9 instructions without the mask, which a branch jumps over; 64 + 32 cycles of products; 2 x 8 of exp2
    assert loop.n_instructions == 9
    assert (loop.tensor_cycles, loop.other_cycles) == (96, 16)
    assert (loop.n_products, loop.n_waits) == (2, 1)
    assert math.isclose(loop.tensor_frac, 96 / 112)
    assert loop.overlapped_tensor_frac == 1
    assert find_inner_loop("no loop") is None
