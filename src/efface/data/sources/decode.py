"""One image file to a square of uint8 pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from efface.errors import DataError, expected


def decode(encoded: bytes | Path, size: int, keep: bool = False, name: str = "an image") -> UInt8[np.ndarray, "3 S S"]:
    """Return an image as RGB, its centre square resampled (bicubic, antialiased) to ``size`` pixels.

    An image that has the size already keeps its exact pixels. Grey, CMYK, palette and alpha images become RGB; EXIF
    rotation is applied, as Hugging Face datasets does.

    Args:
        encoded: File content or path.
        size: Width and height in pixels.
        keep: Refuse images of another size instead of resampling them.
        name: For messages.

    Raises:
        DataError: The image has another size, and ``keep`` is set.
        Exception: Whatever Pillow raises on a file it can't read.
    """
    with _open(encoded) as opened:
        image = _as_rgb(opened, name)
    w, h = image.size
    if keep:
        require_square(w, h, size, name)
    if (w, h) != (size, size):
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def measure(encoded: bytes | Path) -> tuple[int, int]:
    """Return width and height after EXIF rotation, reading the header only."""
    with _open(encoded) as image:
        w, h = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (h, w) if turned else (w, h)


def require_square(width: int, height: int, size: int, name: str) -> None:
    """Raise DataError unless an image is size×size: then, and only then, the user need not choose a size."""
    if (width, height) != (size, size):
        wanted = "a number of pixels, since the images are not all squares of one size"
        hint = f"{name} is {width}×{height}. For example: --set data.size=64 (centre crop, then resize)."
        raise DataError(expected("data.size", wanted, None, hint))


def _open(encoded: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Load, turn as EXIF says, and convert to RGB."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits to 8 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        # Of 32 bits nobody knows what white is; Pillow's own conversion clips at 255.
        raise DataError(f"{name} has 32-bit pixels (mode {image.mode}): convert the images to 8 or 16 bits.")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    # RGB images come back as loaded copies, so that the file can be closed.
    return image.convert("RGB")
