"""faces.html, a page without a server: rendered faces, what a network says of them, and what an attacker reads before
and after protection. `python docs/faces.py runs/demo` draws it beside itself, from a run of the demo."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from privatenet.audit.attack.extract import NetworkExtractor, extract
from privatenet.audit.attack.features import Features
from privatenet.data_shards.reading.config import DataConfig
from privatenet.data_shards.shards.picture import decode_stored
from privatenet.distributed.checkpoint import load
from privatenet.distributed.config import EngineConfig
from privatenet.distributed.faces import Faces
from privatenet.distributed.ranks import ALONE
from privatenet.distributed.stages.trained import load_network
from privatenet.models.answers import softmax

FACES = 24
SEEN = {"before": ("target", "backbone"), "after": ("private", "release")}
"""Stage and tap that the attacker looks at."""
HERE = Path(__file__).parent


def main(run: Path) -> None:
    source = load(run / "private" / "final")
    data = source.state["config"]["data"]
    faces = Faces(DataConfig(**data), ALONE)
    rows = np.random.default_rng(0).permutation(len(faces.test))[:FACES]
    read: dict[str, dict[str, Any]] = {}
    right: dict[str, dict[str, float]] = {}
    for when, (stage, tap) in SEEN.items():
        checkpoint = load(run / stage / "final")
        engine = EngineConfig(**checkpoint.state["config"]["engine"])
        extractor = NetworkExtractor(load_network(checkpoint), checkpoint.hash, faces.fingerprint, engine, ALONE)
        features = extract(extractor, [tap], faces, ALONE, run / "features")
        read[when], right[when] = _attack(features, tap, faces, rows)
        read[when][faces.schema.target] = _answers(features)[rows].tolist()
    shown = [
        {
            "picture": _png(faces, row),
            "true": {name: _label(faces, row, name) for name in (faces.schema.target, *faces.schema.private)},
            "read": {when: {name: values[place] for name, values in read[when].items()} for when in SEEN},
        }
        for place, row in enumerate(rows.tolist())
    ]
    content = {
        "target": faces.schema.target,
        "classes": {each.name: each.classes for each in faces.schema.attributes},
        "private": faces.schema.private,
        "right": right,
        "majority": {name: _majority(faces, name) for name in faces.schema.private},
        "samples": len(faces.test),
        "faces": shown,
    }
    page = (HERE / "faces-template.html").read_text()
    (HERE / "faces.html").write_text(page.replace("/*CONTENT*/", json.dumps(content, separators=(",", ":"))))


def _attack(features: Features, tap: str, faces: Faces, rows: np.ndarray) -> tuple[dict[str, Any], dict[str, float]]:
    """By private attribute an attacker's probabilities for `rows`, and how often it is right on the test split."""
    read, right = {}, {}
    train, test = (np.array(features.array(split, tap)) for split in ("train", "test"))
    scaler = StandardScaler().fit(train.reshape(len(train), -1))
    train, test = (scaler.transform(values.reshape(len(values), -1)) for values in (train, test))
    for name in faces.schema.private:
        column = faces.schema.names.index(name)
        known, judged = (split.labels[:, column] for split in (faces.train, faces.test))
        attacker = LogisticRegression(C=0.01, max_iter=2000).fit(train[known >= 0], known[known >= 0])
        shares = attacker.predict_proba(test)
        right[name] = float((shares.argmax(axis=1) == judged)[judged >= 0].mean())
        read[name] = shares[rows].round(3).tolist()
    return read, right


def _answers(features: Features) -> np.ndarray:
    """Probabilities [N, K], of the noise's first draw where there is some."""
    shares: np.ndarray = softmax(torch.from_numpy(np.array(features.answers("test")[:, 0]))).numpy().round(3)
    return shares


def _png(faces: Faces, row: int) -> str:
    stream = io.BytesIO()
    decode_stored(faces.test.read(row), faces.test.names[row], faces.test.image_size).save(stream, "JPEG", quality=88)
    return base64.b64encode(stream.getvalue()).decode()


def _label(faces: Faces, row: int, name: str) -> str:
    label = int(faces.test.labels[row, faces.schema.names.index(name)])
    return faces.schema.attribute(name).classes[label] if label >= 0 else "unsure"


def _majority(faces: Faces, name: str) -> float:
    labels = faces.test.labels[:, faces.schema.names.index(name)]
    return float(np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
