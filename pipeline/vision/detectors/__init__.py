"""Detectors that come with the package, one file each; importing this registers them all."""

from pipeline.vision.detectors import nanodet, onnx_model, precomputed, torch_models

__all__ = ["nanodet", "onnx_model", "precomputed", "torch_models"]
