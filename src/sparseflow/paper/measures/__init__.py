"""What is computed from finished runs: spectra, paths, distances, similarity, masks; each takes runs, gives tables."""

from sparseflow.paper.measures.functions import functions
from sparseflow.paper.measures.landscape import distances, embedding, path
from sparseflow.paper.measures.masks import masks, signal
from sparseflow.paper.measures.source import Measure
from sparseflow.paper.measures.spectra import spectrum

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
