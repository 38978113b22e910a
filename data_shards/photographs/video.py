"""Frames of video files, by PyAV, which brings FFmpeg's libraries in its wheel: the extra `privatenet[video]`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from privatenet.data_shards.errors import DataError
from privatenet.data_shards.photographs.frame import Frame
from privatenet.data_shards.shards.picture import MAX_PIXELS

_OPTIONS = {"format_whitelist": "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2", "protocol_whitelist": "file"}
"""FFmpeg opens these formats, and nothing else on their behalf: a playlist would name files and addresses."""


def video_library() -> Any:
    """PyAV. DataError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise DataError("videos need PyAV, which is not installed: pip install 'privatenet[video]'") from error
    return av


def read_video(path: Path, every: int) -> Iterator[Frame]:
    """The first frame and then each `every`-th; where the file is no video, or breaks off, a last one says so."""
    av = video_library()
    number = -1
    try:
        with av.open(str(path), options=_OPTIONS, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or stream.codec_context is None:
                yield Frame(path, None, error=f"{path}: holds no video of a kind that is known")
                return
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    yield Frame(path, _upright(frame), number, frame.time)
    except (av.error.FFmpegError, OSError) as error:
        place = f" after frame {number}" if number >= 0 else ""
        yield Frame(path, None, error=f"{path}: the video does not decode{place}: {error.strerror}")
        return
    if number < 0:
        yield Frame(path, None, error=f"{path}: holds no frame")


def _upright(frame: Any) -> Image.Image:
    """The frame in RGB, turned as a telephone's video says that it is shown."""
    image: Image.Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
