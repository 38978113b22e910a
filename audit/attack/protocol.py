"""How an audit was made, for whoever reads its figures."""

import resource
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from privatenet.audit.attack.findings import VERSION, Control, Findings, NetworkFindings, Protocol
from privatenet.audit.attack.samples import Folds, LabelledFaces, judged_rows
from privatenet.audit.settings import FRESH, AuditConfig
from privatenet.distributed.provenance import code_version
from privatenet.distributed.ranks import Ranks


def describe_protocol(
    config: AuditConfig, faces: LabelledFaces, folds: Folds, precision: str, ranks: Ranks, seconds: float
) -> Protocol:
    """How the figures of an audit that took so many `seconds` came about, on this machine."""
    split = next(iter(folds.values()))[0]
    kinds = ", ".join(folds)
    if fresh := folds.get(FRESH):
        fitting, tuning = len(fresh[0].fitting), len(fresh[0].tuning)
        kinds += f" ({len(fresh)} folds, of the first {fitting:,} samples fitted on and {tuning:,} tuned on)"
    return Protocol(
        faces=kinds,
        fitting=len(split.fitting),
        tuning=len(split.tuning),
        testing=len(judged_rows(faces)),
        seeds=config.seeds,
        confidence=config.confidence,
        resamples=config.resamples,
        components=config.components,
        precision=precision,
        device=_device(ranks),
        seconds=seconds,
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def new_findings(
    faces: LabelledFaces, protocol: Protocol, networks: Sequence[NetworkFindings], controls: Sequence[Control],
    config: dict[str, Any],
) -> Findings:  # fmt: skip
    """The findings of an audit that ends now, by this version of the package."""
    return Findings(
        version=VERSION,
        package=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=faces.schema.name,
        fingerprint=faces.fingerprint,
        protocol=protocol,
        networks=tuple(networks),
        controls=tuple(controls),
        config=config,
    )


def _device(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        return f"{ranks.world_size} x {torch.cuda.get_device_name(ranks.device)}"
    return (
        f"{ranks.world_size} CPU process{'es' if ranks.world_size > 1 else ''}, {torch.get_num_threads()} threads each"
    )
