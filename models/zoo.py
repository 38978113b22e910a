"""Image classifiers by name: torchvision's, and timm's as timm/NAME."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torchvision
from torch import nn

from privatenet.models.errors import ModelError, reason

TIMM = "timm/"
_NATIVE = 224
_WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True, "transform_input": True}
"""Of GoogLeNet and Inception: the classifier at the end only, and pictures scaled as published weights expect them."""


@dataclass(frozen=True)
class Classifier:
    """A network with new weights; `size` in pixels is of pictures that it takes, the only ones where that is `fixed`.

    `opaque` are functions of its library that tracing may not look into.
    """

    network: nn.Module
    size: int
    fixed: bool = False
    opaque: tuple[Callable[..., Any], ...] = ()


def check_name(name: str, weights: str = "none") -> None:
    """Raise `ModelError` unless there is a classifier called `name`, and such weights of it as are asked for."""
    name = str(name)  # a checkpoint that was meddled with may hold anything
    known = _timm(name).list_models() if name.startswith(TIMM) else _torchvision_names()
    if name.removeprefix(TIMM) not in known:
        close = get_close_matches(name.removeprefix(TIMM), known, n=3) or known[:3]
        prefix = TIMM if name.startswith(TIMM) else ""
        raise ModelError(
            f"backbone {name!r} is unknown; accepted: {', '.join(prefix + other for other in close)} and "
            f"{len(known) - len(close)} other classifiers of {'timm' if prefix else 'torchvision, or timm/NAME'}"
        )
    if name.startswith(TIMM) and weights == "imagenet":
        raise ModelError(f"weights 'imagenet' of {name}: accepted for timm's are none and the path of a local file")


def build_classifier(name: str, image_size: int) -> Classifier:
    """The classifier called `name`, for pictures of `image_size` where it takes those of one size only."""
    check_name(name)
    try:
        return _from_timm(name, image_size) if name.startswith(TIMM) else _from_torchvision(name, image_size)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(
            f"backbone {name!r} cannot be built for pictures of {image_size} px: {reason(error)}"
        ) from error


def _torchvision_names() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def _from_torchvision(name: str, image_size: int) -> Classifier:
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings = _WITHOUT_AUXILIARY
    if name.startswith("vit_"):
        settings = {"image_size": image_size}
    if name.startswith("maxvit_"):
        settings = {"input_size": (image_size, image_size)}
    fixed = name.startswith(("vit_", "maxvit_"))
    network = torchvision.models.get_model(name, weights=None, **settings)
    return Classifier(network, image_size if fixed else _NATIVE, fixed)


def _from_timm(name: str, image_size: int) -> Classifier:
    timm = _timm(name)
    ours = timm.models.get_pretrained_cfg(name.removeprefix(TIMM))
    fixed = ours is not None and ours.fixed_input_size
    network = timm.create_model(
        name.removeprefix(TIMM), pretrained=False, **({"img_size": image_size} if fixed else {})
    )
    size = image_size if fixed else ours.input_size[-1] if ours is not None else _NATIVE
    return Classifier(network, size, fixed, tuple(timm.models.get_notrace_functions()))


def _timm(name: str) -> ModuleType:
    try:
        import timm  # takes seconds
    except ImportError as error:
        raise ModelError(f"backbone {name!r} is timm's: pip install 'privatenet[timm]'") from error
    library: ModuleType = timm
    return library
