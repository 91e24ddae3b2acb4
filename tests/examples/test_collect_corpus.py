import json

import collect_corpus
import pytest

CODE = '"""Say what this module is for, at some length."""\n\n\n' + "".join(
    f'def function_{n}():\n    """Return the number {n}, which is a number."""\n    return {n}\n\n\n'
    for n in range(5)
)
LICENCE = "Permission is granted to everybody to do anything with this file. " * 5


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "lib"
    for path, text in {
        "alpha/__init__.py": CODE,
        "alpha/_vendor/beta/core.py": CODE + "# vendored\n",
        "beta/core.py": CODE + "# original\n",
        "beta/__pycache__/core.py": CODE,
        "beta/short.py": "x = 1\n",
        "beta/broken.py": "def (:\n" * 50,
        "alpha/LICENSE": LICENCE,
        "beta/LICENSE.txt": LICENCE,
        "beta/top_level.txt": "beta\n" * 100,
        "beta-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: beta\nVersion: 1.0\nLicense: MIT\n\n"
        + "# beta\n\nThis package does nothing at all. 这个包什么也不做。\n" * 10,
        "beta-1.0.dist-info/RECORD": "beta/core.py,,\nbeta/broken.py,,\n",
        "site-packages/gamma/core.py": CODE,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "alpha" / "latin.txt").write_bytes("ein größerer Text in Latein-1 ".encode("latin-1") * 20)
    return root


def collect(tree, out, *flags):
    assert collect_corpus.main([str(out), "--root", str(tree), "--heldout-bytes", "0", *flags]) == 0
    return {
        source: [json.loads(line) for line in (out / f"{source}.jsonl").read_text().splitlines()]
        for source in ("code", "documentation", "prose")
    }


def test_sources_are_told_apart(tree, tmp_path):
    found = collect(tree, tmp_path / "raw")
    assert {document["path"] for document in found["code"]} == {
        "alpha/__init__.py",
        "alpha/_vendor/beta/core.py",
        "beta/core.py",
        "beta/broken.py",
    }
    assert {document["path"] for document in found["prose"]} == {
        "alpha/LICENSE",
        "beta/LICENSE.txt",
        "beta-1.0.dist-info/METADATA",
    }
    assert all(document["source"] == source for source, documents in found.items() for document in documents)


def test_documentation_is_the_docstrings_under_their_names(tree, tmp_path):
    documents = {document["path"]: document for document in collect(tree, tmp_path / "raw")["documentation"]}
    assert set(documents) == {"alpha/__init__.py", "alpha/_vendor/beta/core.py", "beta/core.py"}
    parts = documents["beta/core.py"]["text"].split("\n\n")
    assert parts[:4] == [
        "beta.core",
        "Say what this module is for, at some length.",
        "beta.core.function_0",
        "Return the number 0, which is a number.",
    ]
    assert documents["alpha/__init__.py"]["text"].startswith("alpha\n\nSay what")


def test_metadata_gives_its_description_and_the_package_its_name(tree, tmp_path):
    found = collect(tree, tmp_path / "raw")
    description = next(document for document in found["prose"] if document["path"].endswith("METADATA"))
    assert description["text"].startswith("# beta\n\nThis package does nothing at all. 这个包什么也不做。")
    module = next(document for document in found["code"] if document["path"] == "beta/core.py")
    assert (module["package"], module["licence"], module["id"]) == ("beta", "MIT", "code/beta/core.py")


def test_help_topics_are_documents_of_their_own(tmp_path):
    topic = "The `assert` statement is a convenient way to insert debugging assertions. " * 5
    (tmp_path / "lib" / "pydoc_data").mkdir(parents=True)
    (tmp_path / "lib" / "pydoc_data" / "topics.py").write_text(
        f"topics = {{'assert': {topic!r},\n 'if': 'x'}}\n"
    )
    documents = collect(tmp_path / "lib", tmp_path / "raw")["documentation"]
    assert [(document["id"], document["text"]) for document in documents] == [
        ("documentation/pydoc_data/topics.py/assert", topic)
    ]


def test_copies_stay_together(tree, tmp_path):
    """beta/core.py and its vendored copy come one after the other, whatever else there is."""
    paths = [document["path"] for document in collect(tree, tmp_path / "raw")["code"]]
    first, second = paths.index("alpha/_vendor/beta/core.py"), paths.index("beta/core.py")
    assert abs(first - second) == 1


def test_of_held_out_files_nothing_is_among_the_rest(tmp_path):
    """Of 300 modules with a vendored copy each about 2 % are held out, with all that is made of them."""
    for n in range(300):
        for folder in (f"package_{n}", f"alpha/_vendor/package_{n}"):
            path = tmp_path / "lib" / folder / "core.py"
            path.parent.mkdir(parents=True)
            path.write_text(CODE)
    rest = collect(tmp_path / "lib", tmp_path / "raw", "--heldout-bytes", "1000000")
    held_out = {}
    for source in ("code", "documentation"):
        lines = (tmp_path / "raw" / "heldout" / f"{source}.jsonl").read_text().splitlines()
        held_out[source] = {json.loads(line)["path"] for line in lines}
    paths = held_out["code"]
    assert paths == held_out["documentation"]
    assert 2 <= len(paths) / 2 <= 15
    assert {path.removeprefix("alpha/_vendor/") for path in paths} < paths
    assert not paths & {document["path"] for documents in rest.values() for document in documents}
    assert len(paths) + len(rest["code"]) == 600


def test_max_bytes_ends_a_source_at_whole_documents(tree, tmp_path):
    everything = collect(tree, tmp_path / "all")["code"]
    some = collect(tree, tmp_path / "some", "--max-bytes", "1")["code"]
    assert some == everything[: len(some)]
    assert 1 <= len(some) < len(everything)


def test_same_tree_gives_same_bytes_wherever_it_lies(tree, tmp_path):
    collect(tree, tmp_path / "one")
    moved = tree.rename(tmp_path / "elsewhere")
    collect(moved, tmp_path / "two")
    for path in sorted((tmp_path / "one").rglob("*.json*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["code"]["n_documents"] == 4


@pytest.mark.parametrize(
    "flags", [["--max-bytes", "0"], ["--heldout-bytes", "-1"], ["--root", "/no/such/folder"]]
)
def test_wrong_flags_are_refused(tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        collect_corpus.main([str(tmp_path / "raw"), *flags])
    assert stop.value.code == 2
    assert flags[1] in capsys.readouterr().err


def test_an_empty_tree_is_an_error(tmp_path, capsys):
    assert collect_corpus.main([str(tmp_path / "raw"), "--root", str(tmp_path)]) == 1
    assert "no files" in capsys.readouterr().err
