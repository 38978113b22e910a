"""Where Tune keeps trials and their checkpoints, by URL."""

import fsspec
import pyarrow.fs


class Storage(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """The file system of a URL, and the folder in it.

    Opened anew where it is unpickled: Ray pickles it into the storage itself, and what fsspec's client took from the
    environment, a password say, must not get there.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url)
        filesystem, self.path = fsspec.core.url_to_fs(self.url)
        super().__init__(filesystem)

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.url,)
