"""griffe extension: docstrings as the sources have them (roles and formulas of Sphinx) become Markdown."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from formulas import drawn
from public import anchors, members

_ROLE = re.compile(r":(?:func|class|meth|data|mod|attr|exc):`(~?)([^`]+)`")
_MATH = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^( *)\.\. math::[ ]*((?:.*\n?)(?:(?:\1[ ]+\S.*|[ ]*)(?:\n|$))*)", re.MULTILINE)
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)
_CODE = re.compile(r"(?<!`)``([^`\n]+)``(?!`)")


def entry_of(target: str, scope: str) -> str | None:
    """The entry of the reference that a role names, if it is there: by full path, or as seen from ``scope``."""
    known = anchors()
    parts = scope.split(".")
    for path in (target, *(".".join([*parts[:n], target]) for n in range(len(parts), 0, -1))):
        if path in known:
            return known[path]
        owner, _, member = path.rpartition(".")
        if owner in known and owner.split(".")[-1][:1].isupper() and member in members(known[owner]):
            return f"{known[owner]}.{member}"
    return None


def markdown(text: str, scope: str) -> str:
    """A docstring with links and drawings.

    >>> markdown("See :func:`sparseflow.check`, ``x`` and :func:`torch.relu`.", "sparseflow")
    'See [`check`][sparseflow.check], `x` and `torch.relu`.'
    """

    def link(found: re.Match[str]) -> str:
        target = found[2]
        entry = entry_of(target, scope)
        shown = (
            target.removeprefix("sparseflow.")
            if entry and not found[1]
            else target.rpartition(".")[2]
            if entry
            else target
        )
        return f"[`{shown}`][{entry}]" if entry else f"`{shown}`"

    text = _DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", text)
    text = _BLOCK.sub(lambda found: f"{found[1]}{drawn(found[2])}\n\n", text)
    text = _MATH.sub(lambda found: drawn(found[1]), text)
    text = _ROLE.sub(link, text)
    text = _CODE.sub(r"`\1`", text)
    return re.sub(r"^( *)Reference: ", r"\1**Reference:** ", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring once; takes the ``#:`` comment of a constant for one."""

    def __init__(self) -> None:
        self._done: set[int] = set()

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object, if it is public."""
        if obj.path not in anchors() and obj.path.rpartition(".")[0] not in anchors():
            return
        if obj.docstring is None and isinstance(obj, griffe.Attribute) and obj.lineno:
            lines = obj.lines_collection[obj.filepath] if not isinstance(obj.filepath, list) else []
            number, comment = obj.lineno - 2, []
            while 0 <= number < len(lines) and lines[number].strip().startswith("#:"):
                comment.insert(0, lines[number].strip().removeprefix("#:").strip())
                number -= 1
            if comment:
                obj.docstring = griffe.Docstring("\n".join(comment), parent=obj, parser=griffe.Parser.google)
        if obj.docstring is not None and id(obj.docstring) not in self._done:
            self._done.add(id(obj.docstring))
            obj.docstring.value = markdown(obj.docstring.value, obj.path)
