"""What a user types and sees: help, exit status, errors, pipes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsllm.cli.main import run_command_line

HEAVY = {"torch", "ray", "numba", "datasketch", "fasttext", "matplotlib", "pyarrow", "scipy", "triton"}
PROSE = (
    "The river rises in the hills behind the town, and for most of the year it is a quiet stream that "
    "children cross on stones. In spring it is not quiet at all. Then the snow melts, and the water comes "
    "down brown and fast, and people who have lived beside it all of their lives stand on the bridge to "
    "look at it. They say that it was higher when they were young, which is what people say about rivers, "
    "and about snow, and about most of the things that they have watched for a long time with each other."
)


def dsllm(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "dsllm", *arguments], capture_output=True, timeout=120, check=False, **options
    )


def write_documents(path, n=30, text=PROSE):
    lines = [
        json.dumps({"id": f"d{i}", "text": f"{text} This is note {i * i * 7919} of the year {i}."})
        for i in range(n)
    ]
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from dsllm.cli.main import run_command_line; status = run_command_line(['--help']); "
        f"loaded = {HEAVY!r} & set(sys.modules); sys.exit(status or f'imports {{loaded}}' if loaded else 0)"
    )
    started_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s < 20  # benchmarks/start_up.py measures it, where nothing else runs
    for command in "dedup filter remix tokenize pretrain sft dpo eval fit-scaling report".split():
        assert command in done.stdout


def test_no_arguments_print_the_help(capsys):
    assert run_command_line([]) == 2
    out, err = capsys.readouterr()
    assert "Usage: dsllm" in out
    assert "error" not in err


COMMANDS = [
    *(["dedup"], ["filter"], ["remix"], ["tokenize", "train"], ["tokenize", "encode"], ["pretrain"], ["sft"]),
    *(["dpo"], ["eval"], ["fit-scaling", "fit"], ["fit-scaling", "plan"], ["fit-scaling", "predict"]),
    *(["generate"], ["chat"], ["report"], ["inspect"], ["verify"], ["trace"], ["kernels", "check"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command_line([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: dsllm" in shown
    assert re.findall(r"(?<!\S)--(?!no-)\S*…", shown) == []  # a name that is cut cannot be typed


def test_what_a_file_turns_on_a_flag_turns_off():
    write_documents("in.jsonl", n=3)
    Path("on.toml").write_text("[filter]\nannotate = true\n")
    for output, more, is_on in (("on", [], True), ("off", ["--no-annotate"], False)):
        arguments = [
            "filter",
            "in.jsonl",
            "-o",
            output,
            "--format",
            "jsonl",
            "--config",
            "on.toml",
            "--quiet",
        ]
        assert run_command_line([*arguments, "--languages", "any", "--rules", "none", *more]) == 0
        assert (b"dsllm_filter" in Path(output, "shard-00000.jsonl").read_bytes()) == is_on


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["dedupe"], 2, "No such command"),
        (["dedup", "in.jsonl", "-o", "out", "--thresold", "1"], 2, "No such option"),
        (["dedup", "in.jsonl", "-o", "out", "--threshold", "2"], 2, "threshold is 2.0, outside its range"),
        (["dedup", "in.jsonl", "-o", "out", "--threshold", "much"], 2, "Invalid value for '--threshold'"),
        (["dedup", "missing.jsonl", "-o", "out"], 1, "missing.jsonl: no such file"),
        (["dedup", "in.jsonl"], 2, "Missing option"),
        (["dedup", "in.jsonl", "-o", "out", "--config", "bad.toml"], 2, "bad.toml: unknown key 'treshold'"),
        (["dedup", "in.jsonl", "-o", "-", "--json"], 2, "both want standard output"),
        (
            ["tokenize", "train", "in.jsonl", "-o", "-"],
            2,
            "-o - is standard output, but this writes a folder",
        ),
        (["dedup", "empty.jsonl", "-o", "out"], 1, "empty.jsonl: no document in it"),
        (["dedup", "broken.jsonl", "-o", "out"], 1, "broken.jsonl, line 2: not JSON"),
        (["dedup", "textless.jsonl", "-o", "out"], 1, "textless.jsonl, line 1: no field 'text'"),
        (["dedup", "bytes.jsonl", "-o", "out"], 1, "bytes.jsonl, line 1: not UTF-8"),
        (["dedup", "cut.jsonl.zst", "-o", "out"], 1, "cut.jsonl.zst: cut after"),
        (["dedup", "in.jsonl", "-o", "in.jsonl/out"], 1, "Not a directory"),
        (["filter", "in.jsonl", "-o", "out", "--quality-model", "none.bin"], 1, "none.bin"),
        (["tokenize", "encode", "in.jsonl", "-o", "out", "--tokenizer", "none"], 1, "none"),
        (["pretrain", "none", "-o", "out"], 1, "none: no such folder"),
        (["eval", "none", "-o", "out", "--task", "t=in.jsonl"], 1, "none"),
        (["inspect", "none"], 1, "none: no such file"),
        (["verify", "empty-folder"], 1, "no manifest.json in it"),
        (["trace", "in.jsonl"], 1, "no manifest.json in it"),
    ],
)
def test_bad_input_is_one_error_line_and_one_hint_line(arguments, status, message, capfd):
    import zstandard

    write_documents("in.jsonl")
    Path("empty.jsonl").touch()
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    Path("textless.jsonl").write_text('{"content": "a"}\n')
    Path("bytes.jsonl").write_bytes(b'{"text": "\xff"}\n')
    Path("cut.jsonl.zst").write_bytes(zstandard.compress(Path("in.jsonl").read_bytes())[:-20])
    Path("bad.toml").write_text("treshold = 0.5\n")
    Path("empty-folder").mkdir()
    assert run_command_line(arguments) == status
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("dsllm: ")]
    lines = [line for line in lines if "compiling" not in line]  # where no earlier run has
    assert len(lines) == 2, err
    assert lines[0].startswith("dsllm: error: ")
    assert message in lines[0]
    assert lines[1].startswith("dsllm: hint: ")
    assert "Traceback" not in err
    assert not out
    assert not Path("out/manifest.json").exists()


def test_a_pipe_of_two_stages_equals_the_run_over_files(capfdbinary):
    write_documents("in.jsonl", n=40)
    with Path("in.jsonl").open("a") as file:
        file.write(Path("in.jsonl").read_text())
    data = Path("in.jsonl").read_bytes()
    filtered = dsllm("filter", "-", "-o", "-", "--quiet", input=data)
    piped = dsllm("dedup", "-", "-o", "-", "--quiet", input=filtered.stdout)
    assert (filtered.returncode, filtered.stderr, piped.returncode, piped.stderr) == (0, b"", 0, b"")
    assert run_command_line(["filter", "in.jsonl", "-o", "f", "--format", "jsonl", "--quiet"]) == 0
    assert run_command_line(["dedup", "f", "-o", "d", "--format", "jsonl", "--quiet"]) == 0
    assert piped.stdout == Path("d/shard-00000.jsonl").read_bytes()
    assert piped.stdout


@pytest.mark.parametrize(("reader", "n_lines"), [("head -1", 1), ("true", 0)])
def test_a_closed_pipe_ends_quietly(reader, n_lines):
    write_documents("in.jsonl", n=3000)
    command = f"{sys.executable} -m dsllm filter in.jsonl -o - --quiet --workers 1 | {reader}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == n_lines


def test_ctrl_c_exits_130_and_leaves_a_folder_that_resumes():
    for index in range(4):
        write_documents(f"in{index}.jsonl", n=2000)
    arguments = ["filter", *(f"in{i}.jsonl" for i in range(4)), "-o", "out", "--format", "jsonl"]
    code = (  # as on a terminal: whoever runs the tests may have set Ctrl-C to be ignored
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dsllm.cli.main import run_command_line; sys.exit(run_command_line(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--workers", "2"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not Path("out/manifest.partial.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert b"the same command carries on" in err
    assert not Path("out/manifest.json").exists()
    assert run_command_line([*arguments, "--quiet"]) == 0
    assert run_command_line([*arguments[:5], "-o", "whole", "--format", "jsonl", "--quiet"]) == 0
    for index in range(4):
        name = f"shard-{index:05d}.jsonl"
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_an_unwritable_folder_is_one_error(capfd):
    write_documents("in.jsonl")
    assert run_command_line(["filter", "in.jsonl", "-o", "/proc/out"]) == 1
    assert "/proc/out: " in capfd.readouterr().err


def test_a_limit_on_file_sizes_is_one_error_and_no_partial_output():
    write_documents("in.jsonl", n=2000)
    command = f"ulimit -f 8; exec {sys.executable} -m dsllm filter in.jsonl -o out --format jsonl --workers 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "dsllm: error: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("out/shard-00000.jsonl").exists()


def test_the_manifest_of_a_run_is_a_config_file(capsys):
    write_documents("in.jsonl")
    assert run_command_line(["dedup", "in.jsonl", "-o", "a", "--threshold", "0.7", "--quiet"]) == 0
    again = ["dedup", "in.jsonl", "-o", "b", "--config", "a/manifest.json", "--quiet", "--json"]
    assert run_command_line(again) == 0
    assert json.loads(capsys.readouterr().out)["n_documents"] == 30
    assert json.loads(Path("b/manifest.json").read_text())["config"]["threshold"] == 0.7


def test_inspect_verify_and_trace_tell_the_truth(capsys):
    write_documents("in.jsonl")
    assert run_command_line(["filter", "in.jsonl", "-o", "f", "--quiet"]) == 0
    assert run_command_line(["dedup", "f", "-o", "d", "--quiet"]) == 0
    assert run_command_line(["verify", "f", "d", "in.jsonl"]) == 0
    assert capsys.readouterr().out == "f: whole\nd: whole\nin.jsonl: whole\n"
    assert run_command_line(["inspect", "d", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["stage"], facts["state"], facts["counts"]["n_documents"]) == ("dedup", "complete", 30)
    assert run_command_line(["trace", "d"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["d", "f", "in.jsonl"]
    shard = Path("f/shard-00000.jsonl.zst")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert run_command_line(["verify", "f"]) == 1
    assert "content hash" in capsys.readouterr().out


def test_a_plan_says_what_would_happen_and_writes_nothing(capsys):
    write_documents("in.jsonl")
    assert run_command_line(["dedup", "in.jsonl", "-o", "out", "--plan"]) == 0
    assert capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("closed", "arguments", "message"),
    [
        ("<&-", "dedup - -o out", "Bad file descriptor"),
        (">&-", "dedup in.jsonl -o -", "Bad file descriptor"),
        (">&-", "inspect in.jsonl", "Bad file descriptor"),
        ("2>&-", "dedup none.jsonl -o -", ""),
    ],
)
def test_a_closed_stream_is_one_clear_error(closed, arguments, message):
    write_documents("in.jsonl")
    command = f"exec {sys.executable} -m dsllm {arguments} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("dsllm: error")]
    assert "Traceback" not in done.stderr
    assert message in "".join(errors)


def test_a_log_gets_no_control_characters():
    write_documents("in.jsonl")
    done = dsllm("filter", "in.jsonl", "-o", "out")
    assert b"\x1b" not in done.stderr
    assert done.stderr
    assert done.stdout == b""


def test_a_process_with_triton_ends_without_a_word():
    code = "import sys, triton; sys.argv = ['dsllm', '--help']; from dsllm.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
