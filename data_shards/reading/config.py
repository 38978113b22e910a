"""Where the data are and how they are read."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "cached", "streaming"]


@dataclass(frozen=True)
class DataConfig:
    """Where the data are and how they are read.

    Args:
        shards: Folder of the shards and their manifest.json, or its URL (s3://, gs://, abfs://, https:// and others).
        mode: `cached` decodes every picture once and keeps it, `streaming` decodes as it goes in bounded memory, `auto`
            caches what fits in `cache_gib`.
        cache_gib: Largest decoded data set that `auto` keeps, per process, in GiB.
        cache: Folder on this machine in which all its runs share what they fetch and decode; where it is empty, decoded
            pictures stay in each process's memory, and what is fetched goes to ~/.cache/privatenet.
        workers: Threads per process that read and decode.
        validation: Fraction of the training split, per class, that chooses the best model and is not trained on.
        window: Shards whose samples are shuffled together.
    """

    shards: str = "shards/demo"
    mode: Mode = "auto"
    cache_gib: float = 8.0
    cache: str = ""
    workers: int = 2
    validation: float = 0.1
    window: int = 16
