"""The demo's targets, with stand-ins that only note what was called and write what make looks for."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DSLLM = """#!/bin/sh
out=$(echo "$*" | sed 's/.* -o \\([^ ]*\\).*/\\1/')
case "$1 $2" in
  chat*) echo chat >> calls; cat > /dev/null; echo answer; exit ;;
  report*) echo report >> calls; echo page > $out; exit ;;
esac
echo "$(basename $out)" >> calls
if [ "$(basename $out)" = "$(cat fails 2> /dev/null)" ]; then exit 1; fi
mkdir -p $out; echo '{}' > $out/manifest.json
if [ "$2" = plan ]; then
  echo "set -eu" > $out/ladder.sh
  echo "[ -e demo/runs/a/manifest.json ] || dsllm pretrain demo/tokens -o demo/runs/a" >> $out/ladder.sh
  echo "dsllm fit-scaling fit demo/runs -o demo/runs-fits" >> $out/ladder.sh
fi
"""
PYTHON = f"""#!/bin/sh
case "$1" in
  *split_settings.py) exec {sys.executable} "$@" ;;
  *demo_table.py) echo table >> calls; echo table; exit ;;
esac
basename $2 >> calls; mkdir -p $2; echo '{{}}' > $2/summary.json
"""
FIRST_RUN = (
    "raw tasks filtered unique mix tokenizer tokens tokens-heldout base sft dpo eval-base eval-sft eval-dpo "
    "ladder a fits report chat table"
)


@pytest.fixture
def demo(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in (("dsllm", DSLLM), ("python", PYTHON)):
        (tmp_path / ".venv" / "bin" / name).write_text(text)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder, *, fails="", status=0):
    """Run `make demo`; return what was called, in order. Files made before count as a minute old."""
    for path in folder.rglob("*"):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns - 60 * 10**9, stat.st_mtime_ns - 60 * 10**9))
    (folder / "fails").write_text(fails)
    (folder / "calls").write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "demo"], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == status, done.stderr
    return (folder / "calls").read_text().split()


def change(folder, table, line):
    path = folder / "examples" / "demo.toml"
    path.write_text(path.read_text().replace(f"[{table}]\n", f"[{table}]\n{line}\n"))
    now = time.time()
    os.utime(path, (now + 120, now + 120))  # make() moves all times back by one minute


def test_a_second_make_does_nothing(demo):
    assert sorted(make(demo)) == sorted(FIRST_RUN.split())
    assert make(demo) == []


def test_a_changed_setting_makes_again_what_depends_on_it(demo):
    make(demo)
    change(demo, "sft", "weight_decay = 0.1")
    assert sorted(make(demo)) == sorted("sft dpo eval-sft eval-dpo report chat table".split())
    change(demo, "fits", "n_draws = 500")
    assert sorted(make(demo)) == sorted("fits report table".split())
    change(demo, "filter", 'rules = "gopher"')
    again = [name for name in FIRST_RUN.split() if name not in ("raw", "tasks")]
    assert sorted(make(demo)) == sorted(again)


def test_a_comment_in_the_settings_makes_nothing_again(demo):
    make(demo)
    change(demo, "base", "# tuned by hand")
    assert make(demo) == []


def test_a_failed_stage_is_taken_up_where_it_was(demo):
    calls = make(demo, fails="dpo", status=2)
    assert calls[-1] == "dpo"
    rest = make(demo)
    assert rest[0] == "dpo"
    assert sorted([*calls[:-1], *rest]) == sorted(FIRST_RUN.split())
