"""What is computed from finished runs: spectra, paths, distances, similarity, masks; each takes runs, gives tables."""

from sparseflow.lab.measures.functions import functions
from sparseflow.lab.measures.landscape import distances, embedding, path
from sparseflow.lab.measures.masks import masks, signal
from sparseflow.lab.measures.source import Measure
from sparseflow.lab.measures.spectra import spectrum

#: Name of a kind of measurement -> what computes it.
MEASURES: dict[str, Measure] = {
    "signal": signal,
    "masks": masks,
    "spectrum": spectrum,
    "path": path,
    "distances": distances,
    "embedding": embedding,
    "functions": functions,
}

__all__ = ["MEASURES", "Measure"]
