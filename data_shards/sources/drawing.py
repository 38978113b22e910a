"""Drawing a face whose every parameter is given: filled outlines first, then the camera's faults.

Outlines are in face coordinates, as `appearance` has them.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from privatenet.data_shards.sources.appearance import Array, Face, Scene

_SUPERSAMPLING = 3  # pixels drawn for one kept, along each axis
_ROUNDNESS = np.array([1, 1 / 1.35**2])  # of the head, which is longer than wide
_STEPS = np.linspace(0, 1, 9)
_ARCH = 4 * _STEPS * (1 - _STEPS)
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 24)), np.sin(np.linspace(0, 2 * np.pi, 24))], axis=1)


class _Pen:
    """Fills outlines given in face coordinates, after turning them with the head."""

    def __init__(self, canvas: Image.Image, scene: Scene) -> None:
        zoom = scene.scale * canvas.width
        cos, sin = zoom * np.cos(scene.angle), zoom * np.sin(scene.angle)
        self._draw = ImageDraw.Draw(canvas, "RGBA")
        self._turn = scene.turn
        self._to_pixels = np.array([(cos, sin), (-sin, cos)])
        self._origin = scene.centre * canvas.width

    def fill(self, points: Array, colour: Array, alpha: float = 1.0) -> None:
        """Fill the polygon `points` [n, 2] with an RGB colour of 0 to 255."""
        nearness = np.maximum(1 - points * points @ _ROUNDNESS, 0)  # the nearer a part is to us, the more it moves
        pixels = (points + nearness[:, None] * self._turn) @ self._to_pixels + self._origin
        red, green, blue = (min(max(int(channel), 0), 255) for channel in colour)
        self._draw.polygon(pixels.ravel().tolist(), fill=(red, green, blue, int(255 * alpha)))

    def stroke(self, points: Array, width: float, colour: Array, alpha: float = 1.0) -> None:
        """Draw a line along `points` [n, 2] that thins out at both ends."""
        along = np.empty_like(points)
        along[1:-1] = points[2:] - points[:-2]
        along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
        across = along[:, ::-1] * (-1, 1) * (width / 2 * _taper(len(points)) / np.hypot(*along.T))[:, None]
        self.fill(np.concatenate([points + across, (points - across)[::-1]]), colour, alpha)


def draw_face(face: Face, rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a face as an RGB picture of `size` x `size` pixels; the generator gives the camera's noise."""
    backdrop = Image.fromarray(face.scene.backdrop.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    canvas = backdrop.resize((size * _SUPERSAMPLING, size * _SUPERSAMPLING), Image.Resampling.NEAREST)
    pen = _Pen(canvas, face.scene)
    for part in (_draw_hair_behind, _draw_bust, _draw_head, _draw_wrinkles, _draw_beard, _draw_nose, _draw_mouth):
        part(pen, face)
    for x_sign in (-1, 1):
        _draw_eye(pen, face, x_sign)
    _draw_hair_front(pen, face)
    for x_sign in (-1, 1):
        _draw_brow(pen, face, x_sign)
        if face.glasses:
            _draw_glasses(pen, face, x_sign)
    return _photograph(canvas.reduce(_SUPERSAMPLING), face.scene, rng)


def _draw_hair_behind(pen: _Pen, face: Face) -> None:
    hair, top = face.hair, -face.height - face.hair.volume
    if hair.bun:
        pen.fill(_oval(0, top - 0.12, 0.38, 0.3), hair.colour * 0.85)
    if hair.length > 0:
        angle = np.linspace(-np.pi / 2, np.pi / 2, 15)
        crown = np.stack([np.sin(angle) * (1.08 + hair.volume), np.cos(angle) * top], axis=1)
        fall = np.linspace(0, hair.length, 12)
        edge = (1.08 + hair.volume) * (1 - 0.3 * (fall / hair.length) ** 8)  # rounded at the tips
        edge += 0.08 * np.sin(fall * 2) + hair.curls * np.abs(np.sin(fall * 9))
        right = np.stack([edge, fall], axis=1)
        pen.fill(np.concatenate([crown, right, right[::-1] * (-1, 1)]), hair.colour * 0.72)


def _draw_bust(pen: _Pen, face: Face) -> None:
    chin = face.height
    shade = _shade(face)
    pen.fill(np.array([(-0.42, 0.5), (0.42, 0.5), (0.48, chin + 0.6), (-0.48, chin + 0.6)]), shade)
    pen.fill(_oval(0, chin + 1.02, 1.5, 0.85), face.scene.clothes)
    pen.fill(_oval(0, chin + 0.18, 0.44, 0.2), shade)


def _draw_head(pen: _Pen, face: Face) -> None:
    shade = _shade(face)
    for x_sign in (-1, 1):
        pen.fill(_oval(x_sign * 0.99, 0.08 + face.low, 0.14, 0.22), face.skin * 0.93)
        pen.fill(_oval(x_sign * 1.01, 0.08 + face.low, 0.07, 0.13), shade)
        if face.earrings:
            pen.fill(_oval(x_sign * 1.03, 0.36 + face.low, 0.07, 0.07), np.array([235, 200, 90]))
    outline = _head_outline(face)
    pen.fill(outline, shade * 0.4 + face.skin * 0.6)
    shift = np.sign(face.scene.light) * (0.02, 0.02)
    for shrink in (0.975, 0.95):
        pen.fill(outline * shrink + shift * (1 - shrink) * 20, face.skin, 0.6)
    blush = 0.10 + 0.16 * min(face.expression.cheeks, 1.2)
    for x_sign in (-1, 1):
        for size in (1.0, 0.7):
            pen.fill(_oval(x_sign * 0.6, 0.38 + face.low, 0.22 * size, 0.16 * size), np.array([225, 80, 80]), blush)


def _draw_wrinkles(pen: _Pen, face: Face) -> None:
    line, alpha, low = _shade(face) * 0.72, 0.85 * face.wrinkles, face.low
    if alpha < 0.08:
        return
    for y in (-0.82, -0.70, -0.58):
        pen.stroke(_bow((-0.4, y + low), (0.4, y + low), -0.05), 0.045, line, alpha)
    for x_sign in (-1, 1):
        for y in (-0.12, 0.02):
            pen.stroke(_bow((x_sign * 0.70, low), (x_sign * 0.86, y * 1.3 + low), 0.01), 0.035, line, alpha)
        pen.stroke(_bow((x_sign * 0.24, 0.24 + low), (x_sign * 0.56, 0.22 + low), 0.07), 0.04, line, alpha)
        pen.stroke(_bow((x_sign * 0.26, 0.36 + low), (x_sign * 0.54, 0.74 + low), -0.05), 0.05, line, alpha)


def _draw_beard(pen: _Pen, face: Face) -> None:
    if face.hair.beard == 0:
        return
    outline = _head_outline(face) * 1.01
    outer = outline[outline[:, 1] > 0.12 * face.height]
    across = np.linspace(outer[-1, 0], outer[0, 0], 21)
    cheek = np.interp(np.abs(across), (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0), (0.53, 0.51, 0.57, 0.64, 0.58, 0.4, 0.1))
    pen.fill(np.concatenate([outer, np.stack([across, cheek], axis=1)]), face.hair.colour * 0.9, face.hair.beard)


def _draw_nose(pen: _Pen, face: Face) -> None:
    shade, size, tip = _shade(face), face.nose, 0.40 + face.low
    pen.fill(_oval(0, tip - 0.06, 0.15 * size, 0.12 * size), shade, 0.30)
    pen.fill(_oval(0, tip - 0.09, 0.08 * size, 0.07 * size), face.skin * 1.08, 0.8)
    pen.stroke(_bow((-0.17 * size, tip - 0.02), (0.17 * size, tip - 0.02), 0.09), 0.06, shade * 0.75)
    wrinkle = min(face.expression.nose_wrinkle, 1.0)
    if wrinkle > 0.2:
        for y in (-0.06, 0.04, 0.14):
            pen.stroke(_bow((-0.13, y + face.low), (0.13, y + face.low), -0.05), 0.045, shade * 0.65, wrinkle)
        for x_sign in (-1, 1):
            start, end = (x_sign * 0.19, tip - 0.1), (x_sign * 0.42, tip + 0.18)
            pen.stroke(_bow(start, end, -0.06), 0.05, shade * 0.65, wrinkle)


def _draw_mouth(pen: _Pen, face: Face) -> None:
    it, size, y = face.expression, face.mouth, 0.74 + 0.7 * face.low
    t = np.linspace(-1, 1, 19)
    x, middle = t * it.mouth_width * size, y - it.corners * size * (t * t - 0.4)
    bulge = (1 - np.abs(t) ** it.square) ** (1 / it.square) * it.mouth_open * size
    upper, lower = middle - it.upper * bulge, middle + (1 - it.upper) * bulge
    full = 0.075 * np.sqrt(1 - t * t)
    bow = full * (1 - 0.4 * np.exp(-((t / 0.15) ** 2)))
    pen.fill(_band(x * 1.06, upper - bow, lower + full * 1.2), face.lips)
    if it.mouth_open > 0.05:
        pen.fill(_band(x, upper, lower), np.array([80, 20, 28]))
        tongue = np.maximum(upper, lower - 0.3 * bulge)
        pen.fill(_band(x * 0.75, tongue, lower), np.array([205, 85, 90]))
        pen.fill(_band(x * 0.94, upper, upper + min(it.teeth, 0.9) * bulge), np.array([250, 247, 240]))
    else:
        pen.stroke(np.stack([x, middle], axis=1), 0.06, face.lips * 0.45)


def _draw_eye(pen: _Pen, face: Face, x_sign: int) -> None:
    it, size = face.expression, face.eye
    centre = np.array([x_sign * face.eye_gap, 0.02 + face.low])
    t = np.linspace(-1, 1, 13)  # from the inner corner to the outer one
    arch = np.sqrt(1 - t * t)
    upper = -size * 0.62 * it.lids * arch * (1 + it.lid_tilt * t) ** 0.8
    lower = size * (0.30 + 0.18 * it.lids - 0.12 * it.cheeks) * arch
    x = t * size * x_sign
    pen.fill(_band(x, upper, lower) + centre, np.array([250, 250, 248]))
    for radius, colour in ((0.50, face.iris), (0.26, np.array([15, 12, 14]))):
        disc = _oval(face.gaze, 0.0, radius * size, radius * size * 1.1)
        order = np.argsort(x)
        top, bottom = (np.interp(disc[:, 0], x[order], edge[order]) for edge in (upper, lower))
        disc[:, 1] = np.clip(disc[:, 1], top, bottom)
        pen.fill(disc + centre, colour)
    glint = max(-0.2, -0.3 * it.lids) * size
    pen.fill(_oval(face.gaze + 0.15 * size, glint, 0.13 * size, 0.13 * size) + centre, np.full(3, 255.0))
    dark = np.minimum(_shade(face) * 0.35, 60)
    pen.stroke(np.stack([x * 1.08, upper - 0.01], axis=1) + centre, 0.055 + 0.05 * face.lashes, dark)
    pen.stroke(np.stack([x, lower], axis=1)[3:] + centre, 0.03, _shade(face) * 0.7)
    pen.stroke(np.stack([x, upper - 0.10], axis=1)[2:-1] + centre, 0.03, _shade(face), 0.8)
    if face.lashes > 0.5:
        for i in (9, 11):
            root = np.array([x[i], upper[i]]) + centre
            tip = root + np.array([x_sign * 0.09, -0.10 * face.lashes])
            pen.stroke(_bow((root[0], root[1]), (tip[0], tip[1]), 0.02), 0.045, dark)


def _draw_brow(pen: _Pen, face: Face, x_sign: int) -> None:
    it, y = face.expression, -0.36 + face.low - 0.6 * (face.eye - 0.205)
    inner = (x_sign * (face.eye_gap - 0.22 - it.brow_close), y - it.brow_inner)
    outer = (x_sign * (face.eye_gap + 0.27), y - it.brow_outer + 0.04)
    colour = np.minimum(face.hair.colour * 0.8, face.skin * 0.62)
    pen.stroke(_bow(inner, outer, -0.07), face.brow, colour, max(face.hair.density, 0.6))


def _draw_glasses(pen: _Pen, face: Face, x_sign: int) -> None:
    frame, x, y = np.array([45, 40, 50]), x_sign * face.eye_gap, 0.04 + face.low
    rim = np.concatenate([_oval(x, y, 0.33, 0.28), _oval(x, y, 0.29, 0.24)[::-1]])
    pen.fill(rim, frame)
    pen.stroke(_bow((0, y - 0.05), (x_sign * (face.eye_gap - 0.29), y - 0.02), -0.02), 0.05, frame)
    pen.stroke(_bow((x_sign * (face.eye_gap + 0.3), y - 0.04), (x_sign * 0.99, y - 0.02), 0), 0.05, frame)


def _draw_hair_front(pen: _Pen, face: Face) -> None:
    hair = face.hair
    angle = np.linspace(-1.72, 1.72, 41)
    crown = np.cos(angle / 1.2)
    puff = 1 + hair.volume * crown**0.4 * (1 - hair.recession * crown) + hair.curls * np.abs(np.sin(angle * 8))
    outer = np.stack([np.sin(angle) * 1.01 * puff, -np.cos(angle) * face.height * puff], axis=1)
    t = np.linspace(1, -1, 33)
    middle = (hair.hairline + face.low / 2) * (1 - hair.recession) - 1.25 * face.height * hair.recession
    side = 0.1 + 0.25 * (hair.length > 0)
    line = middle + (side - middle) * np.abs(t) ** (hair.flatness + 3 * hair.recession)
    line += hair.sweep * t * (1 - t * t) + hair.curls * np.abs(np.sin(t * 10))
    inner = np.stack([t * 0.95, line], axis=1)
    ceiling = -face.height * np.sqrt(1 - (t * 0.95) ** 2)
    inner[:, 1] = np.maximum(inner[:, 1], ceiling)
    pen.fill(np.concatenate([outer, inner]), hair.colour, hair.density)
    if hair.density < 1:
        for x in (-0.16, 0.0, 0.12):
            pen.stroke(_bow((0, 0.04 - face.height), (x, -0.14 - face.height), -0.03), 0.05, hair.colour)
    elif hair.recession < 0.4:
        for depth, colour in ((0.96, hair.colour * 1.3 + 18), (0.88, hair.colour * 0.75)):
            shine = np.sign(hair.sweep) * angle[23:36]
            lock = np.stack([np.sin(shine) * depth, -np.cos(shine) * face.height * depth], axis=1)
            pen.stroke(lock, 0.06, colour, 0.55)


def _photograph(picture: Image.Image, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Add blur, gamma, uneven light and sensor noise."""
    curve = 255 * (np.arange(256, dtype=np.float32) / 255) ** scene.gamma  # a table: powers of each pixel are slow
    pixels = curve[np.asarray(picture.filter(ImageFilter.BoxBlur(scene.blur)))]
    ramp = np.linspace(-1, 1, picture.width)
    light = 1 + scene.light[0] * ramp[None, :] + scene.light[1] * ramp[:, None]
    pixels *= light.clip(0.5, 1.5).astype(np.float32)[..., None]
    pixels += np.float32(scene.noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shade(face: Face) -> Array:
    return face.skin * (0.78, 0.70, 0.68)


def _head_outline(face: Face) -> Array:
    """The head's outline [48, 2], clockwise from the top."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = -np.cos(angle)
    width = 1 + (face.jaw - 1) * np.maximum(y, 0) ** 1.5 + 0.10 * np.maximum(y, 0) * (1 - y)
    return np.stack([np.sin(angle) * width, y * face.height], axis=1)


def _oval(x: float, y: float, half_width: float, half_height: float) -> Array:
    return _CIRCLE * (half_width, half_height) + (x, y)


def _bow(start: tuple[float, float], end: tuple[float, float], sag: float) -> Array:
    """A parabola [9, 2] between two points whose middle hangs `sag` below the straight line."""
    x, y = (a + (b - a) * _STEPS for a, b in zip(start, end, strict=True))
    return np.stack([x, y + sag * _ARCH], axis=1)


@cache
def _taper(num: int) -> Array:
    """The share [num] of its width that a line has along its way."""
    share: Array = np.sin(np.linspace(0.05, 0.95, num) * np.pi) ** 0.6
    return share


def _band(x: Array, upper: Array, lower: Array) -> Array:
    """The outline [2n, 2] of the area between two lines over the same `x` [n]."""
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])], axis=1)
