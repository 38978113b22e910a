"""From what a person names to what gives features."""

from pathlib import Path

from privatenet.audit.attack.extract import Extractor
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.module import ModuleExtractor, load_module
from privatenet.audit.foreign.onnx import OnnxExtractor
from privatenet.audit.foreign.settings import ForeignConfig
from privatenet.audit.settings import AuditConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import Ranks


def extractors(foreign: ForeignConfig, config: AuditConfig, faces: Faces, ranks: Ranks) -> dict[str, Extractor]:
    """By role the network that is audited and, of a torch network with weights of its own, one that was never trained.

    Raises `AuditError` or `ModelError` where it cannot be had, or has no such tap.
    """
    classes = len(faces.schema.attribute(faces.schema.target).classes)
    if foreign.network.endswith(".onnx"):
        if foreign.weights or foreign.arguments:
            raise AuditError("weights, arguments: a file .onnx has its own")
        path, size = Path(foreign.network), faces.test.image_size
        made = OnnxExtractor(path, faces.fingerprint, config.taps, classes, foreign.preprocessing, size, ranks)
        return {"audited": made}

    def extractor(weights: str) -> ModuleExtractor:
        module, sha256 = load_module(foreign.network, foreign.arguments, weights)
        return ModuleExtractor(
            module, sha256, faces.fingerprint, config.taps, classes, foreign.preprocessing, faces.test.image_size, ranks
        )

    untrained = {"random": extractor("")} if foreign.weights and "random" in config.references else {}
    return {"audited": extractor(foreign.weights), **untrained}
