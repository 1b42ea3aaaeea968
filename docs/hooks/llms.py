"""mkdocs hook: ``llms.txt``, the pages with their first sentences, for programs that read (llmstxt.org)."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

_found: dict[str, tuple[str, str]] = {}


def first_sentence(markdown: str) -> str:
    r"""The first sentence of a page that is text, without links and marks.

    >>> first_sentence("# Title\n\n![a](b.svg)\n\nIt does [this](x.md). And that.")
    'It does this.'
    """
    for part in re.split(r"\n\s*\n", markdown):
        if part.strip() and not re.match(r"\s*([#|<!*:`]|=== )", part):
            plain = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", part).replace("*", "").split())
            return re.split(r"(?<=[.:?]) ", plain)[0]
    return ""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Note what a page says first."""
    _found[page.file.src_uri] = (page.file.dest_uri, first_sentence(markdown))


def on_post_build(config: MkDocsConfig) -> None:
    """Write the file beside the pages."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    for source, (place, sentence) in _found.items():
        name = Path(source).stem if not source.startswith("reference/") else source.removesuffix(".md")
        lines.append(f"- [{name}]({place}){f': {sentence}' if sentence else ''}")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n")


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Forget the pages of an earlier build of the same process."""
    _found.clear()
