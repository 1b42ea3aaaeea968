"""Measurements of finished runs: spectra, paths, distances, similarity, masks; functions from runs to tables."""

from sparseflow.paper.measures.functions import functions
from sparseflow.paper.measures.landscape import distances, embedding, path
from sparseflow.paper.measures.masks import masks, signal
from sparseflow.paper.measures.source import Measure
from sparseflow.paper.measures.spectra import spectrum

#: Kind of measurement -> the function that computes it.
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
