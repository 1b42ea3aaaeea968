#!/usr/bin/env bash
# Guess: isinstance(module, P) with a runtime-checkable protocol P that names a parameter of a torch module is True, as
# hasattr(module, name) is.
# Seen: from Python 3.12 on (and with typing_extensions, which has the same here) it is False. The check looks names up
# without __getattr__, and a module keeps its parameters, buffers and submodules in dicts of its own behind __getattr__.
# The same code is True with Python 3.11's typing, so nothing fails until the interpreter is a newer one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 typing_extensions==4.16.0
cat > "$folder/protocol.py" <<'PYTHON'
import platform
import sys
import typing

import torch
import typing_extensions


@typing.runtime_checkable
class ByTyping(typing.Protocol):
    weight: torch.nn.Parameter


@typing_extensions.runtime_checkable
class ByExtensions(typing_extensions.Protocol):
    weight: torch.nn.Parameter


layer = torch.nn.Linear(2, 2)
print("python", platform.python_version(), "torch", torch.__version__)
print("hasattr:", hasattr(layer, "weight"))
print("isinstance, protocol of typing:           ", isinstance(layer, ByTyping))
print("isinstance, protocol of typing_extensions:", isinstance(layer, ByExtensions))
assert hasattr(layer, "weight")
assert not isinstance(layer, ByExtensions), "a parameter is seen now: this finding is out of date"
assert isinstance(layer, ByTyping) == (sys.version_info < (3, 12))
PYTHON
"$folder/venv/bin/python" "$folder/protocol.py"
