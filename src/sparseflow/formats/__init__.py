"""Files of other tools: sparse checkpoints that they left, and files that they read.

``checkpoint``: the tensors of a file or folder. ``bitmask``, ``hooks``: layouts of tools, functions of a state dict.
``read``: what was found, as a dense state with zeros and its masks. ``write``: files for other tools.
"""

from sparseflow.formats.read import READERS, Imported, imported, read
from sparseflow.formats.write import FORMATS, write

__all__ = ["FORMATS", "READERS", "Imported", "imported", "read", "write"]
