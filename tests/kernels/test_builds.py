import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from dsllm.kernels import adamw_triton, cross_entropy_logits_triton, report
from dsllm.kernels import rms_norm_triton, rope_triton, swiglu_triton

arch = sys.argv[1]
builds = [  # the last one of each is the one that takes most
    rms_norm_triton.builds(4096, arch)[-1],
    rope_triton.builds(128, 64, 8, arch)[-1],
    swiglu_triton.builds(11008, arch)[-1],
    cross_entropy_logits_triton.builds(102400, arch)[-1],
    adamw_triton.builds(arch)[0],
]
for build in builds:
    compiled = report.compile_kernel(build, arch)
    row = report.read_resources(build, compiled, arch)
    code = compiled.asm["ptx" if arch.startswith("sm") else "amdgcn"]
    print(json.dumps([row.kernel, row.case, row.is_sound, row.n_registers, "v4" in code or "x4" in code]))
"""


@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_kernels_compile_without_spills_and_move_16_bytes_at_a_time(arch):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-c", SCRIPT, arch]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 5
    for kernel, case, is_sound, n_registers, is_wide in rows:
        assert is_sound, (kernel, case)
        assert 0 < n_registers <= 128, (kernel, case, n_registers)
        assert is_wide, (kernel, case)
