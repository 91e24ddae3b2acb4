"""The report: the page needs nothing besides itself, escapes what it is given, and shows the numbers."""

import json
import re
from html.parser import HTMLParser

import pytest
from tests.report.made_runs import write_pipeline, write_run

from dsllm.config import RunOptions
from dsllm.errors import InputError, OutputError
from dsllm.progress import Reporter
from dsllm.report import run as report_run
from dsllm.report.config import ReportConfig
from dsllm.report.folders import find_runs
from dsllm.report.pipeline import lay_rails, order_runs

HOSTILE = '<script>alert("1")</script>&\'"'


def make_page(folders, output, title="A title"):
    inputs = [str(folder) for folder in folders]
    config = ReportConfig(title=title)
    summary = report_run.run(
        config, inputs, str(output), options=RunOptions(), reporter=Reporter(is_quiet=True)
    )
    return output.read_text(), summary


@pytest.fixture
def pipeline(tmp_path):
    return write_pipeline(tmp_path)


class Resources(HTMLParser):
    """Collects what a browser would fetch, and the text."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "xlink:href") or (
                name == "href" and tag in ("link", "use", "image", "base")
            ):
                self.fetched.append(value)

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    found = Resources()
    found.feed(page)
    return found


def test_page_shows_the_numbers_of_all_stages(pipeline, tmp_path):
    page, summary = make_page(pipeline, tmp_path / "page.html")
    text = " ".join(" ".join(parse(page).text).split())
    for number in (
        "4,000 → 2,481",  # documents, raw to clean
        "22.5 % removed",  # 1 - 3100 / 4000
        "exact copies 600",
        "too short 419 13.52 %",  # 419 / 3100
        "en 2,000 1,900 95.0 %",
        "987,654",
        "4.05 bytes per token",
        "parameters 123 M",
        "bits per byte 2.200 → 1.234",
        "loss 3.000 → 1.500",
        "0.251 ± 0.010",
        "0.9",
    ):
        assert number in text, number
    assert summary["n_runs"] == 10
    assert page.count("<polyline") >= 6
    assert summary["n_bytes"] == len(page.encode())


def test_page_fetches_nothing(pipeline, tmp_path):
    drawn = write_run(
        tmp_path / "drawn", "paint", {"n": 1}, shards=[{"name": "a.svg", "n_bytes": 60, "sha256": "0"}]
    )
    (drawn / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    page, _ = make_page([*pipeline, drawn], tmp_path / "page.html")
    found = parse(page)
    assert len(found.fetched) == 1
    assert found.fetched[0].startswith("data:image/svg+xml;base64,")
    assert "script" not in found.tags
    assert "iframe" not in found.tags
    assert "@import" not in page
    assert not re.search(r"url\(|https?://", page)


def test_hostile_text_stays_text(tmp_path):
    counts = {
        "n_written": 5,
        HOSTILE: 1,
        "sources": {HOSTILE: {"before": 0.5, "reached": 0.5, "n_written": 3, "n_text_bytes_written": 2}},
    }
    odd = write_run(
        tmp_path / "a<b>&c",
        "remix",
        counts,
        inputs=[HOSTILE],
        command=HOSTILE,
        config={"text_field": HOSTILE, HOSTILE: [HOSTILE]},
    )
    unknown = write_run(tmp_path / "unknown", HOSTILE, counts, metrics=[{"step": 1, HOSTILE: 2.0}])
    page, _ = make_page([odd, unknown], tmp_path / "page.html", title=HOSTILE)
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "a&lt;b&gt;&amp;c" in page
    found = parse(page)
    assert set(found.tags) >= {"svg", "rect", "table"}
    assert HOSTILE in "".join(found.text)


def test_same_folders_give_the_same_bytes(pipeline, tmp_path):
    one, _ = make_page(pipeline, tmp_path / "one.html")
    two, _ = make_page(pipeline, tmp_path / "two.html")
    assert one == two


def test_missing_metrics_and_counts_are_no_error(tmp_path):
    stages = (
        "dedup",
        "filter",
        "remix",
        "tokenize train",
        "tokenize encode",
        "pretrain",
        "sft",
        "dpo",
        "eval",
    )
    stages += ("fit-scaling fit", "fit-scaling plan", "something new")
    folders = [write_run(tmp_path / stage.replace(" ", "-"), stage, {}) for stage in stages]
    page, summary = make_page(folders, tmp_path / "page.html")
    assert summary["n_runs"] == len(stages)
    assert "There is no metrics.jsonl" in page


def test_damaged_metrics_are_passed_over(tmp_path):
    run = write_run(tmp_path / "run", "pretrain", {"loss": 1.0}, metrics=[{"step": 1, "loss": 2.0}])
    (run / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": NaN}\nnot json\n')
    page, _ = make_page([run], tmp_path / "page.html")
    assert "There is no metrics.jsonl" in page


def test_best_score_is_marked_only_when_it_leads(pipeline, tmp_path):
    page, _ = make_page(pipeline, tmp_path / "page.html")
    # .355 and .351 differ by .004, less than 2 * sqrt(2) * .01.
    assert "0.355 ± 0.010<" in page
    page, _ = make_page([*pipeline[:6], *pipeline[7:9]], tmp_path / "two.html")
    assert "0.351 ± 0.010 ★" in page  # .1 above the base model


def test_models_are_named_by_the_run_that_made_them(pipeline, tmp_path):
    page, _ = make_page(pipeline, tmp_path / "page.html")
    header = page[page.index('id="evaluation"') :]
    columns = re.findall(r"<th[^>]*>([^<]*)</th>", header[: header.index("</thead>")])
    assert columns == ["task", "score", "items", "base", "chat", "aligned"]


def test_order_follows_the_hashes_whatever_order_is_given(pipeline):
    nodes = order_runs(find_runs([str(folder) for folder in reversed(pipeline)]))
    names = [node.name for node in nodes]
    chain = ["a.jsonl and 1 more", "clean", "good", "mix", "tokens", "base", "chat", "aligned"]
    assert [name for name in names if name in chain] == chain
    parents = {node.name: [parent.name for parent in node.parents] for node in nodes}
    assert parents["clean"] == ["a.jsonl and 1 more"]
    assert parents["chat"] == ["base"]
    assert parents["scores-aligned"] == ["aligned"]


def test_rails_join_each_run_to_its_parents(pipeline):
    nodes = order_runs(find_runs([str(folder) for folder in pipeline]))
    rails = lay_rails(nodes)
    lane_of = {id(node): rail.lane for node, rail in zip(nodes, rails, strict=True)}
    for node, rail in zip(nodes, rails, strict=True):
        assert sorted(rail.joining) == sorted(lane_of[id(parent)] for parent in node.parents)
        assert rail.lane not in rail.passing
    assert all(rail.lane == 0 for rail in rails[:6])  # up to the base model: a single line


def test_ladder_of_a_fit_is_one_row(tmp_path):
    ladder = [
        write_run(tmp_path / "runs" / f"c{i}", "pretrain", {"compute_flops": 10**12 * i, "loss": 3.0})
        for i in range(1, 5)
    ]
    fit = write_run(tmp_path / "fits", "fit-scaling fit", {}, inputs=ladder, content={"kind": "scaling-fits"})
    nodes = order_runs(find_runs([str(tmp_path / "runs"), str(fit)]))
    assert [node.name for node in nodes] == ["4 runs for fits", "fits"]
    page, _ = make_page([tmp_path / "runs", fit], tmp_path / "page.html")
    assert "1.0e12 to 4.0e12 FLOPs" in page


def test_fits_are_drawn_with_their_laws(tmp_path):
    from dsllm.stages.fit_scaling import run as fit_run
    from dsllm.stages.fit_scaling.config import FitConfig

    rows = [
        {"compute_flops": c, "flops_per_token": 1e8 * m, "loss": 3 + (i - j) ** 2 / 50 - j / 10}
        for j, c in ((2, 1e17), (3, 1e18), (4, 1e19))
        for i, m in enumerate((1, 2, 4, 8, 16, 32, 64))
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fit_run.run(
        FitConfig(n_draws=100, pictures="none"),
        [str(tmp_path / "runs.jsonl")],
        str(tmp_path / "fits"),
        options=RunOptions(),
        reporter=Reporter(is_quiet=True),
    )
    page, _ = make_page([tmp_path / "fits"], tmp_path / "page.html")
    assert "IsoFLOP profiles" in page
    assert "C^0.3010" in page  # a factor of 2 in M for 10 in C: log10(2)
    assert "0.1715 C^0.5243" in page
    assert "no interval from 3 budgets" in page


def test_side_folder_has_no_section_of_its_own(tmp_path):
    write_run(tmp_path / "kept", "dedup", {"n_documents": 2, "n_kept": 1}, inputs=["a.jsonl"])
    content = {"kind": "documents", "stream": "removed"}
    write_run(tmp_path / "gone", "dedup", {"n_documents": 2}, inputs=["a.jsonl"], content=content)
    _, summary = make_page([tmp_path / "kept", tmp_path / "gone"], tmp_path / "page.html")
    assert (summary["n_runs"], summary["n_sections"]) == (2, 1)


def test_equal_names_are_told_apart(tmp_path):
    for place in ("one", "two"):
        write_run(tmp_path / place / "data", "dedup", {"place": place})
    runs = find_runs([str(tmp_path / "one"), str(tmp_path / "two" / "data")])
    assert [run.name for run in runs] == ["one/data", "two/data"]


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run in it"):
        make_page([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_unfinished_run_is_refused(tmp_path):
    run = write_run(tmp_path / "run", "dedup", {})
    (run / "manifest.json").rename(run / "manifest.partial.json")
    with pytest.raises(InputError, match="incomplete"):
        make_page([run], tmp_path / "page.html")


def test_folder_as_output_is_refused(pipeline, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        make_page(pipeline, tmp_path)


def test_page_goes_to_standard_output(pipeline, capfdbinary):
    config, options = ReportConfig(), RunOptions()
    report_run.run(config, [str(pipeline[0])], "-", options=options, reporter=Reporter(is_quiet=True))
    assert capfdbinary.readouterr().out.startswith(b"<!doctype html>")


def test_dumps_taken_together_are_drawn_beside_each_alone(tmp_path):
    shares = [("2021", 100, 0.2, 0.2), ("2022", 300, 0.45, 0.25)]
    rows = [
        {
            "n_dumps": n,
            "name": name,
            "n_documents_so_far": so_far,
            "removed_together_frac": together,
            "removed_apart_frac": apart,
        }
        for n, (name, so_far, together, apart) in enumerate(shares, start=1)
    ]
    counts = {"n_documents": 300, "n_kept": 165}
    content = {"kind": "documents", "by": {"field": "dump", "dumps": rows}}
    page, _ = make_page(
        [write_run(tmp_path / "clean", "dedup", counts, content=content)], tmp_path / "p.html"
    )
    assert "taken together: 2, 45" in page
    assert "each cleaned alone: 2, 25" in page
    assert "45.0 %" in page
    assert "up to dump" in page
