"""One picture: from the file that a source holds to what a shard stores, and from there to pixels.

Formats are told by content, not by name, and only those named here are ever opened. A picture's header is judged before
its pixels are decoded, as a few bytes may claim gigabytes.
"""

import io
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from privatenet.data_shards.errors import DataError

SOURCE_FORMATS = ("JPEG", "PNG", "WEBP")
ENDINGS = {"JPEG": "jpg", "PNG": "png"}
"""The formats that shards store, and how their members' names end."""

STORED_MODES = ("RGB", "L", "CMYK")
"""Of pictures in shards. Here they are built in RGB; what others have put there is converted as it is decoded."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
MIN_SIDE, MAX_SIDE = 16, 8192
MAX_PIXELS = 2**25
"""The largest picture of a source; decoded, it takes 100 MB."""
JPEG_QUALITY = 95
JPEG_START = b"\xff\xd8\xff"
NOT_PLAIN = (b"Exif", b"ns.adobe.com", b"MPF\0")
"""What is in a JPEG that may lie on its side by its Exif or XMP data, or is of several pictures."""


class PictureError(DataError):
    """One picture is corrupt; a build may be told to leave such pictures out."""


def picture_size(data: bytes, origin: str) -> tuple[int, int]:
    """(height, width) in pixels of the picture held upright; PictureError where it is corrupt."""
    upright = decode_source(data, origin)
    return upright.height, upright.width


def decode_source(data: bytes, origin: str) -> Image.Image:
    """The picture held upright, RGB; PictureError where it is corrupt or its sides are absurd."""
    return _decode(_open_source(data, origin), origin)[0]


def to_stored(data: bytes, origin: str, size: tuple[int, int], fit: bool) -> tuple[str, bytes]:
    """The picture as a shard stores it, upright RGB of `size` (height, width): its member's ending and its bytes.

    A JPEG or PNG that is so already keeps its bytes, anything else becomes a JPEG. With `fit`, a picture of another
    size is scaled and cropped about its centre; without, it is a DataError. Raises PictureError where the picture does
    not decode to its end or its sides are absurd.
    """
    if _is_plain_jpeg(data, size):
        return ENDINGS["JPEG"], data
    image = _open_source(data, origin)
    if not fit and sorted(image.size) != sorted(size):  # it may lie on its side
        raise _another_size(image, origin, size)
    upright, as_stored = _decode(image, origin)
    same_size = (upright.height, upright.width) == size
    if same_size and as_stored:
        return ENDINGS[str(image.format)], data
    if not same_size:
        if not fit:
            raise _another_size(upright, origin, size)
        upright = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    upright.save(stream, "JPEG", quality=JPEG_QUALITY)
    return ENDINGS["JPEG"], stream.getvalue()


def decode_stored(data: bytes, origin: str, size: tuple[int, int]) -> Image.Image:
    """A shard's picture, decoded to RGB; PictureError where it is not a JPEG or PNG of `size` (height, width) and of
    `STORED_MODES`."""
    image = _open(data, origin, tuple(ENDINGS))
    if (image.height, image.width) != size or image.mode not in STORED_MODES:
        raise PictureError(
            f"{origin}: is {image.width}x{image.height} {image.mode}, "
            f"accepted: {size[1]}x{size[0]} RGB, as the manifest names it"
        )
    _load(image, origin)
    return image if image.mode == "RGB" else _to_rgb(image)


def decode_plain(data: bytes, pixels: npt.NDArray[np.uint8]) -> bool:
    """Decode a shard's picture into `pixels` [H, W, 3] where it is a JPEG of that size: by libjpeg-turbo itself, to the
    same pixels as `decode_stored` (of CMYK within a grey level) in a third of the time. Whether it was one."""
    try:
        return bool(simplejpeg.decode_jpeg(data, buffer=pixels).shape == pixels.shape)
    except ValueError:  # a PNG, larger, or damaged
        return False


def _open_source(data: bytes, origin: str) -> Image.Image:
    """The picture's header, with sides that are worth decoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = _open(data, origin, SOURCE_FORMATS)
    if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"{origin}: has absurd dimensions, {image.width}x{image.height} pixels, "
            f"accepted: {MIN_SIDE} to {MAX_SIDE} a side and {MAX_PIXELS:,} in all"
        )
    if image.mode not in MODES:
        raise PictureError(
            f"{origin}: has pixels of mode '{image.mode}', accepted: 8 bits a channel ({', '.join(MODES)})"
        )
    return image


def _open(data: bytes, origin: str, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise PictureError(f"{origin}: is not a picture, accepted: {', '.join(formats)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{origin}: has absurd dimensions, accepted: {MIN_SIDE} to {MAX_SIDE} a side") from error
    except Exception as error:  # Pillow raises whatever a format's parser ran into
        raise PictureError(f"{origin}: its header does not decode: {error}") from error


def _load(image: Image.Image, origin: str) -> None:
    try:
        image.load()
    except Exception as error:  # as in _open
        raise PictureError(f"{origin}: does not decode: {error}") from error


def _decode(image: Image.Image, origin: str) -> tuple[Image.Image, bool]:
    """The picture, upright and RGB, and whether its file is what a shard stores already."""
    _load(image, origin)
    try:
        turned = _is_turned(image)
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception as error:  # as in _open
        raise PictureError(f"{origin}: its orientation does not decode: {error}") from error
    as_stored = image.format in ENDINGS and image.mode == "RGB" and not turned
    return upright if upright.mode == "RGB" else _to_rgb(upright), as_stored


def _is_plain_jpeg(data: bytes, size: tuple[int, int]) -> bool:
    """Whether it is a JPEG in RGB of `size` (height, width), one picture without a word on how to hold it, and decodes
    to its end: told by libjpeg-turbo itself, in a third of Pillow's time. Of any other, Pillow says what it is."""
    if not data.startswith(JPEG_START) or any(word in data for word in NOT_PLAIN):
        return False
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
    except ValueError:
        return False
    return colours == "YCbCr" and decode_plain(data, np.empty((*size, 3), dtype=np.uint8))


def _is_turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _another_size(image: Image.Image, origin: str, size: tuple[int, int]) -> DataError:
    return DataError(
        f"{origin}: is {image.width}x{image.height} pixels and others are {size[1]}x{size[0]}, accepted: one size for "
        "all; `--size N` makes every picture NxN"
    )
