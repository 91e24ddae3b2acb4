"""Imports point down, heavy packages stay where they belong, and files stay small."""

import ast
from pathlib import Path

import pytest

import dsllm

SOURCE = Path(dsllm.__file__).parent
LAYERS = [
    *("errors", "config", "progress", "io", "workers", "text", "kernels", "model"),
    *("parallel", "train", "stages", "report", "cli"),
]
FILES = sorted(SOURCE.rglob("*.py"))
WITHOUT_TORCH = ("io", "text", "workers", "stages/dedup", "stages/filter", "stages/remix", "stages/tokenize")
WITHOUT_DISTRIBUTED = ("kernels", "model")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    layer = layer_of(path)
    if layer in ("__init__", "__main__"):
        return
    for module in imported_modules(path):
        if not module.startswith("dsllm."):
            continue
        target = module.split(".")[1]
        if target == "__version__":
            continue
        assert LAYERS.index(target) <= LAYERS.index(layer), f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((SOURCE / "stages").rglob("*.py")), ids=str)
def test_a_stage_never_imports_another(path):
    parts = path.relative_to(SOURCE / "stages").parts
    if len(parts) < 2:
        return
    others = {module for module in imported_modules(path) if module.startswith("dsllm.stages.")}
    assert {module.split(".")[2] for module in others} <= {parts[0]}, f"{path} imports {others}"


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_data_stages_never_import_torch(folder):
    for path in (SOURCE / folder).rglob("*.py"):
        assert not any(module.split(".")[0] == "torch" for module in imported_modules(path)), path


@pytest.mark.parametrize("folder", WITHOUT_DISTRIBUTED)
def test_models_are_written_for_one_device(folder):
    for path in (SOURCE / folder).rglob("*.py"):
        assert not any(module.startswith("torch.distributed") for module in imported_modules(path)), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path} has over 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert n_lines <= 70, f"{path}: {node.name} has {n_lines} lines, over 70"
