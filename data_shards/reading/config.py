"""Where the data are and how they are read."""

from dataclasses import dataclass
from typing import Literal

from privatenet.data_shards.uri import Uri

Mode = Literal["auto", "cached", "streaming"]


@dataclass(frozen=True)
class DataConfig:
    """Where the data are and how they are read.

    Args:
        shards: Folder of the shards and their manifest.json, or its URL (s3://, gs://, abfs://, https:// and others). A
            name and password in it are written to no file: resuming or auditing needs them again.
        mode: `cached` decodes every picture once and keeps it, `streaming` decodes as it goes in bounded memory, `auto`
            caches what fits in `cache_gib`.
        cache_gib: Largest decoded data set that `auto` keeps, per process, in GiB.
        cache: Folder on this machine in which all its runs share what they fetch and decode; where it is empty, decoded
            pictures stay in each process's memory, and what is fetched goes to ~/.cache/privatenet.
        disk_gib: How much of shards at a URL this machine keeps, in GiB; 0 is all. With less, they are fetched as their
            samples are due, some ahead, and those unused for longest make way: for data sets that do not fit its disk.
        workers: Threads per process that read and decode.
        validation: Fraction of the training split, per class, that chooses the best model and is not trained on.
        window: Shards whose samples are shuffled together.
    """

    shards: Uri = Uri("shards/demo")
    mode: Mode = "auto"
    cache_gib: float = 8.0
    cache: str = ""
    disk_gib: float = 0.0
    workers: int = 2
    validation: float = 0.1
    window: int = 16
