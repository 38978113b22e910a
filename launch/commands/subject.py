"""What an audit or a certificate is about, as a person names it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from privatenet.audit.attack.findings import Findings
from privatenet.audit.foreign.settings import ForeignConfig
from privatenet.audit.settings import AuditConfig
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.uri import Uri
from privatenet.distributed import agree, checkpoint
from privatenet.distributed.checkpoint import Checkpoint
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """What is audited: the folder of its report, settings with all names, pictures if there are any, and the audit."""

    folder: Path
    config: AuditConfig
    faces: Faces | None
    audit: Callable[[Progress], Findings]


def choose_subject(values: Mapping[str, Any], config: AuditConfig, ranks: Ranks) -> Subject:
    """The network of the checkpoint, or another one, or the features that `values` name; all ranks call it together."""
    if not values["checkpoint"]:
        return _foreign(values, config, ranks)
    # Attackers take seconds to import: not before the settings are known to be good.
    from privatenet.audit.attack.audit import audit
    from privatenet.audit.attack.checks import check_config

    source = agree.first(ranks, lambda: load_source(Path(values["checkpoint"])))
    folder = Path(values["output"] or source.folder.parent.parent / f"audit-{source.folder.parent.name}")
    faces = Faces(agree.each(ranks, lambda: data_config(source, values["shards"])), ranks)
    engine = EngineConfig(**source.state["config"]["engine"])
    checked = check_config(config, source, faces)
    return Subject(folder, checked, faces, partial(audit, config, source, faces, engine, ranks))


def _foreign(values: Mapping[str, Any], config: AuditConfig, ranks: Ranks) -> Subject:
    from privatenet.audit.attack.checks import check_settings
    from privatenet.audit.foreign.arrays import read_arrays
    from privatenet.audit.foreign.audit import audit_arrays, audit_network
    from privatenet.audit.foreign.extractors import extractors

    foreign = ForeignConfig.of(values)
    folder = Path(values["output"] or f"audit-{foreign.name}")
    root = Path(config.cache or folder)
    if foreign.features:
        path = Path(foreign.features)
        arrays = agree.each(ranks, lambda: read_arrays(path, foreign.target, ranks))
        checked = check_settings(config, arrays.schema)
        return Subject(folder, checked, None, partial(audit_arrays, arrays, str(path), config, ranks, root))
    faces = Faces(DataConfig(shards=values["shards"], validation=0.0), ranks)
    checked = check_settings(config, faces.schema)
    networks = agree.each(ranks, lambda: extractors(foreign, checked, faces, ranks))
    settings = foreign.to_dict()
    return Subject(
        folder, checked, faces,
        lambda progress: audit_network(networks, foreign.network, checked, faces, ranks, root, progress, settings),
    )  # fmt: skip


def load_source(folder: Path) -> Checkpoint:
    """The checkpoint of a stage's folder, or of any folder that holds one."""
    return checkpoint.load(folder / "final" if (folder / "final").is_dir() else folder)


def data_config(source: Checkpoint, shards: Uri) -> DataConfig:
    """The data set that the network was trained on: at `shards`, or else where it was then."""
    data = DataConfig(**source.state["config"]["data"])
    if not shards and "://" not in data.shards and not Path(data.shards).is_dir():
        raise ConfigError(
            f"{source.folder} was trained on {data.shards}, and from {Path.cwd()} there is no such folder; "
            "say where the data set is by --shards DIR"
        )
    return replace(data, shards=shards or data.shards, cache=data.cache if Path(data.cache).is_dir() else "")
