"""The public names of the library: what each public module lists in its ``__all__``."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
if str(SOURCE) not in sys.path:  # the documents are about this tree, whatever else is installed
    sys.path.insert(0, str(SOURCE))
#: Parts of the package that are used through others, or through the command line.
INSIDE = {"cli", "lab", "paper", "sparsifier", "training"}

#: Integrations are named after the library that they are for; modules beside them are their own business.
LIBRARIES = {"accelerate", "lightning", "peft", "timm", "transformers"}


@cache
def public_modules() -> dict[str, list[str]]:
    """Module -> the names in its ``__all__``, without modules that have a page of their own.

    Read from the sources, so that modules of integrations need none of the libraries that they integrate.
    """
    found = {}
    for path in sorted((SOURCE / "sparseflow").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if any(part.startswith("_") for part in parts) or INSIDE.intersection(parts[1:2]):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[".".join(parts)] = list(ast.literal_eval(node.value))
        if parts[1:2] == ("integrations",) and parts[-1] in LIBRARIES:
            found.setdefault(".".join(parts), _defined(ast.parse(path.read_text())))
    return {module: [n for n in names if submodule(module, n) not in found] for module, names in found.items()}


def _defined(tree: ast.Module) -> list[str]:
    """The classes and functions of a module, without private ones."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def submodule(module: str, name: str) -> str:
    """The full name of a module that another one shows under a name; of anything else, a name that no module has."""
    for node in ast.walk(_tree(module) or ast.Module([], [])):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{node.module}.{alias.name}"
    return f"{module}.{name}"


def entry(module: str, name: str) -> str:
    """The path under which the reference has a name: where a submodule is called the same, the name inside it."""
    folder = SOURCE.joinpath(*module.split("."))
    hidden = (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()
    return f"{module}.{name}.{name}" if hidden else f"{module}.{name}"


def elsewhere(module: str, name: str) -> str | None:
    """The entry of a name on another page, where a submodule of that page's module hides it."""
    source = submodule(module, name).rpartition(".")[0]
    return entry(source, name) if source != module and entry(source, name) != f"{source}.{name}" else None


def _tree(module: str) -> ast.Module | None:
    """The source of a module, read; ``None`` where there is none of that name."""
    path = SOURCE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text()) if path.exists() else None


@cache
def home(module: str, name: str) -> str:
    """The module that defines what another one imports under a name."""
    tree = _tree(module)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return home(node.module, name)
    return module


@cache
def anchors() -> dict[str, str]:
    """Every path under which a public name is known -> the path of its entry in the reference."""
    found: dict[str, str] = {}
    for module, names in public_modules().items():
        found[module] = module
        for name in names:
            there = elsewhere(module, name) or entry(module, name)
            found.setdefault(f"{module}.{name}", there)
            found.setdefault(f"{home(module, name)}.{name}", there)
    return found


@cache
def members(path: str) -> set[str]:
    """Names of the methods and fields that a public class defines."""
    module, _, name = path.rpartition(".")
    tree = _tree(home(module, name))
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = {
                part.target.id
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            }
            return fields | {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return set()
