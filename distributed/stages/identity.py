"""What decides a stage's result; where the data lie, how they are read and where runs are recorded does not."""

from typing import Any

from privatenet.distributed.config import Config
from privatenet.distributed.faces import Faces

IRRELEVANT = {
    "engine": ("zero_stage", "checkpoint_minutes", "checkpoints", "patience"),
    "protect": ("start", "adversaries"),
}
"""Keys that do not change what comes out; the networks that a stage starts from count by their hashes."""

LATER: dict[str, tuple[tuple[str, Any], ...]] = {
    "channel": (("numbers", 0), ("step", 1.0), ("erase", [])),
    "engine": (("compile", False),),
}
"""Keys that did not always exist, with what was done before: left out then, so that finished stages are found again."""


def identity(config: Config, faces: Faces, stage: str, **parents: Any) -> dict[str, Any]:
    """All that decides the result of `stage`, as JSON; `parents` are the hashes of the stages that it stands on."""
    values = config.to_dict()
    sections = ["augment", "model", "engine", stage, *(["protect", "channel"] if stage == "private" else [])]
    relevant = {
        name: {
            key: value
            for key, value in values[name].items()
            if key not in IRRELEVANT.get(name, ()) and (key, value) not in LATER.get(name, ())
        }
        for name in sections
    }
    data = {key: values["data"][key] for key in ("validation", "window")}
    return {
        "stage": stage,
        "fingerprint": faces.fingerprint,
        "seed": config.seed,
        "data": data,
        **relevant,
        **parents,
    }
