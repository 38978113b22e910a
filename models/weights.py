"""Initial weights of a backbone: ImageNet's from torchvision, or a local file; nothing is unpickled."""

import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from privatenet.models.errors import ModelError

CLASSIFIERS = ("fc.", "classifier.")
"""How names of a classifier's tensors begin, which no backbone has."""


def backbone_weights(
    name: str, expected: Mapping[str, Tensor], torchvision_names: Mapping[str, str], weights: str
) -> dict[str, Tensor]:
    """The state_dict of the backbone `name` from "imagenet" or from the local .safetensors, .pth or .pt file `weights`.

    `expected` is a state_dict of its shapes, `torchvision_names` maps its keys to torchvision's. A file holds either's
    names; it may be wrapped in {"state_dict": ...}, prefixed with "module.", and carry a classifier, which is ignored.
    Raises ModelError when weights are missing or do not fit.
    """
    state = _imagenet(name) if weights == "imagenet" else read_weights(Path(weights))
    keys = {theirs: key for key, theirs in torchvision_names.items()}
    renamed = {keys.get(key, key): tensor for key, tensor in state.items() if not key.startswith(CLASSIFIERS)}
    _check_fit(name, expected, renamed, weights)
    return renamed


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a local .safetensors, .pth or .pt file under their plain names: unwrapped, without "module.".

    Raises ModelError where it is no such file.
    """
    state = _read(path)
    plain = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    if others := [key for key, value in plain.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"weights {str(path)!r}: {_few(others)} hold no tensor; accepted: a state_dict")
    return plain


def _imagenet(name: str) -> dict[str, Any]:
    entry = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise ModelError(
            f"weights 'imagenet' of {name}: a download from {entry.url} was not possible ({error}). Put that file at "
            f"{cached}, or use `weights: none` or the path of a local .safetensors or .pth file"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"weights {str(path)!r}: no such file; accepted: none, imagenet, or the path of a local file")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ModelError(f"weights {str(path)!r}: {path.suffix!r} is not accepted; accepted: .safetensors, .pth, .pt")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(f"weights {str(path)!r}: not a weight file that can be read safely ({error})") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"weights {str(path)!r}: holds a {type(content).__name__}; accepted: a state_dict")
    return dict(content)


def _check_fit(name: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    # Files older than BatchNorm's step counter, torchvision's ResNets among them, lack it; torch then keeps zero.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(tensor.shape)} for {tuple(expected[key].shape)}"
        for key, tensor in state.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if faults := [f"{kind}: {_few(keys)}" for kind, keys in kinds.items() if keys]:
        raise ModelError(f"weights {source!r} do not fit backbone {name!r}; {'; '.join(faults)}")


def _few(names: list[str]) -> str:
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
