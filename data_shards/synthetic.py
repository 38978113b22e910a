"""Rendered faces: a data set that needs no download, learnable and leaking by itself.

Face coordinates: the origin is the middle of the head, x to the viewer's right, y down, and the head is 2 units wide.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

EMOTIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
GENDERS = ("male", "female")
AGE_GROUPS = ("0-3", "4-19", "20-39", "40-69", "70+")

_EMOTION_SHARES = np.array([0.12, 0.06, 0.08, 0.30, 0.14, 0.08, 0.22])
_GENDER_SHARES = np.array([0.45, 0.55])
_AGE_SHARES = np.array([0.08, 0.16, 0.44, 0.24, 0.08])
_TIED_GENDER = (0, 1, 1, 1, 1, 0, 0)  # by emotion; chosen so that the overall shares move little with the correlation
_TIED_AGE = (0, 1, 4, 2, 3, 1, 2)
_TIED_SHARE = 0.9  # of the tied class at correlation 1; the rest follows the overall shares

_SUPERSAMPLING = 3  # pixels drawn for one kept, along each axis
_YEARS = ((0.0, 4.0), (4.0, 20.0), (20.0, 40.0), (40.0, 70.0), (70.0, 92.0))
_SKINS = np.array([(255, 226, 205), (243, 199, 163), (214, 156, 112), (150, 98, 64), (92, 58, 40)], dtype=float)
_HAIRS = np.array([(30, 25, 28), (62, 40, 28), (106, 66, 36), (140, 60, 30), (204, 160, 92)], dtype=float)
_IRISES = np.array([(78, 48, 28), (60, 40, 30), (70, 110, 150), (80, 120, 80)], dtype=float)

Array = NDArray[np.float64]

_ROUNDNESS = np.array([1, 1 / 1.35**2])  # of the head, which is longer than wide
_STEPS = np.linspace(0, 1, 9)
_ARCH = 4 * _STEPS * (1 - _STEPS)
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 24)), np.sin(np.linspace(0, 2 * np.pi, 24))], axis=1)


@dataclass(frozen=True)
class _Expression:
    """What the emotion does to a face: lengths in face units, upwards positive; `lids` is 1 at rest."""

    brow_inner: float  # raise of the brow's inner end
    brow_outer: float
    brow_close: float  # how far the brows are drawn together
    lids: float  # eye opening
    lid_tilt: float  # positive: the upper lid slopes down towards the nose
    mouth_width: float  # half of it
    mouth_open: float
    corners: float  # raise of the mouth's corners
    square: float  # exponent of the mouth's outline: 2 is an ellipse, 6 nearly a box
    upper: float  # share of the opening above the mouth's middle line
    teeth: float  # share of the opening that the upper teeth fill
    nose_wrinkle: float
    cheeks: float


# One or more faces for each emotion; a drawn face lies between the last one, neutral, and a little beyond its target.
_TARGETS = (
    ((0.25, 0.27, 0.00, 1.60, 0.00, 0.23, 0.50, 0.00, 2.0, 0.45, 0.10, 0.0, 0.0),),
    ((0.24, 0.02, 0.08, 1.60, -0.10, 0.42, 0.22, -0.12, 4.0, 0.50, 0.45, 0.0, 0.0),),
    (
        (-0.12, -0.05, 0.05, 0.58, 0.15, 0.33, 0.20, -0.20, 2.6, 0.85, 0.55, 1.0, 0.3),
        (-0.13, -0.02, 0.05, 0.50, 0.20, 0.31, 0.12, -0.22, 2.6, 0.90, 0.30, 1.0, 0.3),
    ),
    (
        (0.05, 0.06, 0.00, 0.80, 0.00, 0.50, 0.30, 0.20, 2.0, 0.08, 0.55, 0.0, 1.0),
        (0.04, 0.05, 0.00, 0.72, 0.00, 0.47, 0.03, 0.23, 2.0, 0.40, 0.00, 0.0, 1.0),
    ),
    ((0.20, -0.13, 0.04, 0.70, -0.50, 0.31, 0.03, -0.20, 2.0, 0.40, 0.00, 0.0, 0.0),),
    (
        (-0.20, 0.10, 0.09, 0.85, 0.50, 0.30, 0.01, -0.06, 2.0, 0.40, 0.00, 0.1, 0.0),
        (-0.21, 0.10, 0.09, 0.95, 0.50, 0.36, 0.24, -0.06, 6.0, 0.50, 0.48, 0.2, 0.0),
    ),
    ((0.00, 0.00, 0.00, 1.00, 0.00, 0.34, 0.02, 0.01, 2.0, 0.40, 0.00, 0.0, 0.0),),
)
_EXPRESSION_NOISE = (0.035, 0.035, 0.015, 0.09, 0.08, 0.025, 0.012, 0.03, 0.1, 0.04, 0.05, 0.05, 0.12)


@dataclass(frozen=True, eq=False)
class _Hair:
    colour: Array
    length: float  # how far below the head's middle it reaches; below 0, no hair behind the head
    volume: float
    density: float  # 0 to 1, opacity
    hairline: float  # y of its middle
    flatness: float  # exponent of the hairline: high for a fringe
    sweep: float  # how far the parting pulls the hairline to one side
    recession: float  # 0 to 1
    curls: float
    bun: bool
    beard: float  # 0 none, up to 1 for a full one


@dataclass(frozen=True, eq=False)
class _Scene:
    """Everything about the picture that says nothing of the person: pose, light, backdrop, camera."""

    centre: Array  # of the head, as a share of the picture
    scale: float  # half a head's width, as a share of the picture
    angle: float  # radians
    turn: Array  # how far the middle of the face moves for yaw and pitch, in face units
    backdrop: Array  # [4, 4, 3] coarse colours
    clothes: Array
    light: Array  # gradient of the brightness over the picture, as (x, y)
    gamma: float
    blur: float  # pixels
    noise: float  # standard deviation, of 255


@dataclass(frozen=True, eq=False)
class _Face:
    expression: _Expression
    hair: _Hair
    scene: _Scene
    skin: Array
    iris: Array
    lips: Array
    height: float  # half of the head's
    jaw: float  # width of the jaw
    low: float  # how far the features sit below an adult's
    eye: float  # size
    eye_gap: float  # from the nose's line to an eye's middle
    gaze: float
    brow: float  # thickness
    lashes: float
    nose: float  # size
    mouth: float  # size
    wrinkles: float  # 0 to 1
    glasses: bool
    earrings: bool


class _Pen:
    """Fills outlines given in face coordinates, after turning them with the head."""

    def __init__(self, canvas: Image.Image, scene: _Scene) -> None:
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


def draw_labels(num: int, correlation: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the labels of `num` faces as int64 [num, 3]: emotion, gender, age group.

    `correlation` mixes each emotion's own gender and age shares with the overall ones: at 0 the three labels are
    independent, at 1 the emotion nearly decides the other two. ValueError outside [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation between emotion and private attributes is {correlation}; accepted: 0 to 1")
    emotion = rng.choice(len(EMOTIONS), size=num, p=_EMOTION_SHARES)
    gender = _draw_private(emotion, _GENDER_SHARES, _TIED_GENDER, correlation, rng)
    age_group = _draw_private(emotion, _AGE_SHARES, _TIED_AGE, correlation, rng)
    return np.stack([emotion, gender, age_group], axis=1).astype(np.int64)


def render_face(emotion: int, gender: int, age_group: int, rng: np.random.Generator, size: int = 100) -> Image.Image:
    """Draw one face with these class indices as an RGB picture of `size` x `size` pixels.

    The emotion moves mouth, brows, eyes, nose and cheeks only; gender and age show in hair, shape, colours and lines.
    The same generator state gives the same picture. Labels out of range are not looked for.
    """
    face = _sample_face(emotion, gender, age_group, rng)
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


def _draw_private(
    emotion: NDArray[np.int64], shares: Array, tied: tuple[int, ...], correlation: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a private class for each emotion [num], from a mix of `shares` and the class tied to the emotion."""
    own = _TIED_SHARE * np.eye(len(shares))[list(tied)] + (1 - _TIED_SHARE) * shares
    bounds = np.cumsum((1 - correlation) * shares + correlation * own, axis=1)[:, :-1]
    drawn: NDArray[np.int64] = (rng.random(len(emotion))[:, None] >= bounds[emotion]).sum(axis=1)
    return drawn


def _sample_face(emotion: int, gender: int, age_group: int, rng: np.random.Generator) -> _Face:
    female = GENDERS[gender] == "female"
    years = rng.uniform(*_YEARS[age_group])
    feminine = np.clip((0.75 if female else 0.25) + 0.25 * rng.standard_normal(), 0, 1)  # of the drawn shape
    baby = np.clip(1 - years / 6, 0, 1)
    child = np.clip(1 - years / 19 + 0.08 * rng.standard_normal(), 0, 1)
    grown = years >= 14
    tone = rng.uniform(0, 1)
    skin = _blend(_SKINS, tone) + rng.normal(0, 4, 3)
    made_up = female and grown and rng.random() < 0.6
    red_lips = np.array([200, 60, 80]) + rng.normal(0, 15, 3)
    return _Face(
        expression=_sample_expression(emotion, rng),
        hair=_sample_hair(female, years, tone, rng),
        scene=_sample_scene(rng),
        skin=skin,
        iris=_IRISES[rng.integers(2 if tone > 0.5 else 4)],
        lips=red_lips if made_up else skin * (0.82, 0.66, 0.66),
        height=1.24 - 0.16 * child - 0.06 * baby + 0.04 * rng.standard_normal(),
        jaw=0.93 - 0.17 * feminine + 0.07 * child + 0.06 * baby + 0.03 * rng.standard_normal(),
        low=0.09 * child + 0.10 * baby + 0.02 * rng.standard_normal(),
        eye=0.205 + 0.035 * child + 0.05 * baby + 0.012 * feminine + 0.008 * rng.standard_normal(),
        eye_gap=0.41 + 0.02 * rng.standard_normal(),
        gaze=0.05 * rng.standard_normal(),
        brow=(0.125 - 0.05 * feminine) * (1 - 0.35 * child - 0.3 * baby),
        lashes=rng.uniform(0.6, 1) if rng.random() < (0.65 if female else 0.08) else rng.uniform(0, 0.25),
        nose=(1 - 0.15 * feminine) * (1 - 0.3 * child - 0.2 * baby) + 0.05 * rng.standard_normal(),
        mouth=1 - 0.12 * child - 0.12 * baby + 0.04 * rng.standard_normal(),
        wrinkles=float(np.clip((years - 36) / 36 + 0.12 * rng.standard_normal(), 0, 1)),
        glasses=bool(rng.random() < (0.0 if years < 6 else 0.12 if years < 50 else 0.3)),
        earrings=bool(female and grown and rng.random() < 0.35),
    )


def _sample_expression(emotion: int, rng: np.random.Generator) -> _Expression:
    neutral = np.array(_TARGETS[-1][0])
    target = np.array(_TARGETS[emotion][rng.integers(len(_TARGETS[emotion]))])
    intensity = 1.1 - 0.9 * rng.beta(1.2, 1.8)  # a faint one now and then: no label is beyond doubt
    drawn = neutral + intensity * (target - neutral) + rng.normal(0, _EXPRESSION_NOISE)
    return _Expression(*np.maximum(drawn, (-1, -1, -1, 0.2, -1, 0.1, 0, -1, 1.8, 0, 0, 0, 0)).tolist())


def _sample_hair(female: bool, years: float, tone: float, rng: np.random.Generator) -> _Hair:
    toddler, old = years < 4, years >= 70
    colour = _blend(_HAIRS, rng.beta(1.0, 3.0) if tone > 0.5 else rng.uniform())
    grey = np.clip((years - 42) / 30 + 0.15 * rng.standard_normal(), 0, 1)
    colour = colour + grey * (np.full(3, rng.uniform(165, 235)) - colour)
    long = not toddler and rng.random() < ((0.7 if old else 0.8) if female else 0.12)
    fringe = rng.random() < (0.4 if female else 0.2) and not old
    balding = np.clip((years - 30) / 45, 0, 1) * (0.15 if female else 1.0) * rng.uniform(0.2, 1.0)
    bearded = not female and years >= 20 and rng.random() < 0.45
    return _Hair(
        colour=colour,
        length=rng.uniform(0.6, 1.7) if long else -1.0,
        volume=rng.uniform(0.02, 0.04) if toddler else rng.uniform(0.06, 0.16) + 0.06 * female,
        density=rng.uniform(0.15, 0.65) * min(1.0, 0.4 + years / 4) if toddler else 1.0,
        hairline=-1.0 if toddler else rng.uniform(-0.62, -0.52) if fringe else rng.uniform(-0.86, -0.70),
        flatness=6.0 if fringe else rng.uniform(2.2, 3.5),
        sweep=rng.uniform(-0.35, 0.35) * (0.3 if fringe else 1.0),
        recession=float(balding),
        curls=rng.uniform(0.03, 0.07) if not toddler and rng.random() < 0.25 + 0.4 * tone else 0.0,
        bun=bool(female and not toddler and not long and rng.random() < 0.5),
        beard=rng.choice([0.22, 0.35, 0.9]) if bearded else 0.0,
    )


def _sample_scene(rng: np.random.Generator) -> _Scene:
    base = rng.uniform(95, 215) + rng.normal(0, 22, 3)
    return _Scene(
        centre=np.array([0.5, 0.5]) + rng.normal(0, 0.018, 2),
        scale=rng.uniform(0.285, 0.335),
        angle=float(np.radians(np.clip(rng.normal(0, 6), -12, 12))),
        turn=np.clip(rng.normal(0, (0.09, 0.035)), (-0.2, -0.08), (0.2, 0.08)),
        backdrop=np.clip(base + rng.normal(0, 13, (4, 4, 1)) + rng.normal(0, 9, (4, 4, 3)), 0, 255),
        clothes=rng.uniform(30, 230, 3),
        light=rng.normal(0, 0.16, 2),
        gamma=float(np.exp(rng.normal(0, 0.14))),
        blur=rng.uniform(0, 0.7),
        noise=rng.uniform(1, 5),
    )


def _draw_hair_behind(pen: _Pen, face: _Face) -> None:
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


def _draw_bust(pen: _Pen, face: _Face) -> None:
    chin = face.height
    shade = _shade(face)
    pen.fill(np.array([(-0.42, 0.5), (0.42, 0.5), (0.48, chin + 0.6), (-0.48, chin + 0.6)]), shade)
    pen.fill(_oval(0, chin + 1.02, 1.5, 0.85), face.scene.clothes)
    pen.fill(_oval(0, chin + 0.18, 0.44, 0.2), shade)


def _draw_head(pen: _Pen, face: _Face) -> None:
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


def _draw_wrinkles(pen: _Pen, face: _Face) -> None:
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


def _draw_beard(pen: _Pen, face: _Face) -> None:
    if face.hair.beard == 0:
        return
    outline = _head_outline(face) * 1.01
    outer = outline[outline[:, 1] > 0.12 * face.height]
    across = np.linspace(outer[-1, 0], outer[0, 0], 21)
    cheek = np.interp(np.abs(across), (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0), (0.53, 0.51, 0.57, 0.64, 0.58, 0.4, 0.1))
    pen.fill(np.concatenate([outer, np.stack([across, cheek], axis=1)]), face.hair.colour * 0.9, face.hair.beard)


def _draw_nose(pen: _Pen, face: _Face) -> None:
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


def _draw_mouth(pen: _Pen, face: _Face) -> None:
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


def _draw_eye(pen: _Pen, face: _Face, x_sign: int) -> None:
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


def _draw_brow(pen: _Pen, face: _Face, x_sign: int) -> None:
    it, y = face.expression, -0.36 + face.low - 0.6 * (face.eye - 0.205)
    inner = (x_sign * (face.eye_gap - 0.22 - it.brow_close), y - it.brow_inner)
    outer = (x_sign * (face.eye_gap + 0.27), y - it.brow_outer + 0.04)
    colour = np.minimum(face.hair.colour * 0.8, face.skin * 0.62)
    pen.stroke(_bow(inner, outer, -0.07), face.brow, colour, max(face.hair.density, 0.6))


def _draw_glasses(pen: _Pen, face: _Face, x_sign: int) -> None:
    frame, x, y = np.array([45, 40, 50]), x_sign * face.eye_gap, 0.04 + face.low
    rim = np.concatenate([_oval(x, y, 0.33, 0.28), _oval(x, y, 0.29, 0.24)[::-1]])
    pen.fill(rim, frame)
    pen.stroke(_bow((0, y - 0.05), (x_sign * (face.eye_gap - 0.29), y - 0.02), -0.02), 0.05, frame)
    pen.stroke(_bow((x_sign * (face.eye_gap + 0.3), y - 0.04), (x_sign * 0.99, y - 0.02), 0), 0.05, frame)


def _draw_hair_front(pen: _Pen, face: _Face) -> None:
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


def _photograph(picture: Image.Image, scene: _Scene, rng: np.random.Generator) -> Image.Image:
    """Add blur, gamma, uneven light and sensor noise."""
    curve = 255 * (np.arange(256, dtype=np.float32) / 255) ** scene.gamma  # a table: powers of each pixel are slow
    pixels = curve[np.asarray(picture.filter(ImageFilter.BoxBlur(scene.blur)))]
    ramp = np.linspace(-1, 1, picture.width)
    light = 1 + scene.light[0] * ramp[None, :] + scene.light[1] * ramp[:, None]
    pixels *= light.clip(0.5, 1.5).astype(np.float32)[..., None]
    pixels += np.float32(scene.noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shade(face: _Face) -> Array:
    return face.skin * (0.78, 0.70, 0.68)


def _head_outline(face: _Face) -> Array:
    """The head's outline [48, 2], clockwise from the top."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = -np.cos(angle)
    width = 1 + (face.jaw - 1) * np.maximum(y, 0) ** 1.5 + 0.10 * np.maximum(y, 0) * (1 - y)
    return np.stack([np.sin(angle) * width, y * face.height], axis=1)


def _blend(colours: Array, where: float) -> Array:
    """The colour [3] at `where`, from 0 to 1, along a row of colours [n, 3]."""
    return np.array([np.interp(where * (len(colours) - 1), np.arange(len(colours)), c) for c in colours.T])


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
