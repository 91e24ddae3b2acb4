from pathlib import Path

import pytest

from dsllm.errors import OutputError
from dsllm.io.apart import check_apart, check_no_input


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jsonl", "made/shard-00000.jsonl", "made/manifest.json", "b.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}\n")
    Path("link").symlink_to("in")


@pytest.mark.parametrize("output", ["in", "in/out", "in/sub/out", "link/out", "in/../in/out"])
def test_a_folder_inside_an_input_is_refused(output):
    with pytest.raises(OutputError, match="lies in in, which is an input"):
        check_apart(output, ["b.jsonl", "in"])


@pytest.mark.parametrize("output", ["out", "inside", "made/out", "s3://in/out"])
def test_a_folder_elsewhere_is_not(output):
    check_apart(output, ["-", "https://a/in", "b.jsonl", "in", "made", "*.jsonl"])


@pytest.mark.parametrize("path", ["b.jsonl", "./b.jsonl", "in/a.jsonl", "link/a.jsonl"])
@pytest.mark.parametrize("inputs", [["-", "b.jsonl", "in"], ["*.jsonl", "in/*"]])
def test_a_file_that_is_an_input_is_refused(path, inputs):
    with pytest.raises(OutputError, match="is an input"):
        check_no_input(path, inputs, flag="--pairs")


def test_a_file_that_is_none_is_not():
    for path in (None, "pairs.jsonl", "in/new.jsonl", "made/manifest.json"):
        check_no_input(path, ["-", "b.jsonl", "in", "*.jsonl", "https://a/b"], flag="--pairs")
