"""Placeholders in the place of personal data, in what stays."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dsllm.stages.filter.table import Table
from dsllm.text.edits import Edit, apply_edits
from dsllm.text.personal import find_edits


@dataclass(frozen=True)
class MaskPersonal:
    """Personal data in the documents that stay, exempt ones included, is masked and counted by kind."""

    kinds: tuple[str, ...]
    of_all: bool = False  # the rejected documents stay as well

    def __call__(self, table: Table) -> None:
        """Edit the texts; other tests have been made of what stood there before."""
        places = np.flatnonzero((table.first < 0) | self.of_all)
        edits, kinds = find_edits(table.texts.take(places), self.kinds)
        if not edits:
            return
        edits = [Edit(int(places[edit.text]), *edit[1:]) for edit in edits]
        by_document: dict[int, Counter[str]] = {}
        for edit, kind in zip(edits, kinds, strict=True):
            by_document.setdefault(edit.text, Counter())[kind] += 1
            table.counts[f"personal.{kind}.n_found"] += 1
        for kinds_found in by_document.values():
            table.counts.update(f"personal.{kind}.n_documents" for kind in kinds_found)
        mask = np.zeros(len(table.documents), bool)
        mask[list(by_document)] = True
        table.edit(apply_edits(table.texts, edits), mask)
        table.note("personal", [dict(by_document.get(place, {})) or None for place in range(len(mask))])
