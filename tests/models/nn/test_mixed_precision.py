"""Losses in bfloat16, with the types that CUDA's autocast gives to results, emulated on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

import models
from models.training import random_captions, random_images

# the lists of PyTorch's "Automatic Mixed Precision" page for CUDA; the CPU has other ones
LOWER = {"matmul", "mm", "bmm", "addmm", "baddbmm", "linear", "einsum", "conv1d", "conv2d", "prelu"}
LOWER |= {"__matmul__", "__rmatmul__"}
HIGHER = {"__pow__", "__rpow__", "__rtruediv__", "__rdiv__", "acos", "cdist", "cosine_similarity"}
HIGHER |= {"cross_entropy", "cumprod", "cumsum", "dist", "exp", "expm1", "layer_norm", "log"}
HIGHER |= {"log10", "log1p", "log2", "log_softmax", "mse_loss", "norm", "normalize", "pow", "prod"}
HIGHER |= {"reciprocal", "rsqrt", "softmax", "softplus", "sum"}
RECURRENT = {"gru", "lstm", "rnn_tanh"}
CASES = [
    ("sgm", {}),
    ("gsmn", {"text_graph": "dense", "blocks": 2}),
    ("gsmn", {"text_graph": "sparse", "blocks": 2}),
    ("racg", {"heads": 4, "position_dim": 8, "text_encoder": "gru"}),
    ("hrem", {"heads": 4, "text_encoder": "gru", "warm_up": 0}),
    ("cfsgr", {"part": "coarse"}),
    ("cfsgr", {"part": "fine_object"}),
    ("cfsgr", {"part": "fine_predicate"}),
    ("scan", {}),
    ("vse", {}),
]


class CudaTypes(TorchFunctionMode):
    """Cast the arguments of functions as autocast does on CUDA, where autocast is on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        to = None
        if torch.is_autocast_enabled("cpu") and not (kwargs and "out" in kwargs):
            to = torch.float32 if name in HIGHER else torch.bfloat16 if name in LOWER else None
            to = torch.float16 if name in RECURRENT else to  # as cuDNN, whatever was asked for
        if to is not None:
            args, kwargs = _cast(args, to), _cast(kwargs or {}, to)
        with torch.autocast("cpu", enabled=False):  # without the lists of the CPU
            return func(*args, **(kwargs or {}))


def _cast(value, to):
    if isinstance(value, torch.Tensor):
        return value.to(to) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _cast(item, to) for key, item in value.items()}
    return type(value)(_cast(item, to) for item in value) if type(value) in (list, tuple) else value


@pytest.mark.parametrize(("name", "options"), CASES)
def test_losses_and_scores_work_in_bfloat16(name, options):
    torch.manual_seed(0)
    sizes = {"image_dim": 24, "vocab_size": 60, "n_labels": 20, "n_predicates": 9}
    model = models.create(name, **sizes, embed_dim=16, word_dim=8, **options)
    images = random_images(6, objects=(2, 5), relations=(0, 4), dim=24, n_labels=20, n_predicates=9)
    captions = random_captions(
        6, words=(3, 9), triplets=(0, 3), vocab_size=60, n_tags=40, pieces=60
    )
    model.eval()  # no dropout
    exact = model.loss(images, captions)
    with torch.no_grad():
        codes = model.encode_images(images), model.encode_captions(captions)
        scores = model.score(*codes)
    with torch.autocast("cpu", dtype=torch.bfloat16), CudaTypes():
        half = model.loss(images, captions)
        # with gradients: scoring without them has code for CPUs only
        codes = model.encode_images(images), model.encode_captions(captions)
        rough = model.score(*codes).detach()
    assert abs(half.item() - exact.item()) <= 0.05 * abs(exact.item())
    assert (rough.float() - scores).abs().max() <= 0.2 * scores.std() + 0.02
    half.backward()
    for key, weight in model.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), key
