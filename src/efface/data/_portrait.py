"""Portraits: the layers of a drawn face, from the background to the hat. All lengths are face coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int

from efface.data._canvas import Canvas, Colour, Plane, Traits, View, arc, box, ellipse
from efface.data._traits import frame_colour, hair_colour, hsv, iris_colour, row, skin_colour

Codes: TypeAlias = Mapping[str, Int[np.ndarray, " B"]]
"""Class indices of the factors."""

HEAD_V = 0.10
"""Height of the middle of the head."""
_WHITE = np.full((1, 3, 1, 1), 0.97, np.float32)
_INK = np.array([0.13, 0.09, 0.09], np.float32).reshape(1, 3, 1, 1)
_F = np.float32


def paint_faces(traits: Traits, codes: Codes, size: int) -> Float32[np.ndarray, "B 3 S S"]:
    """Draw faces without noise; colours are about 0 to 1, not clipped."""
    canvas = Canvas(traits, size)
    skin, hair = skin_colour(codes["skin_tone"], traits), hair_colour(codes["hair_colour"], traits)
    _background(canvas)
    _hair_behind(canvas, hair)
    _body(canvas, skin)
    _head(canvas, skin)
    _eyes(canvas, skin)
    _brows(canvas, hair)
    _nose(canvas, skin)
    if len(lined := np.flatnonzero(codes["age_lines"])):
        _age_lines(canvas, skin, lined)
    _mouth(canvas, skin, codes["smiling"])
    _hair_in_front(canvas, hair)
    if len(wearers := np.flatnonzero(codes["glasses"])):
        _glasses(canvas, wearers)
    if len(wearers := np.flatnonzero(codes["hat"])):
        _hat(canvas, wearers)
    _light(canvas)
    return canvas.pixels


def _direction(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine in single precision."""
    return np.cos(angle.astype(np.float64)).astype(np.float32), np.sin(angle.astype(np.float64)).astype(np.float32)


def _background(canvas: Canvas) -> None:
    """A gradient and faint stripes."""
    t, view = canvas.traits, canvas.whole()
    first = hsv(t["back_hue"], t["back_saturation"], t["back_value"])
    second = hsv(t["back_hue"] + _F(0.08), t["back_saturation"], np.clip(t["back_value"] + t["back_fall"], 0, 1))
    cos, sin = _direction(t["back_angle"])
    ramp = _F(0.5) + (cos * view.u + sin * view.v) * _F(0.4)
    cos, sin = _direction(t["stripe_angle"])
    phase = (cos * view.u + sin * view.v) / t["stripe_width"]
    wave = np.abs(phase - np.floor(phase) - _F(0.5)) - _F(0.25)
    canvas.pixels[:] = first + (second - first) * ramp[:, None] + (wave * t["stripe"] * _F(4))[:, None]


def _skull(view: View, grow: np.ndarray) -> Plane:
    """Distance to the outline of the head, grown by the hair's volume."""
    t = view.traits
    return ellipse(view.u, view.v - _F(HEAD_V - 0.05), t["width"] + grow, t["height"] + grow)


def _hair_behind(canvas: Canvas, hair: Colour) -> None:
    view = canvas.window(-0.72, 0.72, -0.80, 1.05)
    t = view.traits
    middle = (t["hair_length"] + _F(HEAD_V)) / 2
    half = np.maximum((t["hair_length"] - _F(HEAD_V)) / 2, _F(0.02))
    width = t["width"] + t["hair_volume"]
    curtain = box(view.u, view.v - middle, width, half, np.minimum(half, _F(0.18)))
    # short hair is cropped at the ears: no skull below them
    crop = np.maximum(_skull(view, t["hair_volume"]), view.v - np.maximum(t["hair_length"], _F(0.12)))
    view.fill(np.minimum(crop, curtain), hair * _F(0.82))


def _body(canvas: Canvas, skin: Colour) -> None:
    """Shoulders, collar and neck."""
    view = canvas.window(-1.3, 1.3, 0.42, 1.5)
    t = view.traits
    cloth = hsv(t["cloth_hue"], t["cloth_saturation"], t["cloth_value"])
    view.fill(box(view.u, view.v - _F(1.45), t["shoulders"], _F(0.58), _F(0.35)), cloth)
    depth = _F(0.12) + _F(0.14) * t["collar"]
    view.fill(ellipse(view.u, view.v - _F(0.87), _F(0.26), depth), skin * _F(0.90))
    view.fill(box(view.u, view.v - _F(0.70), _F(0.19), _F(0.25), _F(0.08)), skin * _F(0.80))


def _head(canvas: Canvas, skin: Colour) -> None:
    """Ears, then the face: narrower at the jaw, darker toward its outline."""
    view = canvas.window(-0.66, 0.66, -0.62, 0.84)
    t = view.traits
    side = np.abs(view.u + t["yaw"] * _F(0.015))
    view.fill(ellipse(side - t["width"], view.v - _F(0.12), _F(0.07), _F(0.11)), skin * _F(0.84))
    v = view.v - _F(HEAD_V)
    narrow = _F(1) - t["jaw"] * np.clip(v / t["height"], 0, 1)
    distance = ellipse(view.u / narrow, v, t["width"], t["height"])
    shade = np.clip(_F(1.04) + distance * _F(0.55) + (_F(1) - narrow) * _F(0.3), 0.82, 1.04)
    shade -= t["yaw"] * view.u * _F(0.10)
    view.fill(distance, skin * shade[:, None])
    cheek = ellipse(np.abs(view.u + _F(0.04) * t["yaw"]) - _F(0.27), view.v - _F(0.29), _F(0.10), _F(0.075))
    view.paint(np.clip(-cheek * _F(16), 0, 1) * t["blush"], skin * np.array([1.04, 0.78, 0.76], _F)[:, None, None])


def _turned(view: View, depth: float) -> Plane:
    """Return u measured from the middle line of the face, which yaw moves aside."""
    return view.u - view.traits["yaw"] * _F(depth)


def _eyes(canvas: Canvas, skin: Colour) -> None:
    view = canvas.window(-0.44, 0.44, -0.08, 0.16)
    t = view.traits
    middle, v = _turned(view, 0.05), view.v - t["eye_height"]
    u = np.abs(middle) - t["eye_gap"]
    lids = ellipse(u, v, t["eye_width"], t["eye_open"])
    white = view.coverage(lids)
    view.paint(white, _WHITE)
    gaze = u - np.where(middle > 0, t["gaze_u"], -t["gaze_u"])  # both eyes look the same way
    far = np.sqrt(gaze * gaze + (v - t["gaze_v"]) * (v - t["gaze_v"]))
    view.paint(np.minimum(view.coverage(far - _F(0.056)), white), iris_colour(t))
    view.paint(np.minimum(view.coverage(far - _F(0.028)), white), _INK * _F(0.5))
    lash = np.maximum(np.abs(lids) - _F(0.011), v + _F(0.010))
    view.fill(lash, skin * _F(0.18), 0.9)
    view.fill(np.maximum(np.abs(lids) - _F(0.008), -v), skin * _F(0.55), 0.4)


def _brows(canvas: Canvas, hair: Colour) -> None:
    view = canvas.window(-0.46, 0.46, -0.26, 0.04)
    t = view.traits
    u = np.abs(_turned(view, 0.05)) - t["eye_gap"] - _F(0.005)
    v = view.v - t["eye_height"] + t["brow_rise"] + u * t["brow_slant"]
    distance = arc(u, v - _F(0.01), _F(0.095), -t["brow_bend"])
    view.fill(distance - t["brow_weight"], hair * _F(0.62), 0.9)


def _nose(canvas: Canvas, skin: Colour) -> None:
    view = canvas.window(-0.26, 0.26, 0.0, 0.40)
    t = view.traits
    tip = _F(0.05) + t["nose_length"]
    u, v = _turned(view, 0.09), view.v - tip
    lit = np.where(t["yaw"] > 0, _F(-1), _F(1))
    bridge = box(u * lit - _F(0.035), v + _F(0.11), _F(0.010), _F(0.10), _F(0.010))
    view.fill(bridge - _F(0.004), skin * _F(0.80), 0.65)
    view.fill(arc(u, v, t["nose_width"], _F(-4.0)) - _F(0.014), skin * _F(0.66), 0.9)
    nostril = ellipse(np.abs(u) - t["nose_width"] * _F(0.55), v + _F(0.004), _F(0.018), _F(0.012))
    view.fill(nostril, skin * _F(0.45), 0.8)


def _age_lines(canvas: Canvas, skin: Colour, rows: Int[np.ndarray, " R"]) -> None:
    """Lines of the forehead, crow's feet, bags under the eyes, folds from the nose to the mouth."""
    view = canvas.window(-0.50, 0.50, -0.34, 0.56, rows)
    t = view.traits
    u, v = _turned(view, 0.05), view.v - t["eye_height"]
    a = np.abs(u)
    lines = arc(u, v + _F(0.215), _F(0.20) * t["line_spread"], t["line_waves"])
    lines = np.minimum(lines, arc(u, v + _F(0.275), _F(0.15) * t["line_spread"], t["line_waves"]))
    corner = a - t["eye_gap"] - t["eye_width"] - _F(0.045)
    for slope in (-0.6, 0.6):
        lines = np.minimum(lines, arc(corner, v - _F(slope) * corner, _F(0.032), _F(0)))
    lines = np.minimum(lines, arc(a - t["eye_gap"], v - _F(0.125), _F(0.07), _F(-3.0)))
    down = view.v - _F(0.40)
    lines = np.minimum(lines, arc(down, a - _F(0.185) * t["line_spread"] - _F(0.6) * down, _F(0.085), _F(-4.0)))
    view.fill(lines - _F(0.009), skin[rows] * _F(0.56), t["line_strength"])


def _mouth(canvas: Canvas, skin: Colour, smiling: Int[np.ndarray, " B"]) -> None:
    """Lips, a dark line between them, teeth or a gap where they part. A smile is wider and turned up."""
    view = canvas.window(-0.36, 0.36, 0.28, 0.68)
    t = view.traits
    smile = smiling.astype(_F)[:, None, None]
    reach = t["mouth_width"] * (_F(1) + smile * (t["smile_width"] - _F(1)))
    bend = t["mouth_bend"] + smile * t["smile"]
    u = _turned(view, 0.06)
    a = np.abs(u) / reach
    profile = np.maximum(_F(1) - a * a, _F(0))
    # v from the line between the lips: its corners are raised by `bend`, its middle lowered by half of it
    v = view.v - t["mouth_height"] - bend * (profile - _F(0.5))
    ends = (a - _F(1)) * reach
    lips = np.maximum(np.maximum(-v - t["lip_upper"] * profile, v - t["lip_lower"] * profile), ends)
    tint = np.array([1.0, 0.62, 0.60], _F)[:, None, None] * (_F(0.80) + _F(0.1) * row(t, "lip_red"))
    view.fill(lips, skin * tint)
    gap = np.maximum(t["mouth_open"], _F(0)) * (_F(0.4) + _F(0.6) * smile) * profile
    inside = np.maximum(np.maximum(-v, v - gap), ends)
    view.fill(inside - _F(0.008), skin * np.array([0.36, 0.24, 0.24], _F)[:, None, None])
    # a shape thinner than a pixel covers no more of it than its height
    height = _F(0.75) * gap
    show = np.clip(height / view.pixel, 0, 1) * (_F(0.4) + _F(0.6) * smile)
    view.fill(np.maximum(np.maximum(-v, v - height), ends), _WHITE, show)


def _hair_in_front(canvas: Canvas, hair: Colour) -> None:
    """What falls on the forehead, above a bent hairline."""
    view = canvas.window(-0.72, 0.72, -0.80, 0.30)
    t = view.traits
    u = view.u - t["hair_part"]
    slope = _F(2) * t["hair_bend"] * u
    line = (view.v - t["hair_line"] - t["hair_bend"] * u * u) / np.sqrt(_F(1) + slope * slope)
    low = view.v - _F(0.10)
    distance = np.maximum(np.maximum(_skull(view, t["hair_volume"]), line), low)
    shine = _F(1) - _F(0.9) * np.clip(view.v + _F(0.55), 0, 0.3) + _F(0.12) * np.clip(-line * _F(8), 0, 1)
    view.fill(distance, hair * shine[:, None])


def _glasses(canvas: Canvas, rows: Int[np.ndarray, " R"]) -> None:
    """Lenses, frames, bridge and temples."""
    view = canvas.window(-0.58, 0.58, -0.20, 0.30, rows)
    t = view.traits
    middle = _turned(view, 0.05)
    u, v = np.abs(middle) - t["frame_width"] - _F(0.052), view.v - t["eye_height"] - t["frame_drop"]
    corner = t["frame_corner"] * np.minimum(t["frame_width"], t["frame_height"])
    lens = box(u, v, t["frame_width"], t["frame_height"], corner)
    frame = frame_colour(t)
    tint = hsv(t["lens_hue"], 0.5, 0.35)
    view.fill(lens, tint, np.maximum(t["lens_tint"], _F(0)))
    shifted = u * np.where(middle > 0, _F(1), _F(-1)) + v * _F(0.7) + t["frame_width"] * _F(0.45)
    glint = np.maximum(lens + _F(0.03), np.abs(shifted) - _F(0.02))
    view.fill(glint, _WHITE, 0.40)
    bridge = arc(middle, v + t["frame_height"] * _F(0.35), _F(0.055), _F(6.0)) - t["frame_weight"] * _F(0.8)
    edge = t["width"] - _F(0.02)
    temple = np.maximum(np.abs(v + t["frame_height"] * _F(0.4)) - t["frame_weight"] * _F(0.7), np.abs(view.u) - edge)
    temple = np.maximum(temple, -(u - t["frame_width"]))
    view.fill(np.minimum(np.minimum(np.abs(lens) - t["frame_weight"], bridge), temple), frame)


def _hat(canvas: Canvas, rows: Int[np.ndarray, " R"]) -> None:
    """A dome with a band, and a brim of any width."""
    view = canvas.window(-1.04, 1.04, -1.00, -0.08, rows)
    t = view.traits
    felt = hsv(t["hat_hue"], t["hat_saturation"], t["hat_value"])
    band = hsv(t["hat_hue"] + _F(0.45), t["hat_saturation"], np.clip(t["hat_value"] + t["hat_contrast"], 0.08, 0.95))
    v = view.v - t["hat_line"] - _F(0.12) * view.u * view.u
    width = t["width"] + t["hair_volume"] * _F(0.8)
    dome = np.maximum(ellipse(view.u, v, width + _F(0.02), t["hat_height"]), v)
    shade = _F(1.05) - _F(0.30) * np.clip(np.abs(view.u), 0, 0.7)
    view.fill(dome, felt * shade[:, None])
    view.fill(np.maximum(dome, -(v + t["hat_band"])), band)
    view.fill(box(view.u, v - _F(0.005), width + t["hat_brim"], _F(0.035), _F(0.03)), felt * _F(0.82))


def _light(canvas: Canvas) -> None:
    """A light from one side, and the camera's exposure."""
    t = canvas.traits
    cos, sin = _direction(t["light_angle"])
    strength = t["light"] * t["gain"]
    canvas.pixels *= (t["gain"] + cos * strength * canvas.u + sin * strength * canvas.v)[:, None]
