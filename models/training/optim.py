"""Optimisers, learning-rate schedules and averaged weights, from their configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from features.errors import ConfigError
from models.configuration.config import OptimConfig, ScheduleConfig

__all__ = ["WeightAverage", "make_optimizer", "rate_factor", "set_rate"]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the trainable parameters, one group per ``lr_scale`` prefix.

    Raises: ConfigError: ``betas`` are not two numbers, or a prefix names no parameter.
    """
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ConfigError(
            f"optim.betas is {list(config.betas)}, but should be two numbers in [0, 1)."
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
                f"optim.lr_scale names {prefix!r}, which is the beginning of no parameter; "
                f"they begin with: {', '.join(names)}."
            )
    chosen = [
        {"params": members, "lr": config.lr, "scale": config.lr_scale.get(prefix, 1.0)}
        for prefix, members in groups.items()
        if members
    ]
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        chosen,
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
    )


def rate_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Return what the learning rate of one step is multiplied with.

    A pure function of the step, so that a resumed run needs no schedule state.

    >>> step = ScheduleConfig(milestones=(2,), gamma=0.1, warmup_steps=4)
    >>> [rate_factor(step, at, 10, 40) for at in (0, 3, 4, 19, 20)]
    [0.25, 1.0, 1.0, 1.0, 0.1]

    Args:
        config: the schedule.   step: steps already taken.
        steps_per_epoch: turns milestones, which are epochs, into steps.
        total_steps: where the cosine ends.
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
    """Give every parameter group its learning rate: ``rate`` times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class WeightAverage:
    """Exponential moving average of the weights, for evaluation.

    Args:
        model: the model whose floating-point state is averaged.
        decay: share of the average that stays at each step; the first steps use less, so that
            the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average = {name: value.detach().clone() for name, value in _floats(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for name, value in _floats(model):
            self.average[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged weights into the model for the time of a ``with`` block."""
        kept = {name: value.detach().clone() for name, value in _floats(model)}
        self._copy(model, self.average)
        try:
            yield
        finally:
            self._copy(model, kept)

    @torch.no_grad()
    def _copy(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        for name, value in _floats(model):
            value.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.steps = int(state["steps"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])


def _floats(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the floating-point entries of the state dict, parameters and buffers."""
    for name, value in model.state_dict(keep_vars=True).items():
        if value.is_floating_point():
            yield name, value
