"""What the bare predicted label tells: one of a few values, of which a table look-up reads all that there is."""

import numpy as np

from privatenet.audit.attack.features import LABEL, LOGITS
from privatenet.audit.attack.fitting import Answers
from privatenet.audit.attack.fleet import Fleet, Result, Unit
from privatenet.audit.attack.measures import class_frequencies
from privatenet.audit.attack.representations import features_of
from privatenet.audit.attack.samples import labelled_split

ATTACKER = "table"
NOTE = "how often each class was seen with a predicted label"


def label_results(fleet: Fleet) -> list[Result]:
    """The answers of the table for every attribute and fold."""
    return [
        _look_up(fleet, Unit(LABEL, attribute, ATTACKER, LABEL, faces, fold))
        for faces, splits in fleet.folds.items()
        for fold in range(len(splits))
        for attribute in fleet.config.attributes
    ]


def _look_up(fleet: Fleet, unit: Unit) -> Result:
    """Counts of the fitting samples, to which each predicted label adds one sample of no known class."""
    subset, labels = labelled_split(fleet.split(unit), fleet.faces, unit.attribute)
    fitting, tuning, testing = (
        features_of(fleet.features, LOGITS, rows).argmax(axis=1)
        for rows in (subset.fitting, subset.tuning, subset.testing)
    )
    prior = class_frequencies(labels.fitting, fleet.num_classes(unit.attribute))
    counts = np.tile(prior, (*fleet.features.shapes[LOGITS], 1))
    np.add.at(counts, (fitting, labels.fitting), 1)
    logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return Result(unit, Answers(logits[tuning][None], logits[testing][None]), 1, NOTE, 0.0)
