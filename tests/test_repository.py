"""The house rules: sizes, names, layout, imports, calls that run hidden code, and declared dependencies."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted(
    [*(ROOT / "pdediff").rglob("*.py"), *(ROOT / "flows").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
)
PYTHON = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
FOLDERS = {"pdediff", "flows", "configs", "data", "docs", "notebooks", "tests", ".ci"}
FORBIDDEN = {
    "torch.load": r"(?<!\.)\btorch\.load\(",
    "pickle.load": r"\bpickle\.loads?\(",
    "allow_pickle": r"allow_pickle\s*=\s*True",
    "weights_only": r"weights_only\s*=\s*False",
    "yaml.load": r"\byaml\.load\(",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "_target_": r"_target_",
}
"""Calls and keys by which data becomes code (the attribute `.eval(` of a network is another thing)."""


def name_of(path: Path) -> str:
    """Path of a file inside the repository."""
    return str(path.relative_to(ROOT))


def nodes(path: Path, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """The syntax nodes of some kind in a file."""
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


def decorators(node: ast.ClassDef) -> str:
    """Decorators of a class as text."""
    return " ".join(ast.unparse(d) for d in node.decorator_list)


def arguments(node: ast.ClassDef) -> int:
    """Number of arguments of a class's constructor, dataclass fields included."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return len(part.args.args) + len(part.args.kwonlyargs) - 1
    if "dataclass" not in decorators(node):
        return 0
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    return sum("ClassVar" not in ast.unparse(f.annotation) and "init=False" not in ast.unparse(f) for f in fields)


def test_files_and_functions_are_short() -> None:
    long = [name_of(path) for path in PYTHON if len(path.read_text().splitlines()) > 300]
    for path in PYTHON:
        for node in nodes(path, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.end_lineno - node.lineno + 1 > 50:  # type: ignore[attr-defined]
                long.append(f"{name_of(path)}: {node.name}")  # type: ignore[attr-defined]
    assert long == []


def test_constructors_are_narrow() -> None:
    classes = [(path, node) for path in SOURCES for node in nodes(path, ast.ClassDef)]
    assert [f"{name_of(path)}: {node.name}" for path, node in classes if arguments(node) > 8] == []  # type: ignore


def test_protocols_take_no_open_arguments() -> None:
    found = []
    for path in SOURCES:
        for node in nodes(path, ast.ClassDef):
            if any("Protocol" in ast.unparse(base) for base in node.bases):  # type: ignore[attr-defined]
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]  # type: ignore[attr-defined]
                found += [f"{name_of(path)}: {method.name}" for method in methods if method.args.kwarg]
    assert found == []


def test_names_say_what_things_are() -> None:
    vague = re.compile(r"(^|_)(utils?|helpers?|misc|managers?)(_|$)|(Utils?|Helper|Manager)$")
    names = [(path, path.stem) for path in PYTHON]
    names += [(path, node.name) for path in PYTHON for node in nodes(path, ast.ClassDef)]  # type: ignore[attr-defined]
    assert [f"{name_of(path)}: {name}" for path, name in names if vague.search(name)] == []


def test_nothing_runs_code_from_data() -> None:
    texts = {name_of(path): path.read_text() for path in SOURCES}
    found = [
        f"{path}: {name}" for path, text in texts.items() for name in FORBIDDEN if re.search(FORBIDDEN[name], text)
    ]
    assert found == []


def test_the_forbidden_calls_are_recognised() -> None:
    planted = {
        "torch.load": "x = torch.load(path)",
        "pickle.load": "pickle.loads(b)",
        "allow_pickle": "np.load(f, allow_pickle=True)",
        "weights_only": "f(weights_only=False)",
        "yaml.load": "yaml.load(text)",
        "eval": "y = eval(text)",
        "exec": "exec(text)",
        "_target_": "{'_target_': 1}",
    }
    assert {name for name, pattern in FORBIDDEN.items() if re.search(pattern, planted[name])} == set(FORBIDDEN)
    innocent = "network.eval()\nsafetensors.torch.load(b)\nyaml.safe_load(t)\nmodel.exec()"
    assert not [name for name, pattern in FORBIDDEN.items() if re.search(pattern, innocent)]


def test_no_config_names_code() -> None:
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert not re.search(r"_target_|_partial_|_args_|\$\{[^}]*:", file.read_text()), file


def test_the_top_level_is_tidy() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert {file.partition("/")[0] for file in files if "/" in file} <= FOLDERS
    assert {file for file in files if file.startswith("data/")} <= {"data/README.md"}
    ignored = subprocess.run(["git", "check-ignore", "pdediff/data/x.py"], capture_output=True, cwd=ROOT)
    assert ignored.returncode == 1, "the ignore rule for data/ must be anchored"


def test_every_package_is_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "pdediff").rglob("__init__.py")}
    assert listed == found | {"pdediff.flows", "pdediff.configs"}


def test_what_is_imported_is_declared() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    declared = {canonicalize_name(Requirement(text).name) for group in groups for text in group}
    owners = packages_distributions()
    allowed = {*sys.stdlib_module_names, "pdediff", "pynvml"}  # pynvml comes with dask-cuda
    missing = set()
    for path in SOURCES:
        for node in nodes(path, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]  # type: ignore[attr-defined]
            tops = {(name or "").partition(".")[0] for name in names} - allowed
            missing |= {top for top in tops if not {canonicalize_name(p) for p in owners.get(top, [top])} & declared}
    assert missing == set()


def test_the_constraints_lie_within_the_declared_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    for text in PROJECT["project"]["dependencies"]:
        wanted = Requirement(text)
        pin = pinned[canonicalize_name(wanted.name)]
        (version,) = [spec.version for spec in pin.specifier]
        assert wanted.specifier.contains(version), text
    for name in ("zarr", "numpy", "numcodecs", "icechunk"):
        assert str(pinned[name].marker) == 'python_version < "3.12"'


PLANTS = {
    "pdediff/types.py": ("import pdediff.errors", "layers"),
    "pdediff/pdes/base.py": ("import pdediff.diffusion", "layers"),
    "pdediff/samplers/plan.py": ("import pdediff.observe", "samplers know only diffusion"),
    "pdediff/models/fno.py": ("import pdediff.store", "models know only diffusion and samplers"),
    "pdediff/posterior/base.py": ("import pdediff.pdes", "posteriors know only diffusion, samplers and observe"),
    "flows/compose.py": ("import pdediff.samplers", "flows hold no numerics: they call stages"),
    "pdediff/cli.py": ("import hydra", "prefect and hydra only in flows"),
    "pdediff/errors.py": ("import distributed", "dask only in the runtime and in flows"),
    "pdediff/observe/operator.py": ("import zarr", "xarray and zarr only in store, metrics and stages"),
    "pdediff/diffusion/loss.py": ("import neuralop", "neuraloperator only in models"),
    "pdediff/train/loop.py": ("import matplotlib", "matplotlib only in metrics"),
    "pdediff/stages/benchmarking.py": ("import exponax", "peers only in their own process"),
}


@pytest.mark.slow
def test_the_import_contract_holds_and_notices_violations(tmp_path: Path) -> None:
    place = tmp_path / "repository"
    for folder in ("pdediff", "flows"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    contracts = PROJECT["tool"]["importlinter"]["contracts"]

    def broken() -> set[str]:
        script = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
        command = [sys.executable, "-c", script, "--no-cache"]
        shown = subprocess.run(command, capture_output=True, text=True, cwd=place).stdout
        assert all(f"{contract['name']} " in shown for contract in contracts), shown
        return {contract["name"] for contract in contracts if f"{contract['name']} BROKEN" in shown}

    assert broken() == set()
    for file, (line, _) in PLANTS.items():
        text = (place / file).read_text()
        (place / file).write_text(text.replace("from __future__ import annotations\n", f"\n{line}\n", 1))
        assert (place / file).read_text() != text
    assert broken() == {name for _, name in PLANTS.values()} == {contract["name"] for contract in contracts}
