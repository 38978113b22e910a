"""The target network: backbone and head, giving logits and every tap an adversary may see."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor, nn

from privatenet.models.arm import Affinity, ArmHead
from privatenet.models.backbones import Backbone, build_backbone
from privatenet.models.channel import CENTRE, NO_CHANNEL, RELEASE, ChannelSpec, build_channel
from privatenet.models.errors import ModelError
from privatenet.models.zoo import check_name

Head = Literal["arm", "linear"]


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is made of, recorded in checkpoints; `image_size` is in pixels, pictures are square.

    Raises ModelError for a value that no network can have.
    """

    backbone: str = "resnet18"
    num_classes: int = 7
    image_size: int = 224
    head: Head = "arm"
    affinity: Affinity = "ema"
    channel: ChannelSpec = NO_CHANNEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel", ChannelSpec.of(self.channel))
        check_name(self.backbone)
        accepted = {"head": get_args(Head), "affinity": get_args(Affinity)}
        for field, values in accepted.items():
            if getattr(self, field) not in values:
                raise ModelError(f"{field} {getattr(self, field)!r} is unknown; accepted: {', '.join(values)}")
        for field, least in {"num_classes": 2, "image_size": 32}.items():
            if getattr(self, field) < least:
                raise ModelError(f"{field} {getattr(self, field)} is too small; accepted: {least} and up")

        if self.channel.sends and self.channel.at not in (sites := (*self._features, "logits")):
            raise ModelError(f"channel.at {self.channel.at!r} is unknown; accepted: {', '.join(sites)}")

    @property
    def taps(self) -> tuple[str, ...]:
        return (*self._features, CENTRE, RELEASE) if self.channel.sends else self._features

    @property
    def _features(self) -> tuple[str, ...]:
        return (*Backbone.taps, "arm") if self.head == "arm" else Backbone.taps


def build_network(spec: NetworkSpec, weights: str = "none") -> "Network":
    """The network of `spec`; `weights` initialise its backbone, see `build_backbone`."""
    return Network(spec, build_backbone(spec.backbone, weights, spec.image_size))


class Network(nn.Module):
    """Pictures [B, 3, S, S] to logits [B, K] and all taps, by name; `tap_shapes` are those of one picture.

    Where there is a channel, everything after its tap is computed from what it sends, in evaluation too.
    """

    def __init__(self, spec: NetworkSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.taps = spec.taps
        self.tap_shapes = backbone.shapes(spec.image_size)
        channels, height, width = self.tap_shapes["backbone"]
        if spec.head == "arm":
            self.head: ArmHead | LinearHead = ArmHead(channels, (height, width), spec.num_classes, spec.affinity)
            self.tap_shapes["arm"] = (self.head.num_features,)
        else:
            self.head = LinearHead(channels, spec.num_classes)
        if spec.channel.sends:
            shape = {**self.tap_shapes, "logits": (spec.num_classes,)}[spec.channel.at]
            self.channel = build_channel(spec.channel, shape)
            self.tap_shapes |= dict.fromkeys((CENTRE, RELEASE), self.channel.sent_shape)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        taps: dict[str, Tensor] = {}

        def send(tap: str, features: Tensor) -> Tensor:
            """What comes after `tap` gets."""
            if tap != "logits":
                taps[tap] = features
            if self.spec.channel.sends and self.spec.channel.at == tap:
                taps[CENTRE] = self.channel.bound(features)
                taps[RELEASE] = self.channel(taps[CENTRE])
                features = self.channel.decode(taps[RELEASE])
            return features

        features = self.backbone(images, send)
        if isinstance(self.head, ArmHead):
            features = send("arm", self.head.amend(features))
            logits = self.head.linear(features)
        else:
            logits = self.head(features)
        return send("logits", logits), taps

    def answer(self, release: Tensor) -> Tensor:
        """Logits [B, K] from what the channel sends: what is computed in the open."""
        at, taps = self.spec.channel.at, Backbone.taps
        features = self.channel.decode(release)
        for tap in taps[taps.index(at) + 1 :] if at in taps else ():
            features = self.backbone.get_submodule(Backbone.stages[tap])(features)
        if at == "logits":
            return features
        if isinstance(self.head, ArmHead) and at != "arm":
            features = self.head.amend(features)
        logits: Tensor = (self.head.linear if isinstance(self.head, ArmHead) else self.head)(features)
        return logits


def with_channel(network: Network, channel: ChannelSpec) -> Network:
    """`network`, its backbone and head, with a new `channel`, or its own where that is the same and erases nothing.

    Raises ModelError for an unknown tap.
    """
    if network.spec.channel == channel and not channel.erase:
        return network
    sending = Network(replace(network.spec, channel=channel), network.backbone)
    sending.head = network.head
    return sending


class LinearHead(nn.Module):
    """A feature map [B, C, h, w] to logits [B, K]: its mean over all positions, then a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def check_tap(network: NetworkSpec | Network, tap: str) -> None:
    """Raises ModelError unless an adversary can look at `tap` of this network: one of its taps, or the picture."""
    accepted = ("image", *network.taps)
    if tap not in accepted:
        raise ModelError(f"tap {tap!r} is unknown; accepted: {', '.join(accepted)}")
