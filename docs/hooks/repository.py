"""mkdocs hook: files of the repository that a page links to by ``../`` come into the site, pages with their figures."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(\]\(|src=\")\.\./([^)\s#\"]+)")
#: Pages at the root of the repository that are pages of the manual too.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def linked(text: str) -> set[str]:
    """The files outside ``docs/`` that a page links to.

    >>> sorted(linked("[a](../results/demo/index.html) and [b](methods.md)"))
    ['results/demo/index.html']
    """
    return {found[2] for found in _LINK.finditer(text)} - PAGES.keys()


def at_the_root(text: str) -> str:
    """A page that lies at the root of the repository, as one of ``docs/``."""
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda m: f"]({m[1].removeprefix('docs/')})"
                  if m[1].startswith("docs/") else f"](../{m[1]})", text)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked to, and with an ``index.html`` the figures beside it."""
    for name, path in PAGES.items():
        files.append(File.generated(config, path, content=at_the_root((ROOT / name).read_text())))
    wanted: set[Path] = set()
    for file in list(files.documentation_pages()):
        for name in linked(file.content_string):
            target = ROOT / name
            if target.name == "index.html":
                wanted.update(path for path in target.parent.rglob("*") if path.suffix in {".svg", ".html", ".csv"})
            elif target.is_file():
                wanted.add(target)
    for target in sorted(wanted):
        where = target.relative_to(ROOT).as_posix()
        files.append(File.generated(config, f"repository/{where}", abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at the copies."""
    up = "../" * page.file.src_uri.count("/")

    def copied(found: re.Match[str]) -> str:
        return f"{found[1]}{up}{PAGES.get(found[2]) or f'repository/{found[2]}'}"

    return _LINK.sub(copied, markdown)
