"""Rendered faces as a source: a data set that needs no download, learnable and leaking by itself."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.sources.appearance import sample_face
from privatenet.data_shards.sources.drawing import draw_face
from privatenet.data_shards.sources.record import Record, Source
from privatenet.data_shards.sources.schema import Attribute, Schema

EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
GENDERS = ("male", "female")
AGE_GROUPS = ("0-3", "4-19", "20-39", "40-69", "70+")

SYNTHETIC_SCHEMA = Schema(
    name="synthetic",
    target="emotion",
    attributes=(
        Attribute("emotion", {name: name for name in EMOTIONS}),
        Attribute("gender", {name: name for name in GENDERS}),
        Attribute("age_group", {name: name for name in AGE_GROUPS}),
    ),
    private=("gender", "age_group"),
)

_SPLITS = ("train", "test")
_JPEG_QUALITY = 92

_EMOTION_SHARES = np.array([0.12, 0.06, 0.08, 0.30, 0.14, 0.08, 0.22])
_GENDER_SHARES = np.array([0.45, 0.55])
_AGE_SHARES = np.array([0.08, 0.16, 0.44, 0.24, 0.08])
_TIED_GENDER = (0, 1, 1, 1, 1, 0, 0)  # by emotion; chosen so that the overall shares move little with the correlation
_TIED_AGE = (0, 1, 4, 2, 3, 1, 2)
_TIED_SHARE = 0.9  # of the tied class at correlation 1; the rest follows the overall shares


def synthetic_source(train: int, test: int, seed: int = 0, correlation: float = 0.0) -> Source:
    """A data set of `train` and `test` faces, none of them drawn yet; DataError where a number is out of range.

    `correlation` is that of `draw_labels`. Another seed gives other labels and other faces.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"{name} is {value}, accepted: {least} or more")
    records = []
    for split, num in zip(_SPLITS, (train, test), strict=True):
        labels = draw_labels(num, correlation, _generator(seed, split))
        for number, (emotion, gender, age_group) in enumerate(labels.tolist()):
            location = f"{seed}/{split}/{number}"
            records.append(Record(f"{split}_{number:06d}", split, (emotion, gender, age_group), location))
    return SyntheticSource(SYNTHETIC_SCHEMA, tuple(records))


@dataclass(frozen=True)
class SyntheticSource:
    """Faces drawn as they are read: a record's location is `seed/split/number`, of which its generator is made."""

    schema: Schema
    records: tuple[Record, ...]

    def read(self, record: Record) -> bytes:
        """The face as a JPEG: the same bytes in any order and process."""
        seed, split, number = record.location.split("/")
        emotion, gender, age_group = record.labels
        face = render_face(emotion, gender, age_group, _generator(int(seed), split, int(number)))
        stream = io.BytesIO()
        face.save(stream, "JPEG", quality=_JPEG_QUALITY)
        return stream.getvalue()


def draw_labels(num: int, correlation: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the labels of `num` faces as int64 [num, 3]: emotion, gender, age group.

    `correlation` mixes each emotion's own gender and age shares with the overall ones: at 0 the three labels are
    independent, at 1 the emotion nearly decides the other two. DataError outside [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise DataError(f"correlation of emotion with the private attributes is {correlation}, accepted: 0 to 1")
    emotion = rng.choice(len(EMOTIONS), size=num, p=_EMOTION_SHARES)
    gender = _draw_private(emotion, _GENDER_SHARES, _TIED_GENDER, correlation, rng)
    age_group = _draw_private(emotion, _AGE_SHARES, _TIED_AGE, correlation, rng)
    return np.stack([emotion, gender, age_group], axis=1).astype(np.int64)


def render_face(emotion: int, gender: int, age_group: int, rng: np.random.Generator, size: int = 100) -> Image.Image:
    """Draw one face with these class indices as an RGB picture of `size` x `size` pixels.

    The emotion moves mouth, brows, eyes, nose and cheeks only; gender and age show in hair, shape, colours and lines.
    The same generator state gives the same picture. Labels out of range are not looked for.
    """
    face = sample_face(EMOTIONS[emotion], GENDERS[gender], AGE_GROUPS[age_group], rng)
    return draw_face(face, rng, size)


def _generator(seed: int, split: str, *number: int) -> np.random.Generator:
    """The generator of a split's labels, or of its face `number`; all are independent of each other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPLITS.index(split), *number)))


def _draw_private(
    emotion: NDArray[np.int64],
    shares: NDArray[np.float64],
    tied: tuple[int, ...],
    correlation: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw a private class for each emotion [num], from a mix of `shares` and the class tied to the emotion."""
    of_emotion = _TIED_SHARE * np.eye(len(shares))[list(tied)] + (1 - _TIED_SHARE) * shares
    bounds = np.cumsum((1 - correlation) * shares + correlation * of_emotion, axis=1)[:, :-1]
    private: NDArray[np.int64] = (rng.random(len(emotion))[:, None] >= bounds[emotion]).sum(axis=1)
    return private
