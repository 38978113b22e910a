"""Any torch network by its import path: `mypkg.faces:build`. Its own code runs, as whoever names it asks for."""

import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from privatenet.audit.attack.features import Key, PictureNoise
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.preprocessing import Preprocessing
from privatenet.audit.foreign.taps import OUTPUT, in_form, named_output
from privatenet.data_shards.files import file_sha256
from privatenet.distributed.config import digest
from privatenet.distributed.ranks import Ranks
from privatenet.models.channel import NO_CHANNEL
from privatenet.models.weights import read_weights, tensors_sha256


def build_module(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that `path`, "package.module:name", names: a module, or what a function or class makes of
    `arguments`. The current folder is looked in, too. Raises `AuditError` where there is none."""
    package, _, name = path.partition(":")
    if not name:
        raise AuditError(f"network {path!r}: accepted are a path such as mypkg.faces:build, or a file .onnx")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        made: Any = importlib.import_module(package)
        for part in name.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as error:
        raise AuditError(f"network {path!r}: cannot be imported ({error})") from error
    if not isinstance(made, nn.Module):
        try:
            made = made(**arguments)
        except TypeError as error:
            raise AuditError(
                f"network {path!r}: cannot be made of the arguments {dict(arguments)} ({error})"
            ) from error
    if not isinstance(made, nn.Module):
        raise AuditError(
            f"network {path!r}: is a {type(made).__name__}; accepted: a torch.nn.Module, or what makes one"
        )
    return made


def load_module(path: str, arguments: Mapping[str, Any], weights: str) -> tuple[nn.Module, str]:
    """`build_module` with the weights of a local .safetensors, .pth or .pt file, if one is given; and what tells this
    network from others. Raises `AuditError` where they do not fit, and `ModelError` where they cannot be read."""
    torch.manual_seed(0)
    module = build_module(path, arguments)
    if not weights:
        return module, digest([path, dict(arguments), tensors_sha256(module)])
    try:
        module.load_state_dict(read_weights(Path(weights)))
    except RuntimeError as error:
        raise AuditError(
            f"weights {weights}: are not those of {path} ({' '.join(str(error).split())[:300]})"
        ) from error
    return module, digest([path, dict(arguments), file_sha256(Path(weights))])


class ModuleExtractor:
    """Features of a module at its submodules, by their names, as torch hooks give them, and at its output.

    The output is `LOGITS` where it has a number for each of `num_classes`, and else another tap. A tap's features are
    of what its submodule gives last, where that is called several times.
    """

    channel = NO_CHANNEL

    def __init__(
        self, module: nn.Module, sha256: str, fingerprint: str, taps: Sequence[str], num_classes: int,
        preprocessing: Preprocessing, image_size: tuple[int, int], ranks: Ranks,
    ) -> None:  # fmt: skip
        """`image_size` is (height, width) of pictures as they are stored. Raises `AuditError` for an unknown tap."""
        self.module, self.preprocessing = module.to(ranks.device).eval(), preprocessing
        self.submodules = {tap: _submodule(module, tap) for tap in taps}
        self.output = OUTPUT
        how = digest([sha256, vars(preprocessing)])
        self.key = Key(how, fingerprint, "fp32", preprocessing.size)
        with torch.inference_mode():
            features = self._run(torch.zeros(2, 3, *image_size, dtype=torch.uint8, device=ranks.device))
        self.output, self.shapes = named_output(features, num_classes)

    def compute(self, images: Tensor, taps: Collection[str], noise: PictureNoise) -> Mapping[str, Tensor]:
        return self._run(images)

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for tap, submodule in self.submodules.items():

                def note(module: nn.Module, inputs: object, output: object, tap: str = tap) -> None:
                    features[tap] = in_form(first_tensor(tap, output))

                hooks.callback(submodule.register_forward_hook(note).remove)
            features[self.output] = in_form(first_tensor(OUTPUT, self.module(self.preprocessing.apply(images))))
        if silent := [tap for tap in self.submodules if tap not in features]:
            raise AuditError(f"taps: {', '.join(silent)} took no part in what the network computed")
        return features


def first_tensor(tap: str, output: object) -> Tensor:
    """The tensor of a module's output: itself, a model output's logits or hidden state, or the first of several."""
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "last_hidden_state") if key in output), tuple(output.values()))
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise AuditError(
            f"taps: {tap} gives a {type(output).__name__}; accepted: a tensor, or some of which it is first"
        )
    return output


def _submodule(module: nn.Module, tap: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if tap not in modules or not tap:
        near = get_close_matches(tap, modules, n=5, cutoff=0.3) or list(modules)[1:6]
        raise AuditError(f"taps: the network has no module {tap!r}; names of its modules are {', '.join(near)}, ...")
    return modules[tap]
