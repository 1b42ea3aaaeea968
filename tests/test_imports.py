"""Who may import whom, what `import sparseflow` may load, and that every public name says what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import sparseflow
from makers import MAKERS
from sparseflow.init.fill import INITIALIZERS
from sparseflow.masks.allocation import ALLOCATIONS

SOURCE = Path(sparseflow.__file__).parent
#: A module imports from its own floor and those above; a new module takes its place here.
FLOORS = [
    {"types", "_checks", "rng", "atomic", "sharded"},
    {"_fast"},
    {"masks"},
    {"gradients"},
    {"init", "methods"},
    {"sparsifier"},
    {"tickets", "analysis"},
    {"engine"},
    {"data"},
    {"networks"},
    {"training"},
    {"lab"},
    {"paper"},
    {"cli", "__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
#: On the same floor, but strangers.
APART = {frozenset({"methods", "analysis"})}


def imported(source: str) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it, in functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "sparseflow" and not node.level:
            # `from sparseflow import masks` imports a module, any other name the package itself.
            yield from {f"sparseflow.{alias.name}" if alias.name in FLOOR else "sparseflow" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def violations(sources: Mapping[str, str]) -> list[str]:
    """One line for each import that breaks the table; keys are paths such as ``methods/set.py``."""
    found = []
    for path, source in sources.items():
        own = path.removesuffix(".py").split("/")[0]
        if own == "__init__":  # the public face shows everything but the lab
            found += [f"{path} imports {name}" for name in imported(source) if name.startswith("sparseflow.lab")]
            continue
        if own not in FLOOR:
            found.append(f"{path} has no floor: give {own!r} one in FLOORS")
            continue
        for name in imported(source):
            if name.startswith("."):
                found.append(f"{path} imports {name}: write the full name")
            if name.split(".")[0] != "sparseflow":
                continue
            other = name.split(".")[1] if "." in name else "the package itself"
            below = FLOOR.get(other, FLOOR["training"])  # the package itself is for those that use all of it
            if below > FLOOR[own] or frozenset({own, other}) in APART:
                found.append(f"{path} imports {name}")
    return found


def test_imports_point_one_way() -> None:
    sources = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in SOURCE.rglob("*.py")}
    assert len(sources) > 30
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("masks/make.py", "from sparseflow.sparsifier.sparsifier import Sparsifier"),
        ("masks/topk.py", "def f():\n    import sparseflow.methods.base"),
        ("rng.py", "if TYPE_CHECKING:\n    from sparseflow.masks.select import prunable"),
        ("methods/set.py", "from sparseflow.analysis.flow import gradient_flow"),
        ("analysis/signal.py", "from sparseflow import updaters"),
        ("sparsifier/sparsifier.py", "from sparseflow.training.store import Run"),
        ("engine/convert.py", "import sparseflow.lab"),
        ("masks/select.py", "import sparseflow as sf"),
        ("methods/new.py", "from .base import DropGrow"),
        ("__init__.py", "from sparseflow.lab import cli"),
        ("utils.py", "import torch"),
    ],
)
def test_the_check_can_fail(path: str, source: str) -> None:
    assert len(violations({path: source})) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "masks/make.py",
            "import torch\nfrom sparseflow.masks.topk import topk_mask\nfrom sparseflow.rng import stream",
        ),
        ("methods/set.py", "from sparseflow.methods.drop_grow import DropGrow"),
        ("lab/probes.py", "import sparseflow as sf\nfrom sparseflow.training.store import Run"),
        ("__init__.py", "from sparseflow.sparsifier.sparsifier import Sparsifier"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations({path: source}) == []


#: Optional or slow; the library must not need them to be imported.
HEAVY = [
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "rich",
    "tyro",
    "safetensors",
    "numba",
    "jinja2",
    "pooch",
    "mlxtend",
]


def loaded_by(statement: str) -> set[str]:
    """Which of HEAVY and the lab a fresh interpreter has loaded after a statement."""
    names = [*HEAVY, "sparseflow.lab"]
    code = f"{statement}\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_core_loads_nothing_heavy() -> None:
    assert loaded_by("import sparseflow") == set()


def test_the_check_of_what_is_loaded_can_fail() -> None:
    assert loaded_by("import scipy, sparseflow.lab") == {"scipy", "sparseflow.lab"}


# --- documentation of public names ------------------------------------------------------------------------------------


def is_documented(value: object) -> bool:
    """A docstring of its own, not the signature that a dataclass writes for itself."""
    text = inspect.getdoc(value) or ""
    return bool(text) and not text.startswith(f"{getattr(value, '__name__', '')}(")


ALIASES = [name for name in sparseflow.__all__ if type(getattr(sparseflow, name)).__name__ == "GenericAlias"]


@pytest.mark.parametrize("name", [name for name in sparseflow.__all__ if name not in ALIASES])
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert is_documented(getattr(sparseflow, name))


@pytest.mark.parametrize("name", ALIASES)
def test_every_public_type_alias_has_a_comment(name: str) -> None:
    lines = (SOURCE / "types.py").read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
    assert lines[number - 1].startswith("#: ")


@pytest.mark.parametrize("registry", [MAKERS, ALLOCATIONS, INITIALIZERS], ids=["methods", "allocations", "init"])
def test_every_registered_value_is_its_own_and_says_where_it_comes_from(registry: Mapping[str, object]) -> None:
    assert len({id(value) for value in registry.values()}) == len(registry)
    for name, value in registry.items():
        assert is_documented(value), name
        assert "Reference:" in (inspect.getdoc(value) or ""), name
