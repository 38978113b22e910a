"""Files that somebody meddled with: a good one, with bytes or values changed by chance, the same for the same seed.

`python tests/hostile.py 10000` gives each reader that many, and prints a table of what became of them.
"""

import copy
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import torch
from audited import findings
from PIL import Image
from support import FINISHED_STATE, TRAINING_STATE, encoded

from privatenet.audit.attack import answers
from privatenet.audit.attack.features import has_shape
from privatenet.audit.attack.findings import read_findings, write_findings
from privatenet.audit.errors import AuditError
from privatenet.audit.foreign.arrays import read_arrays
from privatenet.data_shards.errors import DataError
from privatenet.data_shards.files import file_sha256
from privatenet.data_shards.photographs.video import read_video
from privatenet.data_shards.reading.decode import decode
from privatenet.data_shards.shards.manifest import Index, Manifest, load_manifest
from privatenet.data_shards.shards.picture import to_stored
from privatenet.data_shards.shards.split import open_split
from privatenet.data_shards.shards.writer import build
from privatenet.data_shards.sources.schema import Schema
from privatenet.data_shards.sources.synthetic import synthetic_source
from privatenet.data_shards.sources.table import table_source
from privatenet.distributed import checkpoint
from privatenet.distributed.errors import ConfigError
from privatenet.distributed.tracking import outbox
from privatenet.launch import train
from privatenet.models.errors import ModelError
from privatenet.models.exported import Description, load, write_exported
from privatenet.models.network import NetworkSpec, build_network
from privatenet.models.parts import Normalisation
from privatenet.tune.storage import Storage

REFUSALS = (AuditError, ConfigError, DataError, ModelError)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**70, 1.5, float("nan"), float("inf"), "", "x", "../../etc/passwd", "\x1b[2J",
    "9" * 5000, [], {}, [[[[[]]]]], {"a": {"a": {"a": 1}}}, [0] * 1000,
)  # fmt: skip
INSERTED = (b"\x00", b"\xff\xfe", b'"', b"{", b"[" * 3000, b": ", b"\n", b"- &a *a")
SCHEMA = "name: faces\ntarget: mood\nattributes:\n  mood: {classes: [good, bad]}\n  age: {bins: [13, 20]}\n"
AGES = (3, 30)
CONFIG = "target: {epochs: 3, lr: 1e-3}\nprotect:\n  lambda: 0.5\n  terms: [{at: arm-gender, known: frozen}]\n"


@dataclass(frozen=True)
class Reader:
    """A kind of file: a good one of it, and how it is read; `exact`: nothing that differs may be accepted."""

    name: str
    path: Path
    read: Callable[[], object]
    exact: bool = False


def readers(folder: Path) -> list[Reader]:
    """Each kind of file that people and machines hand over, a good one of each below `folder`."""
    shards, run = folder / "shards", folder / "run"
    manifest = build(synthetic_source(24, 8, seed=0), shards, samples_per_shard=12)
    weights = {"model": {"x": torch.ones(1)}}
    checkpoint.save(run / "final", weights, FINISHED_STATE)
    checkpoint.save(run / "checkpoints" / "step-00000001", weights, TRAINING_STATE)
    outbox.append(run, outbox.CreateRun("faces", "", "name", {"a": "b"}))
    outbox.append(run, outbox.LogMetrics({"loss": 0.5}, 1, 2.0))
    outbox.write_sent(run, outbox.Sent(outbox.Uri("sqlite:///x.db"), "", 0))
    write_findings(findings(), folder / "audit.json")
    schema = folder / "faces.yaml"
    schema.write_text(SCHEMA)
    table = folder / "faces.csv"
    table.write_text("path,split,mood,age,person\n" + "".join(f"{age}.png,train,good,{age},kim\n" for age in AGES))
    for age in AGES:
        (folder / f"{age}.png").write_bytes(encoded("PNG", 32))
    video = folder / "talk.mp4"
    _write_video(video)
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    index = next(shards.glob("train-*.json"))
    picture, features, kept = folder / f"{AGES[0]}.png", folder / "layer3.npy", folder / "answers.npz"
    np.save(features, np.ones((8, 4), np.float32))
    answers.write(kept, answers.Stored({"logits": np.ones((2, 8, 4))}, {"note": "good"}))
    arrays, exported = folder / "arrays.npz", folder / "exported"
    gender = {f"{split}/labels/gender": np.arange(8) % 2 for split in ("train", "test")}
    np.savez(arrays, **gender, **{f"{split}/pool": np.ones((8, 4)) for split in ("train", "test")})
    exported.mkdir()
    network = build_network(NetworkSpec("mobilenet_v3_small", 3, 32, "linear"))
    normalisation = Normalisation([0.0] * 3, [1.0] * 3)
    write_exported(network, Description(asdict(network.spec), "mood", ("a", "b", "c"), normalisation), exported)
    (folder / "sweep.yaml").write_text("space: {lambda: [0.1, 0.9]}\nsearch: {trials: 3}\n")
    storage = Storage(fsspec.filesystem("file"), str(folder), str(folder), None)
    return [
        Reader("manifest", shards / "manifest.json", lambda: load_manifest(shards), exact=True),
        Reader("index", index, lambda: Index.decode(index.read_bytes(), index)),
        Reader("state", run / "final" / "state.json", lambda: checkpoint.load(run / "final")),
        Reader(
            "state in training",
            run / "checkpoints" / "step-00000001" / "state.json",
            lambda: checkpoint.load_training(run / "checkpoints" / "step-00000001"),
        ),
        Reader("sent", run / "mlflow.json", lambda: outbox.read_sent(run)),
        Reader("outbox", run / "mlflow-outbox.jsonl", lambda: outbox.read(run)),
        Reader("tensors", run / "final" / "model.safetensors", lambda: _tensors(run / "final")),
        Reader("sweep", folder / "sweep.yaml", lambda: storage.read("sweep.yaml")),
        Reader("audit", folder / "audit.json", lambda: read_findings(folder / "audit.json")),
        Reader("schema", schema, lambda: Schema.from_yaml(schema)),
        Reader("table", table, lambda: table_source(table, schema)),
        Reader("configuration", config, lambda: train.parse(["run", "--config", str(config)])),
        Reader("tar", shards / "train-000000.tar", lambda: _pictures(shards, manifest)),
        Reader("picture", picture, lambda: to_stored(picture.read_bytes(), str(picture), (32, 32), fit=False)),
        Reader("video", video, lambda: _frames(video)),
        Reader("features", features, lambda: _taken(has_shape(features, (8, 4)))),
        Reader("arrays", arrays, lambda: read_arrays(arrays, "")),
        Reader("exported", exported / "config.json", lambda: load(exported)),
        Reader("answers", kept, lambda: _taken(answers.read(kept))),
    ]


def _tensors(folder: Path) -> object:
    """The tensors of a checkpoint whose sums are made to fit them, as whoever meddles with it would."""
    state = json.loads((folder / "state.json").read_text())
    state["files"]["model.safetensors"] = file_sha256(folder / "model.safetensors")
    (folder / "state.json").write_text(json.dumps(state))
    return checkpoint.load(folder).tensors()


def _pictures(shards: Path, manifest: Manifest) -> object:
    """All training pictures of shards whose sums are made to fit the tar, as whoever meddles with it would."""
    first, *others = manifest.splits["train"]
    tar, index = shards / first.name, shards / first.index_name
    listed = json.loads(index.read_text())
    listed |= {"tar_bytes": tar.stat().st_size, "tar_sha256": file_sha256(tar)}
    index.write_text(json.dumps(listed))
    first = replace(first, bytes=tar.stat().st_size, sha256=file_sha256(tar), index_sha256=file_sha256(index))
    replace(manifest, splits={**manifest.splits, "train": (first, *others)}).save(shards)
    split = open_split(shards, "train")
    return decode(split, range(len(split)))


def _write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for level in (0, 100, 200):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32), (level, 50, 50)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frames(path: Path) -> None:
    """All frames of a video; raises where they are not all that there were."""
    frames = list(read_video(path, 1))
    if error := frames[-1].error:
        raise DataError(error)


def _taken(content: object) -> None:
    """Raise where a cache found that it holds something else, and would compute it again."""
    if not content:
        raise AuditError("computed again")


def meddled(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`content`, changed in `count` ways by chance: its bytes, and its values where it is JSON."""
    chance = random.Random(seed)
    try:
        plain = json.loads(content)
    except ValueError:
        plain = None
    for place in range(count):
        yield _values(plain, chance) if plain is not None and place % 2 else _bytes(content, chance)


def outcome(reader: Reader, content: bytes, good: bytes) -> str:
    """refused, accepted, or in words what should not be."""
    reader.path.write_bytes(content)
    begun, before = time.monotonic(), _peak_memory()
    try:
        reader.read()
        result = "accepted"
        if reader.exact and _plain(content) != _plain(good):
            result = "accepted and wrong"
    except REFUSALS:
        result = "refused"
    except Exception as error:  # whatever it is, a person would get a traceback
        result = f"{type(error).__name__}: {error}"[:200]
    if _peak_memory() - before > 2**30:
        return "took more than 1 GiB"
    return result if time.monotonic() - begun < 5 else "took more than 5 s"


def _peak_memory() -> int:
    """The most that this process has had in memory so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _plain(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[at:at] = chance.choice(INSERTED)
            case 2:
                del changed[at : at + chance.choice((1, 10, len(changed)))]
            case 3:
                changed[at:at] = changed[: chance.randrange(1, 200)]
            case 4:
                changed = changed.swapcase() if chance.random() < 0.1 else changed
    return bytes(changed)


def _values(plain: Any, chance: random.Random) -> bytes:
    changed = copy.deepcopy(plain)
    for _ in range(chance.choice((1, 1, 2))):
        holders = [holder for holder in _holders(changed) if holder]
        if not holders:
            break
        holder = chance.choice(holders)
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match chance.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(("x", "../x", "\x1b"))] = holder[key]
            case _:
                holder[key] = chance.choice(VALUES)
    return json.dumps(changed).encode()


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from _holders(child)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for reader in readers(Path(folder)):
            good = reader.path.read_bytes()
            results = Counter(outcome(reader, each, good) for each in meddled(good, int(sys.argv[1]), seed=1))
            reader.path.write_bytes(good)
            print(f"{reader.name:18s} {dict(results.most_common(8))}", flush=True)
    print(f"peak memory {_peak_memory() // 2**20} MiB")


if __name__ == "__main__":
    main()
