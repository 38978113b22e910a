"""A trained network in two parts, one on a trusted device and one in the open, or whole.

    enclave   open: pictures to the features at a tap; trusted: those to logits, where nobody can look
    split     trusted: pictures to what the channel sends; open: that to logits, where everybody can look
    whole     network: pictures to logits

Pictures are uint8 [B, 3, S, S], RGB, of the network's own size; they are normalised inside. Where a channel adds noise,
whoever runs it hands in standard Gaussian numbers [B, ...], each time others, from a generator that nobody can follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from privatenet.models.arm import ArmHead
from privatenet.models.backbones import Backbone
from privatenet.models.channel import Channel, Codebook
from privatenet.models.errors import ModelError
from privatenet.models.network import Network

Deployment = Literal["enclave", "split", "whole"]
PICTURES, NOISE, FEATURES, RELEASE, LOGITS = "pictures", "noise", "features", "release", "logits"


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from pixels of 0 to 255, and what they are divided by then, of each channel."""

    mean: Sequence[float]
    std: Sequence[float]


class Part(nn.Module):
    """Some of a network's steps in a row; `name` is trusted, open or network, and says where it runs.

    Takes `inputs`, the first of which goes through all steps; gives `output`.
    """

    def __init__(self, name: str, steps: Sequence[nn.Module], given: str, output: str) -> None:
        super().__init__()
        self.name, self.output = name, output
        self.steps = nn.ModuleList(steps)
        noisy = any(isinstance(step, _Send) and step.noisy for step in steps)
        self.inputs = (given, NOISE) if noisy else (given,)

    def forward(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        for step in self.steps:
            values = step(values, noise) if isinstance(step, _Send) else step(values)
        return values


def parts(network: Network, deployment: Deployment, normalisation: Normalisation, tap: str = "") -> list[Part]:
    """The parts in the order in which a picture passes them; their modules are the network's own.

    `tap` is where an enclave's network is cut. Raises ModelError where the network cannot be used in that way.
    """
    steps = _steps(network, normalisation)
    if deployment not in get_args(Deployment):
        raise ModelError(f"deployment {deployment!r} is unknown; accepted: {', '.join(get_args(Deployment))}")
    if deployment == "whole":
        return [Part("network", [step for _, step in steps], PICTURES, LOGITS)]
    if deployment == "split" and not network.spec.channel.sends:
        raise ModelError("a network without a channel has nothing to send; accepted of it: enclave, whole")
    names = [name for name, _ in steps]
    site = RELEASE if deployment == "split" else tap
    accepted = [name for name in names[:-1] if name and (deployment == "split" or name != RELEASE)]
    if site not in accepted:
        raise ModelError(f"the network cannot be cut at {site!r}; accepted: {', '.join(accepted)}")
    place, between = names.index(site) + 1, RELEASE if deployment == "split" else FEATURES
    first, second = ("trusted", "open") if deployment == "split" else ("open", "trusted")
    before, after = ([step for _, step in some] for some in (steps[:place], steps[place:]))
    return [Part(first, before, PICTURES, between), Part(second, after, between, LOGITS)]


@dataclass(frozen=True)
class Cost:
    """What a part needs: `parameters` and `numbers` it keeps (with statistics), the most `activations` that it holds
    at once for one picture (what the largest step takes and gives), and multiplications for one picture."""

    parameters: int
    numbers: int
    activations: int
    multiplications: int

    def bytes(self, per_number: int) -> int:
        """Memory for one picture, where a number takes so many bytes: 4 in single precision, 1 in int8."""
        return per_number * (self.numbers + self.activations)


def cost(part: Part, shape: Sequence[int], noise: Sequence[int] = ()) -> Cost:
    """The cost of `part` for one input of `shape`, without the batch's dimension; nothing of it is kept."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(sum(value.numel() for value in (*inputs[:1], output) if isinstance(value, Tensor)))

    leaves = [module for module in part.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    device = next((tensor.device for tensor in part.state_dict().values()), torch.device("cpu"))
    dtype = torch.uint8 if part.inputs[0] == PICTURES else torch.float32
    inputs = [torch.zeros(1, *shape, dtype=dtype, device=device)]
    inputs += [torch.zeros(1, *noise, device=device)] if NOISE in part.inputs else []
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            part(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    numbers = sum(tensor.numel() for tensor in part.state_dict().values())
    parameters = sum(parameter.numel() for parameter in part.parameters())
    return Cost(parameters, numbers, max(sizes, default=0), counter.get_total_flops() // 2)


def _steps(network: Network, normalisation: Normalisation) -> list[tuple[str, nn.Module]]:
    """All steps of a network by what they give: a tap, what is sent, logits; or nothing that has a name."""
    channel, backbone = network.spec.channel, network.backbone
    steps: list[tuple[str, nn.Module]] = [("", Normalise(normalisation)), ("", backbone.stem)]
    steps += [(tap, backbone.get_submodule(stage)) for tap, stage in Backbone.stages.items()]
    if isinstance(network.head, ArmHead):
        steps += [("arm", _Amend(network.head)), (LOGITS, network.head.linear)]
    else:
        steps += [(LOGITS, network.head)]
    if channel.sends:
        place = [name for name, _ in steps].index(channel.at) + 1
        steps[place:place] = [(RELEASE, _Send(network.channel)), ("", _Decode(network.channel))]
    return steps


class Normalise(nn.Module):
    """Pictures [B, 3, H, W] of 0 to 255 to what a network takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        for name, values in vars(normalisation).items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures.float() - self.mean) / self.std


class _Amend(nn.Module):
    """The head as far as the tap `arm`."""

    def __init__(self, head: ArmHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return self.head.amend(features)


class _Send(nn.Module):
    """What a channel sends of features; its noise comes from outside."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self.noisy = channel.spec.kind == "noise"

    def forward(self, features: Tensor, noise: Tensor | None) -> Tensor:
        bounded, channel = self.channel.bound(features), self.channel
        if self.noisy:
            assert noise is not None
            return bounded + channel.spec.sigma * noise
        if isinstance(channel, Codebook):  # as it does, without an operator that exporters do not know
            scores = channel.codes.square().sum(dim=1) / 2 - bounded.flatten(1) @ channel.codes.T
            return channel.codes[scores.argmin(dim=1)].view_as(bounded)
        sent: Tensor = channel(bounded)
        return sent


class _Decode(nn.Module):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, release: Tensor) -> Tensor:
        return self.channel.decode(release)
