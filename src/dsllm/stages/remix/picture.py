"""A picture of a mixture: shares before, wanted and reached, and epochs, a row of bars per source."""

import io
from typing import Any, Literal

Format = Literal["svg", "png"]

MAX_ROWS = 30
_KINDS = (("before", "#b8b8b8"), ("wanted", "#c4541a"), ("reached", "#0b6e99"))
_STYLE: Any = {
    "svg.hashsalt": "dsllm",  # identifiers inside the SVG do not change from run to run
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw_mixture(sources: dict[str, dict[str, Any]], picture_format: Format) -> bytes:
    """Draw the sources as the manifest has them, the largest first; same numbers give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    found = sorted(sources.items(), key=lambda item: (-item[1]["reached"], item[0]))[:MAX_ROWS]
    names = [name.replace("$", r"\$") for name, _ in found]  # no formulas in names
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 1.2 + 0.5 * len(found)))
        shares, epochs = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for at, (kind, colour) in enumerate(_KINDS):
            places = [row + (at - 1) * 0.27 for row in range(len(found))]
            shares.barh(places, [100 * source[kind] for _, source in found], 0.25, color=colour, label=kind)
        epochs.barh(range(len(found)), [source["epochs"] for _, source in found], 0.5, color=_KINDS[2][1])
        epochs.axvline(1.0, color=_KINDS[0][1], linewidth=1)
        shares.set(yticks=range(len(found)), yticklabels=names, xlabel="% of the mixture")
        shares.invert_yaxis()
        shares.legend(loc="lower right")
        epochs.set(xlabel="epochs")
        figure.tight_layout()
        out = io.BytesIO()
        # No date and no version of the library: only the numbers make the bytes.
        metadata = {"Date": None, "Creator": "dsllm"} if picture_format == "svg" else {"Software": "dsllm"}
        figure.savefig(out, format=picture_format, dpi=144, metadata=metadata)
    return out.getvalue()
