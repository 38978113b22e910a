"""What a person may set: one frozen dataclass per section; defaults < YAML file < `--section.key value`.

resolve.py reads and judges them.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.reading.transforms import AugmentConfig
from privatenet.data_shards.uri import Uri
from privatenet.models.arm import Affinity
from privatenet.models.channel import NO_CHANNEL, ChannelSpec
from privatenet.models.objectives.registry import TermSpec, parse_terms


@dataclass(frozen=True)
class ModelConfig:
    """The target network.

    Args:
        backbone: Any classifier of torchvision, such as resnet18, convnext_tiny, swin_t or vit_b_16; with the extra
            privatenet[timm] nearly any of timm, as timm/NAME. docs/backbones.md says which, and where their taps are.
        weights: Initial weights of the backbone: none, a local file, or for torchvision's imagenet (downloaded). Those
            of timm's networks have many licences, and are not fetched: name a file.
        image_size: Side of the pictures that the network sees, in pixels.
        head: arm (the amend module of Shi and Zhu, and a linear layer) or linear.
        affinity: What the amend module shares between pictures: the running mean (ema), the batch's mean as in the
            paper (batch; a picture's output then depends on its neighbours), or nothing (none).
    """

    backbone: str = "resnet18"
    weights: str = "imagenet"
    image_size: int = 224
    head: Literal["arm", "linear"] = "arm"
    affinity: Affinity = "ema"


@dataclass(frozen=True)
class EngineConfig:
    """How the ranks compute.

    Args:
        precision: bf16 and fp16 are autocast, with parameters and normalisation in fp32. auto is bf16 where the device
            is made for it, and fp32 elsewhere: a processor that is not is ten times slower in bf16.
        channels_last: Memory layout of pictures and feature maps; the fast one nearly everywhere.
        compile: Let torch.compile make kernels of a step: half a minute at the start of a stage, then steps that are a
            third faster on a GPU. Pays from some five thousand steps; processors gain nothing.
        accumulation: Micro-batches per optimisation step.
        clip: Largest norm of the gradient; 0 does not clip.
        zero_stage: What DeepSpeed's ZeRO spreads over the ranks: 0 nothing, 1 optimiser states, 2 gradients too.
        sync_statistics: Compute batch statistics over all ranks: the same result on any number of ranks, but slower.
        checkpoint_minutes: Minutes after which a checkpoint is written within an epoch, too; 0 only at its end.
        checkpoints: How many of the newest are kept; an older one serves where the newest cannot be read.
        keep_every: Of so many epochs one keeps its checkpoint for good, in the stage's folder `epochs`; 0 none.
        patience: How often training goes back to its newest checkpoint where the loss is no longer finite, and on from
            there without the batches at which it was not; their samples are listed in left-out.jsonl.
        spike: A loss further above the epoch's mean than so many times that mean is none that training goes on from,
            just as one that is not finite; 0 lets every finite loss pass.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    accumulation: int = 1
    clip: float = 0.0
    zero_stage: Literal[0, 1, 2] = 0
    sync_statistics: bool = False
    checkpoint_minutes: float = 10.0
    checkpoints: int = 1
    keep_every: int = 0
    patience: int = 3
    spike: float = 0.0


@dataclass(frozen=True)
class FitConfig:
    """How one stage is trained.

    Args:
        epochs: Passes over the training samples.
        batch_size: Samples of one optimisation step, over all ranks.
        optimizer: adam, adamw or sgd (momentum 0.9).
        lr: Learning rate, after warm-up.
        weight_decay: In Adam added to the gradient, in AdamW taken from the weights.
        schedule: cosine falls to zero, exponential multiplies by `decay` each epoch, constant stays.
        decay: Factor per epoch of the exponential schedule.
        warmup_epochs: Epochs, or a fraction of one, over which the learning rate grows from zero.
        patience: Epochs without a better validation figure after which training stops; 0 never stops early.
        ema: Decay per step of an exponential moving average of the weights, which is then what is evaluated and
            kept; 0 keeps the weights themselves.
    """

    epochs: int = 70
    batch_size: int = 256
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "exponential", "constant"] = "exponential"
    decay: float = 0.9
    warmup_epochs: float = 0.0
    patience: int = 0
    ema: float = 0.0


@dataclass(frozen=True)
class TargetFitConfig(FitConfig):
    """How a stage is trained that learns the target attribute.

    Args:
        class_weights: balanced weighs the target's classes by the inverse of their frequency.
        label_smoothing: Of the target's cross-entropy.
    """

    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class AttackConfig:
    """The adversaries: who tries to read what, and where.

    Args:
        pairs: tap-attribute pairs, such as backbone-gender, arm-age_group or image-gender (the picture itself). All are
            trained in one pass over the data, each by its own loss.
        network: Name of the stage, or checkpoint folder, whose features they read.
    """

    pairs: list[str] = field(default_factory=lambda: ["backbone-gender", "arm-gender"])
    network: str = "target"


@dataclass(frozen=True)
class ProtectConfig:
    """The private network: (1 - lambda) cross-entropy + lambda x sum of weight x loss over the terms (Eq. 8).

    Args:
        terms: What is hidden where, and how: [{at: backbone-gender, objective: confusion, weight: 1.0}, ...]. The
            objective (confusion, the paper, by default; best: what hid most in docs/results.md) and its own settings
            stand beside. confusion and adversarial: known: frozen (the paper), alternating, or {lr: 3e-3, steps: 3};
            confusion and maxent_ensemble: prior: uniform (1/K, the paper) or class (the classes' frequencies);
            maxent_ensemble: members, learning: {lr: 3e-3, steps: 3, restart_epochs: 2}; hsic, rff_ridge and
            distance_correlation: given: none or target (only what the attribute tells beyond it); rff_ridge: count,
            components, gamma, queue; mixture (at release-..., where the channel sends at most 16 numbers): queue;
            collapse has none. confusion and adversarial need the known adversary of their pair, distance_correlation
            that of the picture itself: stage adversary trains them.
        start: Name of the stage, or checkpoint folder, that the network starts from.
        adversaries: Name of the stage, or checkpoint folder, of the known adversaries.
        lambda_: Weight of the terms against the cross-entropy, from 0 to 1.
    """

    terms: list[dict[str, Any]] = field(default_factory=lambda: [{"at": "backbone-gender"}])
    start: str = "target"
    adversaries: str = "known"
    lambda_: float = 0.5

    @property
    def specs(self) -> list[TermSpec]:
        """The terms, with every setting."""
        return parse_terms(self.terms)

    @property
    def pairs(self) -> list[str]:
        """The tap-attribute pairs that a term protects, once each."""
        return list(dict.fromkeys(spec.pair.name for spec in self.specs))

    @property
    def known(self) -> list[str]:
        """The pairs whose known adversary a term is built with, once each."""
        return list(dict.fromkeys(spec.known.name for spec in self.specs if spec.known))


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are recorded.

    Args:
        uri: MLflow tracking server or store; empty is a SQLite file, mlflow.db, beside the stages' folders. A
            name and password in it are written to no file: resuming needs them again.
        experiment: MLflow experiment.
        model: Whether the finished network is logged as an MLflow model, with its signature.
        parent: Id of the MLflow run that this one is nested in, which is in the same store; empty is none.
        trial: Name of this run among its parent's, by which it is found again; empty is none.
    """

    uri: Uri = Uri("")
    experiment: str = "privatenet"
    model: bool = True
    parent: str = ""
    trial: str = ""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. `output` holds one folder per stage: target, known, private, unknown; `mirror`, if
    any, is the folder or URL where they are kept too."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    target: TargetFitConfig = TargetFitConfig()
    adversary: FitConfig = FitConfig()
    private: TargetFitConfig = TargetFitConfig()
    attack: AttackConfig = field(default_factory=AttackConfig)
    protect: ProtectConfig = field(default_factory=ProtectConfig)
    channel: ChannelSpec = NO_CHANNEL
    tracking: TrackingConfig = TrackingConfig()
    output: str = "runs/privatenet"
    mirror: Uri = Uri("")
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the keys that a person writes: YAML, MLflow and checkpoints hold this form.

        URIs are without credentials.
        """
        values = dataclasses.asdict(self, dict_factory=_plain)
        values["protect"]["lambda"] = values["protect"].pop("lambda_")
        values["protect"]["terms"] = [spec.to_dict() for spec in self.protect.specs]
        return values


def digest(values: Any) -> str:
    """SHA-256, in hexadecimal, of plain values in canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def to_yaml(config: Config) -> str:
    """The resolved configuration as a file that `--config` reads back."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Uri) else value for key, value in items}
