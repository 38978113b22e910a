"""What a person names to have audited that was not trained here."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privatenet.audit.foreign.preprocessing import Preprocessing


@dataclass(frozen=True)
class ForeignConfig:
    """A network that was not trained here, or features that were made elsewhere, in place of a checkpoint.

    Args:
        network: Import path of a torch network, or of what makes one, such as mypkg.faces:build; or a file .onnx. Its
            taps are names of modules, or of what nodes give out.
        arguments: What makes the network is called with these.
        weights: File .safetensors, .pth or .pt of the network's weights; empty: as it is made.
        preprocessing: How pictures become what the network takes: a YAML file, or its keys.
        features: File .npz of arrays train/TAP, test/TAP, train/labels/ATTRIBUTE, test/labels/ATTRIBUTE and, where they
            are known, train/persons, test/persons.
        target: Of features: the attribute that their network is for, and which is not private.
    """

    network: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    features: str = ""
    target: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ForeignConfig":
        """That among a command's settings. Raises `AuditError` for preprocessing that cannot be."""
        chosen = {each.name: values[each.name] for each in dataclasses.fields(cls)}
        keys = {each.name for each in dataclasses.fields(Preprocessing)}  # and not the file that they are from
        preprocessing = {key: value for key, value in values["preprocessing"].items() if key in keys}
        return cls(**{**chosen, "preprocessing": Preprocessing(**preprocessing)})

    @property
    def name(self) -> str:
        """What to call it in the name of a folder."""
        last = (self.network or self.features).replace(":", "/").rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9_-]+", "-", last.removesuffix(".onnx").removesuffix(".npz")) or "features"

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)
