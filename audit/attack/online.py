"""The online code: the fitting labels in blocks of doubling size, each answered by what was learnt from those before.

What the online code length is made of (see measures.py); the first sixteenth goes by the uniform code.
"""

import sys
from itertools import pairwise

import numpy as np

from privatenet.audit.attack import measures
from privatenet.audit.attack.answers import Stored, read, write
from privatenet.audit.attack.attackers import ATTACKERS
from privatenet.audit.attack.fleet import Fleet, Unit
from privatenet.audit.attack.intervals import Numbers
from privatenet.audit.attack.measures import calibrate, class_frequencies, probabilities
from privatenet.audit.attack.representations import Representation
from privatenet.audit.attack.samples import AttackLabels, Labels, labelled_split, persons_of
from privatenet.audit.people import Indices
from privatenet.data_shards.reading.plan import Rows
from privatenet.distributed.ranks import Ranks


def code_blocks(unit: Unit, fleet: Fleet, ranks: Ranks) -> list[tuple[Numbers, Labels, Indices]]:
    """(log-probabilities [n, K], labels [n], persons [n]) of consecutive blocks of the fitting samples.

    The answers are the unit's attacker's, kept beside its others by a rank of the first one's machine.
    """
    split = fleet.split(unit)
    subset, labels = labelled_split(split, fleet.faces, unit.attribute)
    num_samples = len(labels.fitting)
    order = np.random.default_rng(0).permutation(num_samples)
    ends = [max(2, num_samples // share) for share in (16, 8, 4, 2, 1)]
    path = fleet.file(unit, "code-", [measures, sys.modules[__name__]])
    stored = read(path)
    if stored is None:
        known = fleet.represent(unit).of(subset, split)
        stored = Stored({"log_p": _online(unit, fleet, known, labels, order, ends)}, {})
        if ranks.with_first:
            write(path, stored)
    log_p = stored.arrays["log_p"]
    blocks = zip([0, *ends[:-1]], ends, strict=True)
    persons = persons_of(fleet.faces)[subset.fitting]
    pieces = [(slice(start, end), order[start:end]) for start, end in blocks]
    return [(log_p[place], labels.fitting[rows], persons[rows]) for place, rows in pieces]


def _online(
    unit: Unit, fleet: Fleet, representation: Representation, labels: AttackLabels, order: Rows, ends: list[int]
) -> Numbers:
    """Log-probabilities [N, K] of the fitting samples in `order`, each block's from the blocks before it."""
    num_classes = fleet.num_classes(unit.attribute)
    fitting, tuning, sigma = representation.fitting, representation.tuning, representation.sigma
    sent = fitting
    if sigma:  # the fitting pictures are known before noise; what is coded is what is sent
        sent = fitting + np.float32(sigma) * np.random.default_rng(0).standard_normal(fitting.shape, dtype=np.float32)
    blocks = [np.full((ends[0], num_classes), -np.log(num_classes))]
    for start, end in pairwise(ends):
        before, block = order[:start], order[start:end]
        learnt = AttackLabels(labels.fitting[before], labels.tuning, labels.fitting[block])
        frequencies = class_frequencies(learnt.fitting, num_classes)
        if len(np.unique(learnt.fitting)) < 2:
            blocks.append(np.tile(np.log(frequencies), (len(block), 1)))
            continue
        partial = Representation(representation.kind, fitting[before], tuning, sent[block], representation.note, sigma)
        answers = ATTACKERS[unit.attacker].attack(partial, fleet.context(unit, learnt, seeds=(0,)))
        calibration = calibrate(answers.tuning[0].astype(np.float64), labels.tuning)
        blocks.append(probabilities(answers.testing[0].astype(np.float64), calibration, frequencies))
    return np.concatenate(blocks)
