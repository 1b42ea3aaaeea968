"""Sparse models on disk: the engine's own file, packed masks, ONNX."""
