"""A trained network leaves: as files that other runtimes run, with what they cost, and what each variant still does.

OUT/open.onnx, trusted.onnx or network.onnx    and NAME-fp16.onnx, NAME-int8.onnx
OUT/open.pt2, ...                              the same in fp32 by torch.export, as PyTorch loads it
OUT/model.safetensors, config.json             what `privatenet.models.load` reads
OUT/export.json, README.md                     how to use them, and all figures
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.samples import judged_rows
from privatenet.audit.attack.utility import utility
from privatenet.audit.errors import AuditError
from privatenet.audit.export.parts import Chain, Latency, Sample, onlookers, part_file, write_parts, write_variant
from privatenet.audit.export.settings import ExportConfig
from privatenet.audit.foreign.audit import audit_features
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards import records
from privatenet.data_shards.files import writing
from privatenet.data_shards.reading.transforms import IMAGENET_MEAN, IMAGENET_STD, resize
from privatenet.data_shards.sources.schema import Schema
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.faces import Faces, Subset
from privatenet.distributed.provenance import code_version
from privatenet.distributed.stages.trained import load_network
from privatenet.models.arm import one_by_one
from privatenet.models.exported import Description, write_exported
from privatenet.models.network import Network
from privatenet.models.onnx_files import OPSET, versions
from privatenet.models.parts import NOISE, PICTURES, Cost, Normalisation, Part, cost, parts

REPORT = "export.json"
BATCHES = (1, 32)
"""Sizes of the batches whose latency is measured."""
FAST = ("logistic", "mlp1", "svm")
"""Attackers of a quick look at what a variant gives away; a whole audit is of the network itself."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportedPart:
    """A part's file: its bytes, what it takes and gives for one picture, what it costs, and how fast it is."""

    name: str
    bytes: int
    inputs: dict[str, tuple[int, ...]]
    output: dict[str, tuple[int, ...]]
    cost: Cost
    latency: tuple[Latency, ...]


@dataclass(frozen=True)
class ExportedLeak:
    """What the best of three quick attackers reads of what an onlooker gets, as accuracy."""

    tap: str
    attribute: str
    majority: float
    accuracy: Estimate


@dataclass(frozen=True)
class ExportedVariant:
    """The parts in one number format; `utility` over one draw of a channel's noise, and `agreement`: how often the
    likeliest class is that of fp32."""

    variant: str
    parts: tuple[ExportedPart, ...]
    utility: Estimate | None
    agreement: float
    leaks: tuple[ExportedLeak, ...]


@dataclass(frozen=True)
class Export:
    """export.json: which network, how it was cut, and each variant; `distance` from PyTorch is by part, of fp32."""

    version: Literal[1]
    package: str
    created: str
    checkpoint: str
    sha256: str
    deployment: str
    tap: str
    target: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    opset: int
    versions: dict[str, str]
    compared_on: int
    distance: dict[str, float]
    variants: Annotated[tuple[ExportedVariant, ...], Field(min_length=1)]


_JSON = TypeAdapter(Export)


def export(
    config: ExportConfig, source: Checkpoint, faces: Faces, folder: Path, progress: Progress = lambda what: None
) -> Export:
    """Write the network of `source` into `folder`, which is new, and measure it on `faces`, by this process alone.

    Raises `AuditError` or `ModelError` where it cannot be cut so, or a file is not what PyTorch computes.
    """
    if folder.exists() and any(folder.iterdir()):
        raise AuditError(f"out: {folder} is there and not empty, accepted: a new folder")
    if source.state["stage"] == "adversary":
        raise AuditError(f"{source.folder}: holds adversaries, accepted: a checkpoint of stage target or private")
    network = one_by_one(load_network(source)).eval()
    normalisation = _normalisation()
    cut = parts(network, config.deployment, normalisation, config.split)
    noise = network.tap_shapes["release"] if any(NOISE in part.inputs for part in cut) else None
    test = Sample.of(_pictures(faces, faces.testing(), network), noise)
    train = (
        Sample.of(_pictures(faces, faces.everything("train"), network), noise)
        if config.variants or config.leak
        else test
    )
    some = test.rows(slice(config.pictures))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    progress("fp32")
    distances = write_parts(cut, some, folder)
    target = Schema.from_dict(source.state["schema"]).attribute(source.state["schema"]["target"])
    write_exported(network, Description(asdict(network.spec), target.name, target.classes, normalisation), folder)
    variants: list[ExportedVariant] = []
    expected = np.empty(0)
    for variant in ("fp32", *config.variants):
        progress(variant)
        if variant != "fp32":
            write_variant(variant, cut, train.rows(slice(config.pictures)), folder)
        paths = [part_file(folder, part, variant) for part in cut]
        chain = Chain(cut, paths)
        results = chain.run(test)
        answers = results["logits"].argmax(axis=1)
        expected = answers if variant == "fp32" else expected
        leaks: tuple[ExportedLeak, ...] = ()
        if config.leak:
            progress(f"{variant}: attackers")
            leaks = _leaks(faces, onlookers(chain.run(train)), onlookers(results))
        latencies = [chain.latencies(some, batch) for batch in BATCHES]
        accuracy, _ = utility(results["logits"][:, None], faces, judged_rows(faces), AuditConfig.confidence)
        variants.append(
            ExportedVariant(
                variant,
                tuple(_describe(*each, latencies, some, results) for each in zip(cut, paths, strict=True)),
                accuracy if np.isfinite(accuracy.value) else None,
                float((answers == expected).mean()),
                leaks,
            )
        )
    exported = Export(
        version=1,
        package=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=str(source.folder),
        sha256=source.hash,
        deployment=config.deployment,
        tap=network.spec.channel.at if config.deployment == "split" else config.split,
        target=target.name,
        classes=target.classes,
        image_size=network.spec.image_size,
        mean=tuple(normalisation.mean),
        std=tuple(normalisation.std),
        opset=OPSET,
        versions=versions(),
        compared_on=len(some.pictures),
        distance=distances,
        variants=tuple(variants),
    )
    records.write(_JSON, exported, folder / REPORT)
    return exported


def _normalisation() -> Normalisation:
    return Normalisation([255 * value for value in IMAGENET_MEAN], [255 * value for value in IMAGENET_STD])


def _pictures(faces: Faces, subset: Subset, network: Network) -> Tensor:
    """Uint8 [N, 3, S, S] of the network's size, as whoever uses the files has to make them."""
    size = network.spec.image_size
    batches = [resize(batch.images, size) for batch in faces.batches(subset, 256)]
    return torch.cat(batches).cpu()


def _describe(
    part: Part, path: Path, latencies: Sequence[dict[str, Latency]], some: Sample, results: dict[str, np.ndarray]
) -> ExportedPart:
    shapes = {
        PICTURES: tuple(some.pictures.shape[1:]),
        **{name: tuple(values.shape[1:]) for name, values in results.items()},
    }
    noise = () if some.noise is None else tuple(some.noise.shape[1:])
    return ExportedPart(
        part.name,
        path.stat().st_size,
        {name: noise if name == NOISE else shapes[name] for name in part.inputs},
        {part.output: shapes[part.output]},
        cost(part, shapes[part.inputs[0]], noise),
        tuple(latency[part.name] for latency in latencies),
    )


def _leaks(faces: Faces, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> tuple[ExportedLeak, ...]:
    arrays: dict[str, np.ndarray] = {}
    for split, results, labelled in (("train", train, faces.train), ("test", test, faces.test)):
        arrays |= {f"{split}/{tap}": values for tap, values in results.items()}
        names = [faces.schema.target, *faces.schema.private]
        columns = {name: labelled.labels[:, faces.schema.names.index(name)] for name in names}
        arrays |= {f"{split}/labels/{name}": column for name, column in columns.items()}
        if labelled.persons is not None:
            arrays[f"{split}/persons"] = labelled.persons
    config = AuditConfig(attackers=list(FAST), seeds=1)
    findings = audit_features(arrays, faces.schema.target, config)
    return tuple(
        ExportedLeak(leak.tap, leak.attribute, leak.majority, leak.headline.accuracy) for leak in findings.audited.leaks
    )
