"""Pictures as teachers get them: the original bytes, unless the recipe says `max_pixels` or nobody reads the format."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that servers take as they are; others become PNG."""


class BadPictureError(ValueError):
    """A picture that cannot be read, and why."""


def opened(data: bytes, max_pixels: int | None) -> Picture:
    """The picture as RGB, made smaller (same proportions, Lanczos) where it has more than `max_pixels`."""
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadPictureError(f"a picture cannot be read: {error}") from error
    size = fitted(image.width, image.height, max_pixels)
    image = image.convert("RGB")
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def fitted(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """Width and height with at most `max_pixels` pixels, in the same proportion."""
    if max_pixels is None or width * height <= max_pixels:
        return width, height
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))


@lru_cache(maxsize=64)
def data_url(data: bytes, max_pixels: int | None) -> str:
    """The picture as a data URL: its own bytes where servers take the format and it is small enough, else a PNG."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = _TYPES.get(image.format or "")
            small = fitted(image.width, image.height, max_pixels) == image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadPictureError(f"a picture cannot be read: {error}") from error
    if kind is None or not small:
        sink = io.BytesIO()
        opened(data, max_pixels).save(sink, "PNG")
        kind, data = "image/png", sink.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
