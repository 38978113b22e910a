"""Addresses of data, stores and servers that show themselves without what opens them.

What is printed, logged, compared or written to a file is an address without name, password and secret query parameters.
Whoever goes on later gives them again, with the command or in the environment.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote, unquote_plus

from jsonargparse.typing import register_type

CREDENTIALS = "PRIVATENET_CREDENTIALS"
"""Environment variable: URIs in full, one a line. A `Uri` that comes without credentials takes those of its address."""

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'\\<>]+")
_USER_INFO = re.compile(r"(?<=://)(?:[^/?#]*@|[^:/?#\[]*:(?!\d+/)[^@]*@)+")
"""Also with a slash in the password, which database clients accept; but `host:5000/path@2` has none."""
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|sig|key|cred|auth|user|uid|odbc_connect", re.IGNORECASE)
_NAME_IS_ADDRESS = ("abfs", "abfss", "az", "wasb", "wasbs")
"""Schemes of Azure, where what stands before the `@` is the container."""


class Uri(str):
    """A URI, or a folder's path, as a string without credentials; `full` has them, for the client that connects.

    Two that differ in credentials alone are equal. Copied or pickled it keeps them: pickle none into a file.
    """

    full: str

    def __new__(cls, text: str = "") -> "Uri":
        if isinstance(text, Uri):
            return text
        uri = super().__new__(cls, _redacted(text))
        uri.full = text if text != uri else _in_full(text)
        return uri

    def __getnewargs__(self) -> tuple[str]:
        return (self.full,)

    def __truediv__(self, name: str) -> "Uri":
        """The address of `name` in this folder."""
        folder, mark, query = self.full.partition("?") if "://" in self else (self.full, "", "")
        return Uri(f"{folder.rstrip('/')}/{name}{mark}{query}")

    @property
    def has_credentials(self) -> bool:
        return self.full != self

    def scrub(self, text: str) -> str:
        """`text`, such as a client's error, without what this URI keeps to itself, however it is quoted there."""
        if not self.has_credentials:
            return scrub(text)
        text = scrub(text.replace(self.full, self))
        name, secrets = _credentials(self.full)
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        public = not name or f"//{name}@" in self
        return text if public else re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "***", text)


register_type(Uri)  # command lines and YAML files take one where a string is


def scrub(text: str) -> str:
    """`text` with every URI in it as a `Uri` shows itself."""
    return _URL.sub(lambda match: _redacted(match[0]), text)


def conceal(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments for another process without credentials, and the environment in which its `Uri`s find them."""
    full = [url for word in arguments for url in _URL.findall(word) if url != _redacted(url)]
    known = [os.environ[CREDENTIALS]] if CREDENTIALS in os.environ else []
    return [scrub(word) for word in arguments], {CREDENTIALS: "\n".join([*full, *known])} if full else {}


def _redacted(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    if not separator:
        return text
    address, mark, query = _USER_INFO.sub("", text).partition("?")
    if scheme in _NAME_IS_ADDRESS and (name := _credentials(text)[0]):
        address = address.replace("://", f"://{name}@", 1)
    public = [item for item in query.split("&") if not _SECRET_PARAMETER.search(unquote(item.partition("=")[0]))]
    return address + (mark + "&".join(public) if public else "")


def _credentials(text: str) -> tuple[str, set[str]]:
    """The user's name (empty: none), and password and other secrets, each as it stands and unquoted."""
    match = _USER_INFO.search(text)
    name, _, password = match[0][:-1].partition(":") if match else ("", "", "")
    items = [item.partition("=") for item in text.partition("?")[2].split("&")]
    values = [password, *(value for key, _, value in items if _SECRET_PARAMETER.search(unquote(key)))]
    return name, {form for value in values for form in (value, unquote(value), unquote_plus(value)) if form}


def _in_full(address: str) -> str:
    known = os.environ.get(CREDENTIALS, "").splitlines()
    return next((full for full in known if _redacted(full) == address), address)
