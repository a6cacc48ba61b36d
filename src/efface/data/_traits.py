"""The traits of drawn faces: seeded random numbers per face, and the colours of skin, hair, clothes and frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64, Int

from efface.data._canvas import Traits

STREAMS = {"labels": 0, "traits": 1, "noise": 2, "splits": 3}
"""Independent random streams of one seed."""

RANGES: dict[str, tuple[float, float]] = {
    # pose: factor, radians, and half canvases
    "scale": (1.05, 1.22),
    "tilt": (-0.13, 0.13),
    "dx": (-0.08, 0.08),
    "dy": (-0.12, 0.00),
    "yaw": (-1.0, 1.0),
    # light
    "light_angle": (0.0, 2 * np.pi),
    "light": (0.0, 0.20),
    "gain": (0.90, 1.08),
    "noise": (0.004, 0.018),
    # background
    "back_hue": (0.0, 1.0),
    "back_saturation": (0.05, 0.38),
    "back_value": (0.50, 0.95),
    "back_fall": (-0.25, 0.25),
    "back_angle": (0.0, 2 * np.pi),
    "stripe": (-0.05, 0.05),
    "stripe_angle": (0.0, 2 * np.pi),
    "stripe_width": (0.25, 0.7),
    # clothes
    "cloth_hue": (0.0, 1.0),
    "cloth_saturation": (0.1, 0.7),
    "cloth_value": (0.25, 0.95),
    "collar": (0.0, 1.0),
    "shoulders": (0.62, 0.85),
    # head
    "width": (0.46, 0.53),
    "height": (0.60, 0.66),
    "jaw": (0.04, 0.22),
    "skin_tone_shift": (-1.0, 1.0),
    "skin_warmth": (-1.0, 1.0),
    "blush": (0.0, 0.35),
    # hair
    "hair_shift": (-1.0, 1.0),
    "hair_volume": (0.05, 0.14),
    "hair_length": (-0.05, 1.0),
    "hair_line": (-0.40, -0.27),
    "hair_bend": (0.5, 2.0),
    "hair_part": (-0.16, 0.16),
    # eyes and brows
    "eye_gap": (0.195, 0.225),
    "eye_height": (0.02, 0.06),
    "eye_width": (0.085, 0.105),
    "eye_open": (0.054, 0.074),
    "gaze_u": (-0.025, 0.025),
    "gaze_v": (-0.012, 0.012),
    "iris_hue": (0.05, 0.62),
    "iris_value": (0.25, 0.60),
    "brow_rise": (0.115, 0.145),
    "brow_bend": (-2.2, -0.2),
    "brow_slant": (-0.32, 0.04),
    "brow_weight": (0.012, 0.024),
    # nose and mouth
    "nose_length": (0.23, 0.28),
    "nose_width": (0.05, 0.085),
    "mouth_height": (0.43, 0.48),
    "mouth_width": (0.14, 0.175),
    "mouth_bend": (-0.016, 0.014),
    "smile": (0.070, 0.110),
    "smile_width": (1.20, 1.42),
    "mouth_open": (-0.085, 0.075),
    "lip_upper": (0.016, 0.028),
    "lip_lower": (0.024, 0.042),
    "lip_red": (0.0, 1.0),
    # age lines
    "line_strength": (0.75, 1.0),
    "line_waves": (-0.3, 0.6),
    "line_spread": (0.8, 1.1),
    # glasses
    "frame_width": (0.135, 0.165),
    "frame_height": (0.100, 0.145),
    "frame_corner": (0.25, 1.0),
    "frame_weight": (0.016, 0.030),
    "frame_kind": (0.0, 1.0),
    "frame_hue": (0.0, 1.0),
    "frame_drop": (0.0, 0.025),
    "lens_tint": (-0.5, 0.42),
    "lens_hue": (0.0, 1.0),
    # hat
    "hat_hue": (0.0, 1.0),
    "hat_saturation": (0.25, 0.8),
    "hat_value": (0.3, 0.9),
    "hat_height": (0.36, 0.52),
    "hat_brim": (0.05, 0.34),
    "hat_line": (-0.36, -0.30),
    "hat_band": (0.05, 0.11),
    "hat_contrast": (-0.5, 0.35),
}
"""Range of each trait, uniform and independent of the labels. Lengths are face coordinates."""

SKIN = ((0.97, 0.82, 0.72), (0.86, 0.66, 0.49), (0.63, 0.43, 0.30), (0.41, 0.27, 0.20))
HAIR = ((0.11, 0.10, 0.11), (0.40, 0.25, 0.15), (0.90, 0.74, 0.42), (0.68, 0.28, 0.12))
IRIS = ((0.32, 0.20, 0.11), (0.30, 0.45, 0.68), (0.30, 0.48, 0.30))


class Stream:
    """Random numbers of one seed and purpose, in one order however they are asked for.

    Raw 64-bit words of Philox are part of numpy's compatibility promise; its distributions are not.
    """

    def __init__(self, seed: int, purpose: str):
        self._source = np.random.Philox(key=np.array([seed, STREAMS[purpose]], np.uint64))

    def uniform(self, n: int, columns: int) -> Float64[np.ndarray, "N P"]:
        """Return the next ``n`` rows of numbers in [0, 1)."""
        words = np.asarray(self._source.random_raw(n * columns), np.uint64)
        return ((words >> np.uint64(11)) * 2.0**-53).reshape(n, columns)

    def grain(self, n: int, size: int) -> Float32[np.ndarray, "N 3 S S"]:
        """Return the next ``n`` images of noise with mean 0 and variance 1: the sum of two uniform bytes."""
        values = 3 * size * size
        words = -(-values // 4)  # four values a word, whole words per image
        raw = np.asarray(self._source.random_raw(n * words), np.uint64).astype("<u8").view(np.uint8)
        pairs = raw.reshape(n, 2, 4 * words)[:, :, :values]
        noise = np.add(pairs[:, 0], pairs[:, 1], dtype=np.float32)
        noise -= np.float32(255)
        noise *= np.float32(1 / np.sqrt((256**2 - 1) / 6))
        return noise.reshape(n, 3, size, size)


def draw_traits(uniform: Float64[np.ndarray, "B P"]) -> dict[str, Float32[np.ndarray, "B 1 1"]]:
    """Scale one row of numbers per face to the ranges of the traits."""
    traits = {}
    for (name, (low, high)), column in zip(RANGES.items(), uniform.T, strict=True):
        traits[name] = (low + (high - low) * column).astype(np.float32)[:, None, None]
    return traits


def hsv(hue: np.ndarray, saturation: np.ndarray | float, value: np.ndarray | float) -> Float32[np.ndarray, "B 3 1 1"]:
    """Return the colours of hue, saturation and value, each ``[B, 1, 1]`` in 0 to 1.

    Source: A. R. Smith, Color Gamut Transform Pairs, SIGGRAPH 1978, in the closed form without cases.
    """
    channels = []
    for n in (5, 3, 1):
        k = (n + 6 * hue) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, 1).astype(np.float32)


def skin_colour(tone: Int[np.ndarray, " B"], traits: Traits) -> Float32[np.ndarray, "B 3 1 1"]:
    """Return skin of each class, with its own lightness and warmth."""
    base = np.array(SKIN)[tone][:, :, None, None]
    warmth = np.array([0.03, 0.0, -0.04])[None, :, None, None] * traits["skin_warmth"][:, None]
    return (base * (1 + 0.06 * traits["skin_tone_shift"][:, None] + warmth)).astype(np.float32)


def hair_colour(hair: Int[np.ndarray, " B"], traits: Traits) -> Float32[np.ndarray, "B 3 1 1"]:
    """Return hair of each class, lighter or darker by up to 15 %."""
    base = np.array(HAIR)[hair][:, :, None, None]
    return (base * (1 + 0.15 * traits["hair_shift"][:, None])).astype(np.float32)


def iris_colour(traits: Traits) -> Float32[np.ndarray, "B 3 1 1"]:
    """Return brown, blue or green eyes."""
    kind = np.clip((traits["iris_hue"][:, 0, 0] - 0.05) / 0.57 * len(IRIS), 0, len(IRIS) - 1).astype(int)
    return (np.array(IRIS)[kind][:, :, None, None] * (0.6 + traits["iris_value"][:, None])).astype(np.float32)


def frame_colour(traits: Traits) -> Float32[np.ndarray, "B 3 1 1"]:
    """Return dark frames (half of them), steel, or bright plastic."""
    kind = traits["frame_kind"]
    dark = hsv(traits["frame_hue"], 0.3, 0.08 + 0.2 * kind)
    steel = hsv(0.55 + 0.1 * traits["frame_hue"], 0.18, 0.42)
    plastic = hsv(0.45 + 0.55 * traits["frame_hue"], 0.85, 0.60)  # no yellow or green: they are lost on skin
    pick = kind[:, None]
    return np.where(pick < 0.55, dark, np.where(pick < 0.72, steel, plastic))


def row(traits: Mapping[str, np.ndarray], name: str) -> Float32[np.ndarray, "B 1 1 1"]:
    """Return a trait ready to broadcast over channels and pixels."""
    return traits[name][:, None]
