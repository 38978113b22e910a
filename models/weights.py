"""Initial weights of a backbone: ImageNet's from torchvision, or a local file; nothing is unpickled."""

import hashlib
import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from privatenet.models.errors import ModelError
from privatenet.models.layouts import from_map, side_of, to_map
from privatenet.models.zoo import check_name

HEADS = ("fc.", "classifier.", "aux1.", "aux2.", "AuxLogits.")
"""What of a published file no backbone has, beside what it leaves out of its own classifier."""


def backbone_weights(
    name: str, expected: Mapping[str, Tensor], published_names: Mapping[str, str | None], weights: str
) -> dict[str, Tensor]:
    """The state_dict of the backbone `name` from "imagenet" or from the local .safetensors, .pth or .pt file `weights`.

    `expected` is a state_dict of its shapes, `published_names` maps the library's keys to its own, or to None where the
    backbone has no such part. A file holds either's names; it may be wrapped in {"state_dict": ...}, prefixed with
    "module.", and carry a classifier, which is ignored. The positions of a ViT's tokens are resized.
    Raises ModelError when weights are missing or do not fit.
    """
    state = _plain(_imagenet(name) if weights == "imagenet" else _read(Path(weights)))
    if not expected.keys() <= state.keys():
        names = {key: published_names.get(key, None if key.startswith(HEADS) else key) for key in state}
        state = {ours: state[theirs] for theirs, ours in names.items() if ours}
    if others := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"weights {weights!r}: {_few(others)} hold no tensor; accepted: a state_dict")
    state = {
        key: _resized(tensor, expected[key]) if _positions(key, expected) else tensor for key, tensor in state.items()
    }
    _check_fit(name, expected, state, weights)
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a local .safetensors, .pth or .pt file under their plain names: unwrapped, without "module.".

    Raises ModelError where it is no such file.
    """
    state = _plain(_read(path))
    if others := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(f"weights {str(path)!r}: {_few(others)} hold no tensor; accepted: a state_dict")
    return state


def tensors_sha256(module: nn.Module, prefix: str = "") -> str:
    """SHA-256 of `prefix` and of all parameters and buffers of a module, by name."""
    content = hashlib.sha256(prefix.encode())
    for name, tensor in module.state_dict().items():
        content.update(name.encode())
        content.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _imagenet(name: str) -> dict[str, Any]:
    check_name(name, "imagenet")
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


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Unwrapped, without "module."."""
    return {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}


def _positions(key: str, expected: Mapping[str, Tensor]) -> bool:
    """Whether `key` is what a ViT adds to its tokens [1, N, D]."""
    return key in expected and key.endswith(("pos_embedding", "pos_embed")) and expected[key].dim() == 3


def _resized(positions: Tensor, expected: Tensor) -> Tensor:
    """`positions` [1, N, D] for another number of tokens."""
    if positions.shape[::2] != expected.shape[::2] or positions.shape == expected.shape:
        return positions
    channels = expected.shape[2]
    placed, placeless = to_map(positions, "tokens").tensor_split([channels], dim=1)
    side = side_of(expected.shape[1:], "tokens")
    resized = F.interpolate(placed, (side, side), mode="bicubic", align_corners=True)
    everywhere = placeless[:, :, :1, :1].expand(-1, -1, side, side)
    return from_map(torch.cat([resized, everywhere], dim=1), "tokens", channels)


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
