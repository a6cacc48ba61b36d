"""A batch of canvases and the shapes drawn on them: signed distances, anti-aliased by their distance in pixels.

Face coordinates: u to the right, v down, the canvas spans about -1 to 1, and the head's middle is near (0, 0.1).
Only +, −, ×, ÷, √, |·|, min, max and floor touch pixels. IEEE 754 rounds these exactly, so that a face does not depend
on the batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int

Plane: TypeAlias = Float32[np.ndarray, "B H W"]
"""One value per pixel and face."""
PerFace: TypeAlias = Float32[np.ndarray, "B 1 1"]
"""One value per face, ready to broadcast over its pixels."""
Colour: TypeAlias = Float32[np.ndarray, "#B 3 #H #W"]
"""One colour, or one per face or pixel, 0 to 1."""
Length: TypeAlias = np.float32 | Plane | PerFace
"""One number, or one per face or pixel."""
Traits: TypeAlias = Mapping[str, PerFace]
"""What the faces of a batch look like."""

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)


def ellipse(u: Plane, v: Plane, ru: Length, rv: Length) -> Plane:
    """Return the signed distance to an ellipse at the origin, to first order (k(k−1)/|∇k²/2|): exact on its edge."""
    a, b = u / ru, v / rv
    k = np.sqrt(a * a + b * b)
    a /= ru
    b /= rv
    slope = np.sqrt(a * a + b * b) + np.float32(1e-6)
    return k * (k - _ONE) / slope


def box(u: Plane, v: Plane, ru: Length, rv: Length, corner: Length) -> Plane:
    """Return the signed distance to a box at the origin with rounded corners; ``corner`` is their radius."""
    a, b = np.abs(u) - (ru - corner), np.abs(v) - (rv - corner)
    inside = np.minimum(np.maximum(a, b), _ZERO)
    np.maximum(a, _ZERO, out=a)
    np.maximum(b, _ZERO, out=b)
    return np.sqrt(a * a + b * b) + inside - corner


def arc(u: Plane, v: Plane, reach: Length, bend: Length) -> Plane:
    """Return the distance to the parabola v = bend·u², −reach ≤ u ≤ reach, to first order."""
    inside = np.clip(u, -reach, reach)
    slope = bend * inside
    across = (v - slope * inside) / np.sqrt(_ONE + np.float32(4) * slope * slope)
    along = u - inside
    return np.sqrt(across * across + along * along)


@dataclass
class View:
    """A window of the canvases: some faces, some rows and columns of their pixels.

    Attributes:
        u: Face coordinate to the right of each pixel.
        v: Face coordinate downward.
        traits: What these faces look like.
        pixel: Width of a pixel in face coordinates.
        target: ``[N, 3, S, S]`` canvases that ``paint`` writes to.
        where: Index of the window in ``target``.
    """

    u: Plane
    v: Plane
    traits: Traits
    pixel: PerFace
    target: Float32[np.ndarray, "N 3 S S"]
    where: tuple[Int[np.ndarray, " B"] | slice, slice, slice, slice]

    def coverage(self, distance: Plane, softness: float = 1.0) -> Plane:
        """Return the share of each pixel inside a shape; ``softness`` is the width of the edge in pixels."""
        cover = distance / (self.pixel * np.float32(-softness))
        cover += _HALF
        return np.clip(cover, _ZERO, _ONE, out=cover)

    def paint(self, cover: Plane, colour: Colour) -> None:
        """Lay a colour over the canvases where ``cover`` (0 to 1) says."""
        pixels = self.target[self.where]
        change = colour - pixels
        change *= cover[:, None]
        if isinstance(self.where[0], slice):
            pixels += change
        else:
            self.target[self.where] = pixels + change

    def fill(self, distance: Plane, colour: Colour, opacity: Length | float = 1.0) -> None:
        """Paint the inside of a shape."""
        cover = self.coverage(distance)
        cover *= np.float32(opacity) if isinstance(opacity, float) else opacity
        self.paint(cover, colour)


class Canvas:
    """Canvases of a batch, each with the pose of its face.

    Attributes:
        pixels: ``[B, 3, S, S]`` colours, 0 to 1.
        traits: What the faces look like; ``tilt`` (radians), ``scale``, ``dx`` and ``dy`` place them.
    """

    def __init__(self, traits: Traits, size: int):
        self.traits = traits
        self.size = size
        turn = traits["tilt"].astype(np.float64)
        self._cos = (np.cos(turn) * traits["scale"]).astype(np.float32)
        self._sin = (np.sin(turn) * traits["scale"]).astype(np.float32)
        self.pixel: PerFace = np.float32(2 / size) / traits["scale"]
        self.pixels = np.zeros((len(turn), 3, size, size), np.float32)
        centres = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        x, y = centres[None, None, :] - traits["dx"], centres[None, :, None] - traits["dy"]
        square = traits["scale"] * traits["scale"]
        cos, sin = self._cos / square, self._sin / square
        self.u: Plane = cos * x + sin * y
        self.v: Plane = cos * y - sin * x

    def whole(self) -> View:
        """Return a view of everything."""
        full = slice(None)
        return View(self.u, self.v, self.traits, self.pixel, self.pixels, (full, full, full, full))

    def window(
        self, left: float, right: float, top: float, bottom: float, rows: Int[np.ndarray, " R"] | None = None
    ) -> View:
        """Return the smallest view that holds a rectangle of face coordinates in all of the faces.

        Args:
            left: Smallest u. What is drawn must stay inside the rectangle, or a face would depend on its batch.
            right: Largest u.
            top: Smallest v.
            bottom: Largest v.
            rows: Indices of the faces to draw, at least one; None for all.
        """
        us, vs = np.array([left, right, left, right], np.float32), np.array([top, top, bottom, bottom], np.float32)
        some: slice | Int[np.ndarray, " R"] = slice(None) if rows is None else rows
        cos, sin = self._cos[some], self._sin[some]
        across = self._span(self.traits["dx"][some] + cos * us - sin * vs)
        down = self._span(self.traits["dy"][some] + sin * us + cos * vs)
        traits = self.traits if rows is None else {name: values[rows] for name, values in self.traits.items()}
        u, v = np.ascontiguousarray(self.u[some, down, across]), np.ascontiguousarray(self.v[some, down, across])
        return View(u, v, traits, self.pixel[some], self.pixels, (some, slice(None), down, across))

    def _span(self, positions: np.ndarray) -> slice:
        """Return the pixels between the extremes of some positions, one more on each side for soft edges."""
        low = int(np.floor((positions.min() + 1) * self.size / 2)) - 1
        high = int(np.ceil((positions.max() + 1) * self.size / 2)) + 1
        return slice(max(low, 0), max(min(high, self.size), 1))
