"""How well a network does its own work on the faces that it is judged on."""

import numpy as np

from privatenet.audit.attack.features import Array, Features
from privatenet.audit.attack.findings import Estimate
from privatenet.audit.attack.intervals import share
from privatenet.audit.attack.samples import LabelledFaces, judged_rows, labels_of, people_in
from privatenet.audit.people import Indices
from privatenet.data_shards.reading.plan import Rows


def network_utility(features: Features, faces: LabelledFaces, confidence: float) -> tuple[Estimate, float]:
    """`utility` on the test split, over several draws of a channel's noise."""
    return utility(features.answers("test"), faces, judged_rows(faces), confidence)


def utility(answers: Array, faces: LabelledFaces, rows: Rows, confidence: float) -> tuple[Estimate, float]:
    """How often logits, float32 [N, D, K] of D draws of a channel's noise, name the target class of `rows` of all
    faces, in the mean over draws; and the share of the largest class. The interval is over people. NaN without labels.
    """
    labels: Indices = labels_of(faces, faces.schema.target)[rows]
    known = labels >= 0
    right = (answers.argmax(axis=2) == labels[:, None]).mean(axis=1)[known]
    majority = float(np.bincount(labels[known]).max() / known.sum()) if known.any() else float("nan")
    return share(right, people_in(faces, rows[known]), confidence), majority
