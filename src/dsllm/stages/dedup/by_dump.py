"""What share goes when dumps are taken together, and when each is cleaned alone: Table 1 of the paper.

Both are counted exactly in the one run over all dumps. Documents of the same words are a class, with one
signature and one set. What a run over some of the dumps would compare is in a component of the run over all,
so each component is judged again with the documents of those dumps alone: in one go for every dump by itself,
as bands of different dumps then differ; and dump after dump for those taken together. The latter is spared
where documents have the right to stay in the order of their dumps: nothing that comes later changes what
went before, and the verdicts of the whole run say it all.

Source: DeepSeek LLM, arXiv:2401.02954, section 2.1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.progress import Reporter
from dsllm.stages.dedup import copies, sets
from dsllm.stages.dedup.bands import band_keys, choose_bands
from dsllm.stages.dedup.candidates import MEMBER, hash_roots, send_components
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.stages.dedup.decide import BYTES_PER_MEMBER, NEAR, VERDICT, Decide, Decision
from dsllm.stages.dedup.fields import NO_DUMP, hash_name
from dsllm.stages.dedup.groups_compiled import UNTIED
from dsllm.stages.dedup.judge import judge
from dsllm.stages.dedup.shuffle import Shuffle
from dsllm.text.shingles import fmix64
from dsllm.workers.passes import column_path, read_column

# A document that stands for its class in some dump: `same_as` has its signature and its set.
TWIN = np.dtype([("root", "<i8"), ("number", "<i8"), ("same_as", "<i8")])
# Removed documents, (2, n_dumps + 1): of each dump alone, and how many more go with a dump than with those
# before it. The last column takes what no longer counts after the last dump.
Tally = NDArray[np.int64]
ALONE, ADDED = 0, 1
MAX_SHOWN = 40
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Dumps:
    """The dumps in order of their names, documents without one last."""

    names: tuple[str, ...]
    path: Path

    @property
    def codes(self) -> NDArray[np.uint32]:
        """Map the dump of each document, by its number."""
        return np.memmap(self.path, np.uint32, "r")

    @classmethod
    def read(cls, corpus: Corpus) -> "Dumps":
        """Number the dumps that the first pass has met; the codes go to a file, 4 bytes a document."""
        n_sources = len(corpus.paths)
        packed = [column_path(corpus.scratch, index, "dump_names").read_bytes() for index in range(n_sources)]
        met = {name for lines in packed for line in lines.splitlines() for name in orjson.loads(line)}
        names = tuple(sorted(met, key=lambda name: (name == NO_DUMP, name)))
        hashes = np.array([hash_name(name) for name in names], np.uint64)
        order = np.argsort(hashes)
        path = corpus.scratch / "dump-codes"
        codes = np.memmap(path, np.uint32, "w+", shape=(max(1, len(corpus)),))
        for chunk in corpus.chunks():
            found = read_column(corpus.scratch, chunk.source_index, "dumps", "<u8")
            places = np.searchsorted(hashes[order], found[chunk.first_row : chunk.end_row])
            codes[chunk.first_number : chunk.first_number + len(places)] = order[places]
        return cls(names, path)

    def count(self, numbers: Numbers) -> NDArray[np.int64]:
        """Count documents by dump: a row of a tally."""
        return np.bincount(self.codes[numbers], minlength=len(self.names) + 1)


def rate_by_dump(decide: Decide, decision: Decision) -> dict[str, Any]:
    """Count what goes, as the manifest has it: a row per dump, with what is true of the dumps up to it."""
    dumps = Dumps.read(decide.corpus)
    tally = np.zeros((2, len(dumps.names) + 1), np.int64)
    tie = _Tie(decide, decision, dumps)
    for index, path in enumerate(decision.copies):
        tally += tie.count_copies(index, path)
    if len(decision.roots):
        send_components(decide.corpus, decision.roots, tie.members)
        task = RateNear(decide.corpus, decide.config, dumps, tie.members, tie.twins)
        for counted in decide.map(task, range(tie.n_partitions)):
            tally += counted
    n_documents = np.bincount(dumps.codes[: len(decide.corpus)], minlength=len(dumps.names))
    return {"field": decide.config.by, "dumps": _rows(dumps.names, n_documents, tally[:, :-1])}


def show_rates(rates: dict[str, Any], reporter: Reporter) -> None:
    """Print the table; of many dumps some, evenly spaced, and the last."""
    rows = rates["dumps"]
    step = -(-len(rows) // MAX_SHOWN)
    shown = [row for row in rows if row["n_dumps"] % step == 0 or row is rows[-1]]
    columns = ("dumps", f"up to {rates['field']}", "documents", "removed % together", "removed % each alone")
    cells = [
        [
            *(row[name] for name in ("n_dumps", "name", "n_documents_so_far")),
            *(100.0 * row[name] for name in ("removed_together_frac", "removed_apart_frac")),
        ]
        for row in shown
    ]
    reporter.table(f"dedup by {rates['field']}", columns, cells)


def _rows(names: tuple[str, ...], n_documents: NDArray[np.int64], tally: Tally) -> list[dict[str, Any]]:
    so_far, (apart, together) = n_documents.cumsum(), tally.cumsum(axis=1)
    return [
        {
            "n_dumps": index + 1,
            "name": name,
            "n_documents": int(n_documents[index]),
            "n_removed_alone": int(tally[ALONE, index]),
            "n_documents_so_far": int(so_far[index]),
            "n_removed_together": int(together[index]),
            "n_removed_apart": int(apart[index]),
            "removed_together_frac": round(int(together[index]) / int(so_far[index]), 6),
            "removed_apart_frac": round(int(apart[index]) / int(so_far[index]), 6),
        }
        for index, name in enumerate(names)
    ]


class _Tie:
    """Counts copies, and sends to the components those that stand for their class in a dump by itself."""

    def __init__(self, decide: Decide, decision: Decision, dumps: Dumps) -> None:
        self.decide, self.decision, self.dumps = decide, decision, dumps
        scratch = decide.corpus.scratch
        n_members = int(np.count_nonzero(decision.roots != UNTIED))
        n_copies = sum(path.stat().st_size for path in decision.copies) // copies.COPY.itemsize
        n_set_bytes = sum(path.stat().st_size for path in scratch.glob("*.sets")) // max(1, n_members)
        n_bytes = (n_members + n_copies) * (BYTES_PER_MEMBER + 4 * decide.config.n_hashes + n_set_bytes)
        self.n_partitions = max(8, decide.n_partitions(n_bytes))
        self.members = decide.shuffle("dump-members", MEMBER, self.n_partitions)
        self.twins = Shuffle(scratch, "dump-twins", TWIN, len(decision.copies), self.n_partitions)

    def count_copies(self, index: int, path: Path) -> Tally:
        """Count the copies in a file of COPY rows; those of members of components go on as TWIN rows."""
        found = np.fromfile(path, copies.COPY)
        kept = np.unique(found["kept"])
        numbers, same_as = np.concatenate((found["number"], kept)), np.concatenate((found["kept"], kept))
        codes = self.dumps.codes[numbers]
        priority = self.decide.corpus.gather_rows(numbers)["priority"]
        order = np.lexsort((numbers, -priority, codes, same_as))
        numbers, same_as, codes = numbers[order], same_as[order], codes[order]
        is_known = np.zeros(len(numbers), bool)  # its class is in an earlier dump, or before it in its own
        is_known[1:] = same_as[1:] == same_as[:-1]
        is_known_here = is_known.copy()
        is_known_here[1:] &= codes[1:] == codes[:-1]
        if len(self.decision.roots):
            roots = self.decision.roots[same_as]
            stands = ~is_known_here & (numbers != same_as) & (roots != UNTIED)
            twins = np.empty(int(stands.sum()), TWIN)
            twins["root"], twins["number"], twins["same_as"] = roots[stands], numbers[stands], same_as[stands]
            self.twins.write(index, hash_roots(twins["root"]), twins)
        return np.stack((self.dumps.count(numbers[is_known_here]), self.dumps.count(numbers[is_known])))


@dataclass(frozen=True)
class _Members:
    """Members of components, by component and in the order of their right to stay."""

    root: Numbers
    number: Numbers
    same_as: Numbers
    code: Numbers

    def take(self, places: NDArray[Any]) -> "_Members":
        return _Members(self.root[places], self.number[places], self.same_as[places], self.code[places])


@dataclass(frozen=True)
class RateNear:
    """The task: count the near duplicates among the documents of a partition's components."""

    corpus: Corpus
    config: DedupConfig
    dumps: Dumps
    members: Shuffle
    twins: Shuffle

    releases_lock = True

    def __call__(self, partition: int) -> Tally:
        """Return the tally."""
        members = self._read(partition)
        tally = np.zeros((2, len(self.dumps.names) + 1), np.int64)
        tally[ALONE] = self.dumps.count(members.number[self._judge(members, is_by_dump=True)])
        is_turn = (members.root[1:] == members.root[:-1]) & (members.code[1:] < members.code[:-1])
        is_mixed = np.isin(members.root, members.root[1:][is_turn])
        verdicts = np.memmap(self.corpus.scratch / "verdicts", VERDICT, "r")
        near = (verdicts["level"][members.number] == NEAR) & (members.number == members.same_as)
        tally[ADDED] = self.dumps.count(members.number[near & ~is_mixed])
        self._add_prefixes(members.take(is_mixed), tally)
        return tally

    def _read(self, partition: int) -> _Members:
        members, twins = self.members.read(partition), self.twins.read(partition)
        number = np.concatenate((members["number"], twins["number"]))
        root = np.concatenate((members["root"], twins["root"]))
        same_as = np.concatenate((members["number"], twins["same_as"]))
        priority = self.corpus.gather_rows(number)["priority"]
        found = _Members(root, number, same_as, self.dumps.codes[number].astype(np.int64))
        return found.take(np.lexsort((number, -priority, root)))

    def _judge(self, members: _Members, *, is_by_dump: bool = False) -> NDArray[np.bool_]:
        """Tell which ones go; by dump, only for one of the same dump."""
        signatures = self.corpus.gather_signatures(members.same_as)
        keys = band_keys(signatures, *choose_bands(self.config))
        if is_by_dump:
            keys = fmix64(keys + members.code.astype(np.uint64) * _MIX)
        found = sets.gather_sets(self.corpus, members.same_as)
        return judge(signatures, keys, *found, self.config.threshold).kept >= 0

    def _add_prefixes(self, members: _Members, tally: Tally) -> None:
        """Judge each component with its first dump, its first two, ...; a count holds until the next."""
        n_dumps = len(self.dumps.names)
        met, place = np.unique(members.root * n_dumps + members.code, return_inverse=True)
        first = np.searchsorted(met, members.root * n_dumps)
        n_met = np.searchsorted(met, (members.root + 1) * n_dumps) - first
        for step in range(int(n_met.max(initial=0))):
            places = np.flatnonzero((place - first <= step) & (n_met > step))
            _, firsts = np.unique(members.same_as[places], return_index=True)  # the others are copies
            places = places[np.sort(firsts)]
            goes = places[self._judge(members.take(places))]
            starts = first[goes] + step
            is_last = step + 1 == n_met[goes]
            ends = np.where(is_last, n_dumps, met[np.minimum(starts + 1, len(met) - 1)] % n_dumps)
            tally[ADDED] += np.bincount(met[starts] % n_dumps, minlength=n_dumps + 1)
            tally[ADDED] -= np.bincount(ends, minlength=n_dumps + 1)
