"""Lines that recur across real documents: how much `dsllm filter --max-line-repeats N` cuts, and how fast.

    DSLLM_TEST_DATA=... python benchmarks/recurring_lines.py [N, 20 unless given]

Reads `pretrain/` there. Prints one JSON object: the share of the text that is cut, by domain, the most common
of these lines in each, and seconds of the processor for the pass that finds them (reading included) and for
cutting.
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from dsllm.config import RunOptions
from dsllm.io.sources import find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.recurring import CutRecurring, find_recurring, key_lines
from dsllm.stages.filter.table import Table, read_documents
from dsllm.workers.passes import Pass

N_SHOWN = 5


def main() -> None:
    config = FilterConfig(max_line_repeats=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    files = sorted((Path(os.environ["DSLLM_TEST_DATA"]) / "pretrain").glob("*.jsonl.zst"))
    sources = find_sources([str(path) for path in files])
    with tempfile.TemporaryDirectory() as folder:
        work = Pass(Path(folder), RunOptions(n_workers=1, is_quiet=True), Reporter(is_quiet=True))
        with tempfile.TemporaryDirectory() as warm:  # what compiles is not measured
            find_recurring(config, sources[:1], Pass(Path(warm), work.options, work.reporter))
        started_s = time.process_time()
        recurring = find_recurring(config, sources, work)
        find_s = time.process_time() - started_s
    step = CutRecurring(recurring, config.min_line_words, None)
    n_cut, n_bytes, common = Counter(), Counter(), {}
    cut_s = 0.0
    for source in sources:
        domain = Path(source.path).name.split("-")[0]
        for batch in read_batches(source):
            table = Table(read_documents(batch, "text", ("source",), on_error="stop"))
            texts = table.texts
            started_s = time.process_time()
            step(table)
            cut_s += time.process_time() - started_s
            n_cut[domain] += table.counts["n_text_bytes_cut"]
            n_bytes[domain] += int(texts.ends[-1])
            lines = key_lines(texts, config.min_line_words)
            starts = np.concatenate(([0], lines.ends))
            for at in np.flatnonzero(lines.is_counted & np.isin(lines.keys, recurring)).tolist():
                line = texts.data[starts[at] : lines.ends[at]].tobytes().decode().strip()
                common.setdefault(domain, Counter())[line] += 1
    report = {
        "n_lines": len(recurring),
        "mb": round(n_bytes.total() / 1e6),
        "find_s": round(find_s, 1),
        "cut_s": round(cut_s, 1),
        "cut": {domain: f"{n_cut[domain] / n:.2%}" for domain, n in n_bytes.items()},
        "common": {domain: dict(counts.most_common(N_SHOWN)) for domain, counts in common.items()},
    }
    json.dump(report, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
