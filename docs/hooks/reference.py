"""mkdocs hook: the reference, one page for each public module and an entry for each public name."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from public import SOURCE, elsewhere, entry, public_modules


def page(module: str, names: list[str]) -> str:
    """The text of a module's page."""
    away = {name: there for name in names if (there := elsewhere(module, name))}
    plain = [name for name in names if entry(module, name) == f"{module}.{name}" and name not in away]
    listed = "".join(f"\n        - {name}" for name in plain)
    text = f"# {module}\n\n::: {module}\n    options:\n      members:{listed or ' false'}\n"
    for name in names:
        if name in away:
            text += f"\n## {name} {{ #{module}.{name} }}\n\nSee [`{away[name]}`][{away[name]}].\n"
        elif name not in plain:
            text += f"\n::: {entry(module, name)}\n    options:\n      show_root_heading: true\n"
    return text


def first_sentence(module: str) -> str:
    """What a module is for, by the first line of its docstring."""
    path = SOURCE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace(":mod:", "").replace("``", "`")


def overview() -> str:
    """The page that leads to the others."""
    lines = ["# Reference", "", "Every public name, by the module that it is imported from.", ""]
    lines += [f"* [{module}]({module}.md): {first_sentence(module)}" for module in public_modules()]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Path below the documents -> text of each page of the reference."""
    found = {f"reference/{module}.md": page(module, names) for module, names in public_modules().items()}
    return {"reference/index.md": overview(), **found}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages where the navigation says ``Reference``."""
    listed = [{"All modules": "reference/index.md"}]
    listed += [{module: f"reference/{module}.md"} for module in public_modules()]
    for part in config.nav or []:
        if isinstance(part, dict) and "Reference" in part:
            part["Reference"] = listed
    with_tools = next(part["With other tools"] for part in config.nav or [] if "With other tools" in part)
    listed_pages = str(config.nav)
    for path in sorted(Path(config.docs_dir).glob("*.md")):
        if path.name not in listed_pages:  # no page without a place
            with_tools.append(path.name)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that lie in the folder."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
