"""One picture: from the file that a source holds to the upright RGB JPEG that a shard stores."""

import io
import warnings

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from privatenet.data_shards.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
MIN_SIDE, MAX_SIDE = 16, 8192
JPEG_QUALITY = 95


class PictureError(DataError):
    """One picture is corrupt; a build may be told to leave such pictures out."""


def picture_size(data: bytes, origin: str) -> tuple[int, int]:
    """(height, width) in pixels of the picture held upright; PictureError where it is corrupt."""
    upright = _decode(data, origin)[0]
    return upright.height, upright.width


def to_jpeg(data: bytes, origin: str, size: tuple[int, int], fit: bool) -> bytes:
    """The picture as an RGB JPEG of `size` (height, width), its own bytes where it is one already.

    With `fit`, a picture of another size is scaled and cropped about its centre; without, it is a DataError.
    Raises PictureError where the picture does not decode to its end or its sides are absurd.
    """
    upright, as_stored = _decode(data, origin)
    found = (upright.height, upright.width)
    if found == size and as_stored:
        return data
    if found != size:
        if not fit:
            raise DataError(
                f"{origin}: is {found[1]}x{found[0]} pixels and others are {size[1]}x{size[0]}, accepted: one size for "
                "all; `--size N` makes every picture NxN"
            )
        upright = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    upright.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def _decode(data: bytes, origin: str) -> tuple[Image.Image, bool]:
    """The picture, upright and RGB, and whether its file is that already."""
    image = _open(data, origin)
    try:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception as error:  # Pillow raises whatever a format's parser ran into
        raise PictureError(f"{origin}: does not decode: {error}") from error
    as_stored = image.format == "JPEG" and image.mode == "RGB" and not turned
    return upright if upright.mode == "RGB" else _to_rgb(upright), as_stored


def _open(data: bytes, origin: str) -> Image.Image:
    """The picture's header, with sides that are worth decoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(f"{origin}: is not a picture, accepted: {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{origin}: has absurd dimensions, accepted: {MIN_SIDE} to {MAX_SIDE} a side") from error
    except Exception as error:  # as in _decode
        raise PictureError(f"{origin}: its header does not decode: {error}") from error
    if min(image.size) < MIN_SIDE or max(image.size) > MAX_SIDE:
        raise PictureError(
            f"{origin}: has absurd dimensions, {image.width}x{image.height} pixels, "
            f"accepted: {MIN_SIDE} to {MAX_SIDE} a side"
        )
    if image.mode not in MODES:
        raise PictureError(
            f"{origin}: has pixels of mode '{image.mode}', accepted: 8 bits a channel ({', '.join(MODES)})"
        )
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")
