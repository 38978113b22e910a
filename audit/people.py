"""Who is in which picture: those of one person are not independent, so that people are counted where they are known."""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def persons_or_unknown(persons: Indices | None, pictures: int) -> Indices:
    """Who is in each of so many pictures, int64 [N], -1 where unknown; None: nobody is known."""
    return np.full(pictures, -1) if persons is None else persons


def number_people(persons: Indices) -> Indices:
    """Persons, int64 [N], numbered from 0 on; each unknown one, -1, is a person of their own."""
    strangers = persons.max(initial=0) + 1 + np.arange(len(persons))
    numbers: Indices = np.unique(np.where(persons < 0, strangers, persons), return_inverse=True)[1]
    return numbers
