"""Pictures of the fits, as SVG or PNG with the same bytes for the same numbers."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dsllm.stages.fit_scaling.fit import law_of
from dsllm.stages.fit_scaling.isoflop import Parabola
from dsllm.stages.fit_scaling.laws import Array, FlooredLaw, PowerLaw
from dsllm.stages.fit_scaling.predict import fitted_laws
from dsllm.stages.fit_scaling.published import CHINCHILLA, DEEPSEEK, Laws, step_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

_STYLE: Any = {
    "svg.hashsalt": "dsllm",  # identifiers inside the SVG do not change from run to run
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
_OWN, _PAPER, _OTHER = "#0b6e99", "#c4541a", "#8a8a8a"
_TITLES = {
    "lr_max": "peak learning rate",
    "batch_tokens": "batch (tokens)",
    "flops_per_token": "M (FLOPs per token)",
    "n_tokens": "D (tokens)",
}


def draw_all(fits: dict[str, Any], picture_format: Format) -> dict[str, bytes]:
    """Draw what the fits have: file name -> bytes."""
    import matplotlib

    isoflop = fits["isoflop"]
    drawings: dict[str, Callable[[dict[str, Any]], Figure]] = {}
    if isoflop["profiles"]:
        drawings["isoflop"] = _draw_profiles
    if law_of(fits, "isoflop", "flops_per_token"):
        drawings["optima"] = lambda fits: _draw_laws(fits, ("flops_per_token", "n_tokens"))
        drawings["loss"] = _draw_loss
    if fits["lr_max"]["bands"] or fits["batch_tokens"]["bands"]:
        drawings["hyperparameters"] = lambda fits: _draw_laws(fits, ("lr_max", "batch_tokens"))
    with matplotlib.rc_context(_STYLE):
        return {
            f"{name}.{picture_format}": _to_bytes(draw(fits), picture_format)
            for name, draw in drawings.items()
        }


def _to_bytes(figure: "Figure", picture_format: Format) -> bytes:
    out = io.BytesIO()
    # No date and no version of the library: only the numbers make the bytes.
    metadata = {"Date": None, "Creator": "dsllm"} if picture_format == "svg" else {"Software": "dsllm"}
    figure.savefig(out, format=picture_format, dpi=144, metadata=metadata)
    return out.getvalue()


def _new_figure(n_panels: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    width, height = 4.6 * n_panels, 3.6
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, n_panels, squeeze=False)
    # Margins in inches: what a constrained layout finds, without drawing everything twice.
    figure.subplots_adjust(
        left=0.62 / width, right=1 - 0.12 / width, bottom=0.5 / height, top=1 - 0.1 / height, wspace=0.22
    )
    return figure, list(axes[0])


def _label(axes: "Axes", x: str, y: str) -> None:
    """Name the axes; of the logarithmic ones only powers of ten carry a number."""
    from matplotlib.ticker import NullFormatter

    axes.set(xscale="log", xlabel=x, ylabel=y)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if axes.get_yscale() == "log" and np.ptp(np.log10(axes.get_ylim())) > 1:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_profiles(fits: dict[str, Any]) -> "Figure":
    """Loss against M, one curve a budget, with its parabola and its optimum."""
    import matplotlib

    figure, (axes,) = _new_figure(1)
    profiles = fits["isoflop"]["profiles"]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(profiles)))
    for profile, colour in zip(profiles, colours, strict=True):
        x = np.array([point["flops_per_token"] for point in profile["points"]])
        losses = [point["loss"] for point in profile["points"]]
        axes.plot(x, losses, "o", ms=3, color=colour, label=f"{profile['compute_flops']:.2g}")
        optimum = profile["optimum"]
        if optimum is None:
            continue
        parabola = Parabola(optimum["flops_per_token"], optimum["loss"], optimum["curvature"])
        near = np.geomspace(max(x.min(), parabola.x_opt / 2.5), min(x.max(), parabola.x_opt * 2.5), 60)
        axes.plot(near, [parabola(value) for value in near], "-", lw=1, color=colour)
        axes.plot([parabola.x_opt], [parabola.lowest], "*", ms=8, color=colour, mec="white", mew=0.5)
    lowest = [min(point["loss"] for point in profile["points"]) for profile in profiles]
    axes.set_ylim(0.95 * min(lowest), max(lowest) + 0.75 * (max(lowest) - 0.9 * min(lowest)))
    _label(axes, _TITLES["flops_per_token"], fits["metric"].replace("_", " "))
    axes.legend(title="FLOPs", ncols=2 if len(profiles) > 5 else 1)
    return figure


def _draw_laws(fits: dict[str, Any], names: tuple[str, str]) -> "Figure":
    """Optimal values against compute, with the fitted law and the published ones."""
    figure, panels = _new_figure(2)
    own = fitted_laws(fits, "these runs")
    for axes, name in zip(panels, names, strict=True):
        compute, values = _optima(fits, axes, name)
        ends = [budget["compute_flops"] for budget in fits["budgets"]]
        x = np.geomspace(min(ends) / 2, max(ends) * 10, 50)
        if compute:
            axes.plot(compute, values, "o", ms=5, color=_OWN)
        _plot_law(axes, x, getattr(own, name), "these runs", (_OWN, "-"))
        for laws, colour, style in ((DEEPSEEK, _PAPER, "--"), (CHINCHILLA, _OTHER, ":")):
            _plot_law(axes, x, getattr(laws, name), laws.name, (colour, style))
        if name in ("lr_max", "batch_tokens"):
            _plot_step_law(axes, x, name, own)
        axes.set_yscale("log")
        _label(axes, "C (FLOPs)", _TITLES[name])
        axes.legend()
    return figure


def _optima(fits: dict[str, Any], axes: "Axes", name: str) -> tuple[list[float], list[float]]:
    if name in ("flops_per_token", "n_tokens"):
        found = [profile for profile in fits["isoflop"]["profiles"] if profile["optimum"]]
        return [p["compute_flops"] for p in found], [p["optimum"][name] for p in found]
    bands = [band for band in fits[name]["bands"] if band["reason"] is None]
    for band in fits[name]["bands"]:
        tried = [value for value, _ in band["points"]]
        axes.plot([band["compute_flops"]] * len(tried), tried, ".", ms=3, color=_OTHER, alpha=0.5)
        axes.plot([band["compute_flops"]] * 2, [band["low"], band["high"]], "-", lw=4, color=_OWN, alpha=0.3)
    return [band["compute_flops"] for band in bands], [band["centre"] for band in bands]


def _plot_law(axes: "Axes", x: Array, law: PowerLaw | None, label: str, line: tuple[str, str]) -> None:
    if law:
        colour, style = line
        axes.plot(x, [law(value) for value in x], style, lw=1.3, color=colour, label=f"{label}: {law}")


def _plot_step_law(axes: "Axes", x: Array, name: str, own: Laws) -> None:
    """Step Law is one in N and D: it is drawn at the compute-optimal ones, N = M / 6."""
    flops, tokens = (
        (own.flops_per_token, own.n_tokens)
        if own.flops_per_token and own.n_tokens
        else (DEEPSEEK.flops_per_token, DEEPSEEK.n_tokens)
    )
    assert flops is not None
    assert tokens is not None
    index = ("lr_max", "batch_tokens").index(name)
    values = [step_law(flops(value) / 6, tokens(value))[index] for value in x]
    axes.plot(x, values, "-.", lw=1.3, color=_OTHER, label="Step Law at M_opt, D_opt")


def _draw_loss(fits: dict[str, Any]) -> "Figure":
    """The lowest loss of each budget against compute, and the law through it."""
    figure, (axes,) = _new_figure(1)
    found = [profile for profile in fits["isoflop"]["profiles"] if profile["optimum"]]
    compute = [profile["compute_flops"] for profile in found]
    axes.plot(compute, [profile["optimum"]["loss"] for profile in found], "o", ms=5, color=_OWN)
    law = fits["isoflop"]["loss"]["law"]
    x = np.geomspace(min(compute) / 2, max(compute) * 10, 80)
    curve = FlooredLaw(law["floor"], PowerLaw(law["coefficient"], law["exponent"]))
    label = f"{law['floor']:.3g} + {curve.law}" if law["floor"] else str(curve.law)
    axes.plot(x, [curve(value) for value in x], "-", lw=1.3, color=_OWN, label=label)
    if held_out := law["held_out"]:
        axes.plot(
            [held_out["compute_flops"]],
            [held_out["predicted"]],
            "x",
            color=_PAPER,
            label=f"predicted from the smaller budgets ({held_out['error_frac']:+.2%})",
        )
    _label(axes, "C (FLOPs)", fits["metric"].replace("_", " "))
    axes.legend()
    return figure
