"""What the README tells its reader to type works."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import zstandard

from dsllm.cli.main import run_command_line

README = (Path(__file__).parent.parent / "README.md").read_text()
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_shell_pipeline_runs(tmp_path):
    """On the manual of Python that every installation holds."""
    (tmp_path / "crawl").mkdir()
    lines = [
        json.dumps({"id": name, "source": "ab"[n % 2], "text": text}) + "\n"
        for n, (name, text) in enumerate(topics.items())
    ]
    for index in range(2):
        data = "".join(lines[index::2]).encode()
        (tmp_path / "crawl" / f"{index}.jsonl.zst").write_bytes(zstandard.compress(data))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (script,) = blocks("sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["text"] in topics.values()
    assert "tokens: whole" in done.stdout
    assert (tmp_path / "tokens" / "manifest.json").exists()


def test_the_commands_for_gpu_nodes_have_the_flags_they_name(capsys):
    commands = [line for block in blocks("bash") for line in block.splitlines() if "dsllm " in line]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command[command.index("dsllm ") :])[1:]
        assert run_command_line([words[0], "--help"]) == 0
        help_text = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert flag in help_text, f"{command}: no {flag}"


@pytest.mark.parametrize("link", LINK.findall(README))
def test_links_lead_somewhere(link):
    assert (Path(__file__).parent.parent / link).exists()


def test_the_toml_example_is_valid():
    import tomllib

    from dsllm.stages.dedup.config import DedupConfig
    from dsllm.stages.tokenize.config import TokenizeTrainConfig

    (text,) = blocks("toml")
    tables = tomllib.loads(text)
    assert DedupConfig.build(tables["dedup"]).threshold == 0.7
    assert TokenizeTrainConfig.build(tables["tokenize train"]).vocab_size == 32000
