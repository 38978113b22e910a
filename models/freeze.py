"""Freezing: a module whose parameters and statistics no longer move."""

from types import MethodType
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """`module` itself, without gradients and in evaluation mode, where it stays when a parent calls `.train()`.

    Each submodule's `train` is replaced on the instance, the one place that every switch of mode passes through: the
    module keeps its type and its state_dict's keys, and can still be moved, copied and saved.
    """
    module.requires_grad_(False).eval()
    for each in module.modules():
        each.__dict__["train"] = MethodType(_stay, each)
    return module


def is_frozen(module: nn.Module) -> bool:
    """Whether `freeze` was called on `module` or on what holds it."""
    return "train" in module.__dict__


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
