"""Optimiser, learning-rate schedule and averaged weights, as configured."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from features.errors import ConfigError
from models.configuration import OptimConfig, ScheduleConfig

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the trainable parameters, one group per ``lr_scale`` prefix.

    Raises: ConfigError: ``betas`` are not two numbers, or no parameter starts with a prefix.
    """
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ConfigError(
            f"optim.betas is {list(config.betas)}, but should be two numbers from 0 to below 1."
        )
    groups: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in ("", *config.lr_scale)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fits = [prefix for prefix in config.lr_scale if name.startswith(prefix)]
            groups[max(fits, key=len, default="")].append(parameter)
    for prefix, members in groups.items():
        if prefix and not members:
            names = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise ConfigError(
                f"optim.lr_scale: no parameter starts with {prefix!r}. "
                f"Parameters start with: {', '.join(names)}."
            )
    chosen = [
        {"params": members, "lr": config.lr, "scale": config.lr_scale.get(prefix, 1.0)}
        for prefix, members in groups.items()
        if members
    ]
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return without_compiler(kind)(
        chosen,
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
        fused=True,  # one pass over each weight and its averages instead of ten
    )


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """Return an optimiser class whose methods do not load the compiler of torch.

    Its own methods import ``torch._dynamo``, about two seconds, only to tell it to skip them.
    Nothing is compiled here.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})


def clip_gradients(model: nn.Module, largest: float) -> None:
    """Scale the gradients so that the norm of all together is at most ``largest``.

    On a CPU, gradients below it are not written again.
    """
    grads = [value.grad for value in model.parameters() if value.grad is not None]
    if not grads:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in grads]))
    if norm.is_cuda or not norm <= largest:  # on a GPU, reading the norm would block
        torch._foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0))


def rate_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Return the factor on the learning rate at one step.

    It depends on the step alone, so that a resumed run needs no state of the schedule.

    >>> step = ScheduleConfig(milestones=(2,), gamma=0.1, warmup_steps=4)
    >>> [rate_factor(step, at, 10, 40) for at in (0, 3, 4, 19, 20)]
    [0.25, 1.0, 1.0, 1.0, 0.1]

    Args:
        config: the schedule.   step: steps already taken.
        steps_per_epoch: converts milestones from epochs to steps.
        total_steps: end of the cosine.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.name == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
        return warm * float(config.gamma) ** passed
    if config.name == "cosine":
        left = max(1, total_steps - config.warmup_steps)
        share = min(1.0, max(0.0, (step - config.warmup_steps) / left))
        return warm * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * share)))
    return warm


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each parameter group: ``rate`` times the scale of the group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a model whose floating-point weights and buffers are a moving average.

    Update ``n`` of the average keeps ``min(decay, n / (n + 10))`` of it, so that the random initial
    weights are soon forgotten. Integer buffers are copied.
    """

    def update(averaged: Any, current: Any, _: Any) -> None:
        n = int(average.n_averaged)  # on the CPU: on a GPU, reading it would block
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, n / (n + 10)))
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    average.n_averaged.fill_(1)  # 0 would replace the initial weights at the first update
    return average


def load_average(average: AveragedModel, state: dict[str, Any]) -> None:
    """Restore ``state_dict()`` of an average, or the form in which earlier versions saved it."""
    if "average" in state:
        weights = {f"module.{name}": value for name, value in state["average"].items()}
        count = torch.tensor(int(state["steps"]) + 1)
        state = {**average.state_dict(), **weights, "n_averaged": count}
    average.load_state_dict(state)
