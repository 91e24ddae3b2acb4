import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsllm.config import RunOptions, Settings, setting
from dsllm.errors import InputError, OutputError, ShardError
from dsllm.io.atomic import atomic_file, start_writing_out
from dsllm.io.folder import OutputFolder
from dsllm.io.manifest import read_manifest
from dsllm.io.provenance import trace
from dsllm.io.sources import find_sources


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    threshold: float = setting(0.5, "A number.")


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"text": "a"}\n')


def folder(path="out", *, threshold=0.5, inputs=("in.jsonl",), stage="example", **options):
    return OutputFolder(
        path, stage=stage, config=Config(threshold=threshold), inputs=inputs, options=RunOptions(**options)
    )


def make(path="out", name="shard-00000.jsonl", data=b'{"text": "a"}\n', **more):
    with folder(path, **more) as out:
        if name not in out.finished:
            with out.create(name, n_documents=1) as file:
                file.write(data)
        return out.finish(counts={"n_documents": 1}, content={"kind": "documents"})


def begin_and_stop(**more):
    with pytest.raises(Stopped), folder(**more) as out:
        with out.create("shard-00000.jsonl") as file:
            file.write(b"0\n")
        with out.create("shard-00001.jsonl") as file:
            file.write(b"half")
            raise Stopped


def test_a_finished_folder_says_what_it_holds():
    manifest = make()
    assert read_manifest("out") == manifest
    values = json.loads(Path("out/manifest.json").read_text())
    assert values["shards"][0]["name"] == "shard-00000.jsonl"
    assert values["shards"][0]["n_documents"] == 1
    # the shard's bytes are the input's: printf '{"text": "a"}\n' | sha256sum
    digest = "7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d"
    assert values["shards"][0]["sha256"] == values["inputs"][0]["sha256"] == digest
    assert values["inputs"][0]["path"] == "../in.jsonl"
    assert values["command"] == "dsllm example in.jsonl -o out"
    assert {path.name for path in Path("out").iterdir()} == {"manifest.json", "shard-00000.jsonl", ".lock"}


def test_a_side_folder_names_the_command_that_made_it():
    inputs = ["in.jsonl"]
    with OutputFolder(
        "gone", stage="example", config=Config(), inputs=inputs, options=RunOptions(), side_of="out"
    ) as out:
        manifest = out.finish(counts={}, content={})
    assert manifest.command == "dsllm example in.jsonl -o out"


@pytest.mark.parametrize("was_killed_between", [False, True])
def test_a_side_folder_that_is_complete_is_taken_up_again(was_killed_between):
    """Its run may have been killed before the main folder was complete, or before the partial one went."""

    def open_side():
        return OutputFolder(
            "gone", stage="example", config=Config(), inputs=["in.jsonl"], options=RunOptions(), side_of="out"
        )

    with open_side() as side:
        with side.create("shard-00000.jsonl") as file:
            file.write(b"a")
        partial = Path("gone/manifest.partial.json").read_bytes()
        side.finish(counts={}, content={})
    if was_killed_between:
        Path("gone/manifest.partial.json").write_bytes(partial)
    with open_side() as side:
        assert list(side.finished) == ["shard-00000.jsonl"]
        side.finish(counts={}, content={})
    assert not Path("gone/manifest.partial.json").exists()


def test_the_same_run_gives_the_same_bytes():
    make("a")
    make("b")
    a, b = Path("a/manifest.json").read_text(), Path("b/manifest.json").read_text()
    assert a.replace("-o a", "-o b") == b


def test_no_absolute_path_is_in_a_manifest(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class WithModel(Settings):
        model: str | None = setting(None, "A file.")

    model = tmp_path / "in.jsonl"
    options, config = RunOptions(), WithModel(model=str(model))
    with OutputFolder(
        str(tmp_path / "out"),
        stage="example",
        config=config,
        inputs=[str(model)],
        options=options,
        more_inputs=[str(model)],
    ) as out:
        out.finish(counts={}, content={})
    assert str(tmp_path) not in Path("out/manifest.json").read_text()
    assert read_manifest("out").command == "dsllm example in.jsonl -o out --model in.jsonl"


def test_a_run_with_checkpoints_is_refused_behind_a_url(tmp_path):
    with pytest.raises(OutputError, match="need a disk"):
        OutputFolder(
            tmp_path.as_uri(),
            stage="example",
            config=Config(),
            inputs=[],
            options=RunOptions(),
            is_on_disk=True,
        )


def test_an_interrupted_run_is_resumed_and_keeps_what_is_whole():
    begin_and_stop()
    assert not Path("out/shard-00001.jsonl").exists()
    with folder() as out:
        assert set(out.finished) == {"shard-00000.jsonl"}
    Path("out/shard-00000.jsonl").write_bytes(b"")
    with folder() as out:
        assert not out.finished


def test_readers_refuse_an_unfinished_folder():
    begin_and_stop()
    with pytest.raises(InputError, match="incomplete") as caught:
        find_sources(["out"])
    assert "dsllm example in.jsonl -o out" in caught.value.hint


def test_another_configuration_or_input_is_refused_unless_overwritten():
    begin_and_stop()
    with pytest.raises(OutputError, match=r"threshold was 0.5, now 0.7"), folder(threshold=0.7):
        pass
    Path("in.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(OutputError, match=r"carried on: ../in.jsonl has changed") as caught, folder():
        pass
    assert caught.value.hint == "give --overwrite to begin anew, or another -o"  # the command is this one
    with pytest.raises(OutputError, match="other inputs"), folder(inputs=("in.jsonl", "in.jsonl")):
        pass
    with folder(overwrite=True) as out:
        assert not out.finished


def test_a_complete_folder_is_refused_unless_overwritten():
    make()
    with pytest.raises(OutputError, match="already complete"), folder():
        pass
    make(overwrite=True, name="shard-00005.jsonl")
    assert not Path("out/shard-00000.jsonl").exists()


def test_what_a_kill_at_the_very_end_left_behind_goes_away():
    make()
    for name in ("manifest.partial.json", ".work/columns"):
        Path("out", name).parent.mkdir(exist_ok=True)
        Path("out", name).write_text("{}")
    with pytest.raises(OutputError, match="already complete"), folder():
        pass
    assert {path.name for path in Path("out").iterdir()} == {"manifest.json", "shard-00000.jsonl", ".lock"}


@pytest.mark.parametrize("name", ["../mine.txt", "a/../../mine.txt", "{absolute}"])
@pytest.mark.parametrize("manifest", ["manifest.json", "manifest.partial.json"])
def test_a_manifest_cannot_have_files_elsewhere_removed(tmp_path, name, manifest):
    Path("mine.txt").write_text("mine")
    make()
    text = Path("out/manifest.json").read_text()
    Path("out/manifest.json").unlink()
    text = text.replace("shard-00000.jsonl", name.format(absolute=tmp_path / "mine.txt"))
    Path("out", manifest).write_text(text)
    with pytest.raises(InputError, match="is no file of the folder"), folder(threshold=0.7, overwrite=True):
        pass
    assert Path("mine.txt").read_text() == "mine"


@pytest.mark.parametrize("key", ["config", "content", "counts"])
def test_a_manifest_of_another_shape_is_none(key):
    make()
    values = json.loads(Path("out/manifest.json").read_text())
    Path("out/manifest.json").write_text(json.dumps({**values, key: []}))
    with pytest.raises(InputError, match=f"no manifest of dsllm: TypeError {key} is no object"):
        find_sources(["out"])


@pytest.mark.parametrize("input_path", ["out", "./out/", "out/shard-00000.jsonl", "out/*.jsonl", "link"])
def test_an_input_is_never_overwritten(input_path):
    make()
    Path("link").symlink_to("out")
    with (
        pytest.raises(OutputError, match="is an input, and would be removed"),
        folder(inputs=(input_path,), overwrite=True),
    ):
        pass
    with (
        pytest.raises(OutputError, match="is an input, and would be removed"),
        OutputFolder(
            "out",
            stage="example",
            config=Config(),
            inputs=["in.jsonl"],
            more_inputs=[input_path, None],
            options=RunOptions(overwrite=True),
        ),
    ):
        pass
    assert read_manifest("out").shards[0].fault(Path("out")) is None


def test_a_folder_of_somebody_else_is_never_touched():
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty, and not written by dsllm \(thesis.txt\)"):
        make(overwrite=True)
    assert Path("out/thesis.txt").read_text() == "mine"


def test_two_runs_cannot_write_one_folder():
    with folder(), pytest.raises(OutputError, match="another dsllm is writing"), folder():
        pass


def test_standard_input_cannot_be_resumed_so_it_starts_anew():
    begin_and_stop(inputs=("-",))
    with folder(inputs=("-",)) as out:
        assert not out.finished


def test_a_changed_shard_is_found_when_the_folder_is_read():
    make()
    Path("out/shard-00000.jsonl").write_bytes(b'{"text": "b"}\n')
    with pytest.raises(ShardError, match="content hash"):
        find_sources(["out"])
    Path("out/shard-00000.jsonl").write_bytes(b"")
    with pytest.raises(ShardError, match="0 bytes, but manifest.json says 14"):
        find_sources(["out"])


def test_the_way_back_is_followed_by_hash():
    make("first")
    make("second", inputs=("first",))
    origin = trace("second")
    assert [line.split("  ")[0].strip() or line.strip().split("  ")[0] for line in origin.lines()] == [
        "second",
        "first",
        "in.jsonl",
    ]
    Path("in.jsonl").write_text("changed")
    assert trace("second").inputs[0].inputs[0].state == "changed"
    Path("in.jsonl").unlink()
    assert trace("second").inputs[0].inputs[0].state == "missing"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(Stopped), atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        raise Stopped
    assert not list(tmp_path.glob("*a*"))


def test_a_full_disk_is_one_clear_error(tmp_path):
    def write_until_full():
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_until_full()
    assert "carries on" in caught.value.hint
    assert not list(tmp_path.glob("*a*"))


def test_the_system_begins_to_write_large_files_before_their_end(monkeypatch):
    begun = []
    monkeypatch.setattr("dsllm.io.folder.START_BYTES", 10)
    monkeypatch.setattr(
        "dsllm.io.folder.start_writing_out",
        lambda file, begin, n: (begun.append((begin, n)), start_writing_out(file, begin, n)),
    )
    with folder() as out:
        with out.create("shard-00000.bin") as file:
            for _ in range(5):
                file.write(b"123456")
        out.finish(counts={}, content={"kind": "documents"})
    assert begun == [(0, 12), (12, 12)]
    assert Path("out/shard-00000.bin").read_bytes() == b"123456" * 5
