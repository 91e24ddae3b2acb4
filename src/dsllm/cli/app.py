"""The commands: thin, one per stage, each with the flags of its configuration class.

Nothing heavy is imported here: `dsllm --help` answers at once, and a command imports its settings when its
flags are asked for and its stage when it runs.
"""

import importlib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsllm import __version__
from dsllm.cli.flags import Inputs, Model, Output, OutputFolder, RunFlags, Tokens, flags_from
from dsllm.config import Settings
from dsllm.progress import Reporter

if TYPE_CHECKING:
    from dsllm.report.config import ReportConfig
    from dsllm.stages.dedup.config import DedupConfig
    from dsllm.stages.dpo.config import DpoConfig
    from dsllm.stages.eval.config import EvalConfig
    from dsllm.stages.filter.config import FilterConfig
    from dsllm.stages.fit_scaling.config import FitConfig, LadderConfig, PredictConfig
    from dsllm.stages.generate.config import ChatConfig, GenerateConfig
    from dsllm.stages.pretrain.config import PretrainConfig
    from dsllm.stages.remix.config import RemixConfig
    from dsllm.stages.sft.config import SftConfig
    from dsllm.stages.tokenize.config import TokenizeDecodeConfig, TokenizeEncodeConfig, TokenizeTrainConfig

app = typer.Typer(
    help="Make a language model the way DeepSeek LLM was made: from raw text to a chat model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenize_app = typer.Typer(help="Train a tokenizer; turn documents into token shards.", no_args_is_help=True)
fit_scaling_app = typer.Typer(help="Scaling laws: plan runs, fit them, predict.", no_args_is_help=True)
kernels_app = typer.Typer(help="The Triton kernels: are they right, what do they take.", no_args_is_help=True)

_DATA, _MODEL, _LOOK = "Data", "Models", "Look"
app.add_typer(tokenize_app, name="tokenize", rich_help_panel=_DATA)
app.add_typer(fit_scaling_app, name="fit-scaling", rich_help_panel=_MODEL)
app.add_typer(kernels_app, name="kernels", rich_help_panel=_LOOK)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"dsllm {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run_stage(module: str, config: Settings, inputs: list[str], output: str, run: RunFlags) -> None:
    """Run or plan a stage and print what `--json` asks for."""
    run_module(f"dsllm.stages.{module}", config, inputs, output, run)


def run_module(module: str, config: Settings, inputs: list[str], output: str, run: RunFlags) -> None:
    """Call `run` or `plan` of a module, imported now."""
    stage = importlib.import_module(module)
    reporter = Reporter(is_quiet=run.options.is_quiet)
    function = stage.plan if run.is_plan else stage.run
    summary = function(config, inputs, output, options=run.options, reporter=reporter)
    if run.is_json and summary:
        sys.stdout.write(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    elif run.is_plan:
        for name, value in summary.items():
            sys.stdout.write(f"{name}: {_plain(value)}\n")


def _plain(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@app.command(rich_help_panel=_DATA)
@flags_from("dsllm.stages.dedup.config:DedupConfig", "dedup")
def dedup(inputs: Inputs, output: Output, config: "DedupConfig", run: RunFlags) -> None:
    """Remove duplicate and near-duplicate documents over all inputs together."""
    run_stage("dedup.run", config, inputs, output, run)


@app.command("filter", rich_help_panel=_DATA)
@flags_from("dsllm.stages.filter.config:FilterConfig", "filter")
def filter_documents(inputs: Inputs, output: Output, config: "FilterConfig", run: RunFlags) -> None:
    """Remove documents by language, by rules and by a quality model."""
    run_stage("filter.run", config, inputs, output, run)


@app.command(rich_help_panel=_DATA)
@flags_from("dsllm.stages.remix.config:RemixConfig", "remix")
def remix(inputs: Inputs, output: Output, config: "RemixConfig", run: RunFlags) -> None:
    """Weigh the sources anew and shuffle: INPUT is NAME=INPUT, or documents with a field `source`."""
    run_stage("remix.run", config, inputs, output, run)


@tokenize_app.command("train")
@flags_from("dsllm.stages.tokenize.config:TokenizeTrainConfig", "tokenize train")
def tokenize_train(
    inputs: Inputs, output: OutputFolder, config: "TokenizeTrainConfig", run: RunFlags
) -> None:
    """Train a byte-level BPE tokenizer."""
    run_stage("tokenize.train", config, inputs, output, run)


@tokenize_app.command("encode")
@flags_from("dsllm.stages.tokenize.config:TokenizeEncodeConfig", "tokenize encode")
def tokenize_encode(
    inputs: Inputs, output: OutputFolder, config: "TokenizeEncodeConfig", run: RunFlags
) -> None:
    """Turn documents into token shards for `dsllm pretrain`."""
    run_stage("tokenize.encode", config, inputs, output, run)


@tokenize_app.command("decode")
@flags_from("dsllm.stages.tokenize.config:TokenizeDecodeConfig", "tokenize decode")
def tokenize_decode(tokens: Tokens, output: Output, config: "TokenizeDecodeConfig", run: RunFlags) -> None:
    """Turn token shards back into documents."""
    run_stage("tokenize.decode", config, [tokens], output, run)


@app.command(rich_help_panel=_MODEL)
@flags_from("dsllm.stages.pretrain.config:PretrainConfig", "pretrain")
def pretrain(
    inputs: Annotated[list[str], typer.Argument(metavar="TOKENS", help="Folder that tokenize encode wrote.")],
    output: OutputFolder,
    config: "PretrainConfig",
    run: RunFlags,
) -> None:
    """Train a model on token shards; on several GPUs: torchrun -m dsllm pretrain ..."""
    run_stage("pretrain.run", config, inputs, output, run)


@app.command(rich_help_panel=_MODEL)
@flags_from("dsllm.stages.sft.config:SftConfig", "sft")
def sft(inputs: Inputs, output: OutputFolder, config: "SftConfig", run: RunFlags) -> None:
    """Fine-tune a model on conversations."""
    run_stage("sft.run", config, inputs, output, run)


@app.command(rich_help_panel=_MODEL)
@flags_from("dsllm.stages.dpo.config:DpoConfig", "dpo")
def dpo(inputs: Inputs, output: OutputFolder, config: "DpoConfig", run: RunFlags) -> None:
    """Align a model with preference pairs."""
    run_stage("dpo.run", config, inputs, output, run)


@app.command("eval", rich_help_panel=_MODEL)
@flags_from("dsllm.stages.eval.config:EvalConfig", "eval")
def evaluate(model: Model, output: OutputFolder, config: "EvalConfig", run: RunFlags) -> None:
    """Measure a model on tasks in local files."""
    run_stage("eval.run", config, [model], output, run)


@fit_scaling_app.command("plan")
@flags_from("dsllm.stages.fit_scaling.config:LadderConfig", "fit-scaling plan")
def fit_scaling_plan(output: Output, config: "LadderConfig", run: RunFlags) -> None:
    """Lay out a ladder of runs: sizes, tokens, learning rate and batch for each budget."""
    run_stage("fit_scaling.run_ladder", config, [], output, run)


@fit_scaling_app.command("fit")
@flags_from("dsllm.stages.fit_scaling.config:FitConfig", "fit-scaling fit")
def fit_scaling_fit(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="RUNS", help="Pretrain folders, or results as JSON Lines or CSV."),
    ],
    output: OutputFolder,
    config: "FitConfig",
    run: RunFlags,
) -> None:
    """Fit the scaling laws to finished runs."""
    run_stage("fit_scaling.run", config, inputs, output, run)


@fit_scaling_app.command("predict")
@flags_from("dsllm.stages.fit_scaling.config:PredictConfig", "fit-scaling predict", is_stage=False)
def fit_scaling_predict(
    config: "PredictConfig",
    run: RunFlags,
    fits: Annotated[list[str] | None, typer.Argument(metavar="[FITS]", help="Folder that fit wrote.")] = None,
) -> None:
    """Say what a compute budget buys, by your fits and by the published laws."""
    run_stage("fit_scaling.run_predict", config, fits or [], "-", run)


@app.command(rich_help_panel=_MODEL)
@flags_from("dsllm.stages.generate.config:GenerateConfig", "generate", is_stage=False)
def generate(model: Model, config: "GenerateConfig", run: RunFlags) -> None:
    """Continue a prompt, or each line of standard input."""
    from dsllm.stages.generate import run as stage

    reporter = Reporter(is_quiet=run.options.is_quiet)
    stage.run(config, [model], options=run.options, reporter=reporter, is_json=run.is_json)


@app.command(rich_help_panel=_MODEL)
@flags_from("dsllm.stages.generate.config:ChatConfig", "chat", is_stage=False)
def chat(model: Model, config: "ChatConfig", run: RunFlags) -> None:
    """Talk to a model: Ctrl-D ends, /reset forgets."""
    from dsllm.stages.generate import chat as stage

    stage.run(config, [model], options=run.options, reporter=Reporter(is_quiet=run.options.is_quiet))


@kernels_app.command("check")
def kernels_check(
    device: Annotated[
        str, typer.Option(help="cpu: Triton's interpreter; cuda: compiled, on the GPU.")
    ] = "cpu",
) -> None:
    """Compare every kernel with its formula in fp64, values and gradients.

    Errors are in units in the last place of the largest number, 2**-8 of it in bf16 and 2**-24 in fp32.
    """
    from dsllm.kernels import check

    rows = check.run(device)
    cells = [
        (row.kernel, row.case, f"{row.worst_units:.1f}", f"{row.allowed_units:.0f}", _yes(row.is_right))
        for row in rows
    ]
    Reporter().table("kernels", ("kernel", "case", "worst error, ulp", "allowed", "right"), cells)
    if not all(row.is_right for row in rows):
        raise typer.Exit(1)


@kernels_app.command("report")
def kernels_report(
    arch: Annotated[
        str, typer.Option(help="Machines, separated by commas: sm_80, sm_90, sm_100, gfx942.")
    ] = "sm_90",
    kernel: Annotated[str, typer.Option(help="Kernels, separated by commas: the first words of names.")] = "",
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile every kernel without a GPU: registers, spills, occupancy, tensor cores, the least time."""
    from dsllm.cli import kernels

    if not kernels.report(arch.split(","), [name for name in kernel.split(",") if name], is_json=is_json):
        raise typer.Exit(1)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "NO"


@app.command("report", rich_help_panel=_LOOK)
@flags_from("dsllm.report.config:ReportConfig", "report", is_stage=False)
def make_report(
    inputs: Annotated[
        list[str], typer.Argument(metavar="RUNS", help="Folders that dsllm wrote, or of such.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="PAGE", help="HTML file, or - for stdout.")
    ],
    config: "ReportConfig",
    run: RunFlags,
) -> None:
    """Make one HTML page of the tables and pictures of any runs."""
    run_module("dsllm.report.run", config, inputs, output, run)


@app.command(rich_help_panel=_LOOK)
def inspect(
    path: Annotated[str, typer.Argument(help="A folder that dsllm wrote, a model, or a file of documents.")],
    document: Annotated[
        int | None,
        typer.Option(help="Of a folder of tokens: the whole text of this document, from 0.", min=0),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this is."""
    from dsllm.cli import folders

    folders.inspect(path, document=document, is_json=is_json)


@app.command(rich_help_panel=_LOOK)
def verify(paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Folders or files.")]) -> None:
    """Say whether it is whole: sizes and content hashes against the manifest."""
    from dsllm.cli import folders

    folders.verify(paths)


@app.command(rich_help_panel=_LOOK)
def trace(
    path: Annotated[str, typer.Argument(help="A folder that dsllm wrote, or a file in one.")],
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where it is from, by content hash, back to the raw files."""
    from dsllm.io.provenance import trace as trace_origin

    origin = trace_origin(path)
    lines = [json.dumps(origin.to_dict(), ensure_ascii=False, indent=1)] if is_json else origin.lines()
    sys.stdout.write("\n".join(lines) + "\n")
