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
from sparseflow.training.names import METHODS

SOURCE = Path(sparseflow.__file__).parent
#: A room imports from its own floor and those above; a new room takes its place here. A name covers what is inside it.
FLOORS = [
    {"types", "_checks", "rng", "ranges", "boundary", "sharded", "attached", "warn", "suggest", "machine"}
    | {"disk", "atomic", "sealed", "state_file"},
    {"_fast"},
    {"masks"},
    {"batches", "precision"},
    {"gradients"},
    {"init", "methods"},
    {"sparsifier"},
    {"tickets", "analysis"},
    {"record", "rules"},
    {"engine"},
    {"formats", "doctor", "testing"},
    {"integrations"},
    {"data"},
    {"networks"},
    {"training"},
    {"circuits"},
    {"lab.page"},
    {"lab.demo"},
    {"paper.published", "paper.cost"},
    {"paper.measures"},
    {"paper.matrix"},
    {"paper.claims", "paper.changed"},
    {"paper.exhibits"},
    {"paper.page", "paper.reproduce", "paper.committed"},
    {"compare"},
    {"cli", "__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
#: On the same floor, but strangers.
APART = {frozenset({"methods", "analysis"}), frozenset({"init", "methods"})}
#: The first floor that may use the library as its users do, by ``import sparseflow as sf``.
USERS = FLOOR["training"]


def room(name: str) -> str | None:
    """The room of a module or of a name in one: ``paper.claims`` for ``paper.claims.flow.c18``."""
    parts = name.split(".")
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in FLOOR), None)


def imported(source: str) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it, in functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def violations(sources: Mapping[str, str]) -> list[str]:
    """One line for each import that breaks the table; keys are paths such as ``methods/set.py``."""
    found = []
    for path, source in sources.items():
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if module == "__init__":  # the public face shows everything but the experiments
            names = (name.removeprefix("sparseflow.") for name in imported(source))
            found += [f"{path} imports {name}" for name in names if FLOOR.get(room(name) or "", 0) >= USERS]
            continue
        if (own := room(module)) is None:
            if module not in {"lab", "paper"}:  # these two only hold rooms
                found.append(f"{path} has no floor: give {module!r} one in FLOORS")
            continue
        for name in imported(source):
            if name.startswith("."):
                found.append(f"{path} imports {name}: write the full name")
            if name.split(".")[0] != "sparseflow":
                continue
            other = room(name.removeprefix("sparseflow."))
            below = USERS if other is None else FLOOR[other]
            if below > FLOOR[own] or frozenset({own, other}) in APART:
                found.append(f"{path} imports {name}")
    return found


def circles(sources: Mapping[str, str]) -> list[list[str]]:
    """Modules that import each other, directly or around: the strongly connected parts of the imports."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    graph: dict[str, list[str]] = {}
    for module, path in modules.items():
        names = [name.removeprefix("sparseflow.") for name in imported(sources[path]) if name.startswith("sparseflow.")]
        graph[module] = [found for name in names for found in (name, name.rpartition(".")[0]) if found in modules]
    reached = {module: _reachable(graph, module) for module in graph}
    parts = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return sorted(sorted(part) for part in parts if len(part) > 1)


def _reachable(graph: Mapping[str, list[str]], start: str) -> set[str]:
    found, waiting = set(), list(graph[start])
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += graph[module]
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every module of the package by its path."""
    found = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in SOURCE.rglob("*.py")}
    assert len(found) > 100
    return found


def test_imports_point_one_way(sources: dict[str, str]) -> None:
    assert violations(sources) == []


def test_no_modules_import_each_other(sources: dict[str, str]) -> None:
    assert circles(sources) == []


def test_a_circle_is_found() -> None:
    around = {
        "a.py": "from sparseflow.b import f",
        "b.py": "def f():\n    from sparseflow import c",
        "c.py": "import sparseflow.a",
        "d.py": "from sparseflow.a import g",
    }
    assert circles(around) == [["a", "b", "c"]]


def test_nothing_but_the_command_line_imports_the_paper(sources: dict[str, str]) -> None:
    outside = {path: source for path, source in sources.items() if not path.startswith(("paper/", "cli/"))}
    found = [path for path, source in outside.items() if any("sparseflow.paper" in name for name in imported(source))]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("masks/make.py", "from sparseflow.sparsifier.sparsifier import Sparsifier"),
        ("masks/topk.py", "def f():\n    import sparseflow.methods.base"),
        ("rng.py", "if TYPE_CHECKING:\n    from sparseflow.masks.select import prunable"),
        ("methods/set.py", "from sparseflow.analysis.flow import gradient_flow"),
        ("analysis/signal.py", "from sparseflow import methods"),
        ("sparsifier/sparsifier.py", "from sparseflow.training.store import Run"),
        ("engine/convert.py", "import sparseflow.lab"),
        ("masks/select.py", "import sparseflow as sf"),
        ("methods/new.py", "from .base import DropGrow"),
        ("lab/page/panels.py", "from sparseflow.lab.demo.page import write"),
        ("lab/page/exhibit.py", "from sparseflow.paper import matrix"),
        ("paper/claims/flow.py", "from sparseflow.paper.exhibits.curves import curve_of"),
        ("training/loop.py", "from sparseflow.cli import main"),
        ("__init__.py", "from sparseflow.lab.page import panels"),
        ("utils.py", "import torch"),
        ("lab/utils.py", "import torch"),
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
        ("training/probes.py", "import sparseflow as sf\nfrom sparseflow.training.store import Run"),
        ("paper/exhibits/flow.py", "from sparseflow.paper.claims.verdict import Verdict"),
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
    names = ", ".join(f"sparseflow.{name}" for name in ("random_masks", "initialize_", "Sparsifier", "RigL"))
    assert loaded_by(f"import sparseflow; {names}") == set()


def test_torch_is_loaded_with_the_first_name() -> None:
    code = "import sys, sparseflow; assert 'torch' not in sys.modules; sparseflow.RigL; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_has_its_home() -> None:
    """What type checkers read, what is loaded, and what is public are one list."""
    (checking,) = (node for node in ast.parse((SOURCE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    imports = [node for node in checking.body if isinstance(node, ast.ImportFrom)]
    homes = {
        name.asname or name.name: f"sparseflow.{name.name}" if node.module == "sparseflow" else node.module
        for node in imports
        for name in node.names
    }
    assert homes == sparseflow._HOMES
    assert sorted(homes) == sorted(sparseflow.__all__)
    assert set(sparseflow.__all__) <= set(dir(sparseflow))


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    code = "import sparseflow.record, sparseflow as sf; assert callable(sf.record) and sf.record.__name__ == 'record'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'sparseflow' has no attribute 'random_mask'"):
        _ = sparseflow.random_mask
    assert sparseflow.masks.select.LAYERS  # modules of the package are loaded when asked for


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
    settings = {
        name: str(getattr(METHODS.get(name), "settings", "")) for name in registry
    }  # one maker may have two rows
    assert len({(id(value), settings[name]) for name, value in registry.items()}) == len(registry)
    for name, value in registry.items():
        assert is_documented(value), name
        assert "Reference:" in (inspect.getdoc(value) or ""), name
