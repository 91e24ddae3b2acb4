"""How long `dsllm --help` takes, and what it imports: the whole process, several times.

python benchmarks/start_up.py
"""

import statistics
import subprocess
import sys
import time

N_RUNS = 9


def main() -> None:
    """Print the median time and whether torch was imported."""
    seconds = []
    for _ in range(N_RUNS):
        started_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dsllm", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started_s)
    code = (
        "import sys; from dsllm.cli.main import run_command_line; run_command_line(['--help']); "
        "print('torch' in sys.modules)"
    )
    imports = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    print(
        f"dsllm --help: median {statistics.median(seconds):.3f} s of {N_RUNS} runs, best {min(seconds):.3f} s"
    )
    print(f"imports torch: {imports.stdout.split()[-1]}")


if __name__ == "__main__":
    main()
