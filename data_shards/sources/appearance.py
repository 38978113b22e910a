"""What a rendered face looks like before it is drawn: its parameters, and how classes and chance decide them.

Face coordinates: the origin is the middle of the head, x to the viewer's right, y down, and the head is 2 units wide.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Points [n, 2] in face coordinates, or RGB colours [3] of 0 to 255, unless said otherwise."""

_YEARS = {"0-3": (0.0, 4.0), "4-19": (4.0, 20.0), "20-39": (20.0, 40.0), "40-69": (40.0, 70.0), "70+": (70.0, 92.0)}
_SKINS = np.array([(255, 226, 205), (243, 199, 163), (214, 156, 112), (150, 98, 64), (92, 58, 40)], dtype=float)
_HAIRS = np.array([(30, 25, 28), (62, 40, 28), (106, 66, 36), (140, 60, 30), (204, 160, 92)], dtype=float)
_IRISES = np.array([(78, 48, 28), (60, 40, 30), (70, 110, 150), (80, 120, 80)], dtype=float)


@dataclass(frozen=True)
class Expression:
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


# One or more faces for each emotion; a drawn face lies between neutral and a little beyond its target.
_TARGETS = {
    "surprise": ((0.25, 0.27, 0.00, 1.60, 0.00, 0.23, 0.50, 0.00, 2.0, 0.45, 0.10, 0.0, 0.0),),
    "fear": ((0.24, 0.02, 0.08, 1.60, -0.10, 0.42, 0.22, -0.12, 4.0, 0.50, 0.45, 0.0, 0.0),),
    "disgust": (
        (-0.12, -0.05, 0.05, 0.58, 0.15, 0.33, 0.20, -0.20, 2.6, 0.85, 0.55, 1.0, 0.3),
        (-0.13, -0.02, 0.05, 0.50, 0.20, 0.31, 0.12, -0.22, 2.6, 0.90, 0.30, 1.0, 0.3),
    ),
    "happiness": (
        (0.05, 0.06, 0.00, 0.80, 0.00, 0.50, 0.30, 0.20, 2.0, 0.08, 0.55, 0.0, 1.0),
        (0.04, 0.05, 0.00, 0.72, 0.00, 0.47, 0.03, 0.23, 2.0, 0.40, 0.00, 0.0, 1.0),
    ),
    "sadness": ((0.20, -0.13, 0.04, 0.70, -0.50, 0.31, 0.03, -0.20, 2.0, 0.40, 0.00, 0.0, 0.0),),
    "anger": (
        (-0.20, 0.10, 0.09, 0.85, 0.50, 0.30, 0.01, -0.06, 2.0, 0.40, 0.00, 0.1, 0.0),
        (-0.21, 0.10, 0.09, 0.95, 0.50, 0.36, 0.24, -0.06, 6.0, 0.50, 0.48, 0.2, 0.0),
    ),
    "neutral": ((0.00, 0.00, 0.00, 1.00, 0.00, 0.34, 0.02, 0.01, 2.0, 0.40, 0.00, 0.0, 0.0),),
}
_EXPRESSION_NOISE = (0.035, 0.035, 0.015, 0.09, 0.08, 0.025, 0.012, 0.03, 0.1, 0.04, 0.05, 0.05, 0.12)


@dataclass(frozen=True, eq=False)
class Hair:
    """The hair on a head and on a chin."""

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
class Scene:
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
class Face:
    """One face in one picture; sizes without a unit are in face units or shares of an adult's."""

    expression: Expression
    hair: Hair
    scene: Scene
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


def sample_face(emotion: str, gender: str, age_group: str, rng: np.random.Generator) -> Face:
    """Draw the parameters of one face with these classes, given by their names.

    The emotion decides the expression only; gender and age decide, with chance, all that is left of the person.
    """
    female = gender == "female"
    years = rng.uniform(*_YEARS[age_group])
    feminine = np.clip((0.75 if female else 0.25) + 0.25 * rng.standard_normal(), 0, 1)  # of the drawn shape
    baby = np.clip(1 - years / 6, 0, 1)
    child = np.clip(1 - years / 19 + 0.08 * rng.standard_normal(), 0, 1)
    grown = years >= 14
    tone = rng.uniform(0, 1)
    skin = _blend(_SKINS, tone) + rng.normal(0, 4, 3)
    made_up = female and grown and rng.random() < 0.6
    red_lips = np.array([200, 60, 80]) + rng.normal(0, 15, 3)
    return Face(
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


def _sample_expression(emotion: str, rng: np.random.Generator) -> Expression:
    neutral = np.array(_TARGETS["neutral"][0])
    target = np.array(_TARGETS[emotion][rng.integers(len(_TARGETS[emotion]))])
    intensity = 1.1 - 0.9 * rng.beta(1.2, 1.8)  # a faint one now and then: no label is beyond doubt
    drawn = neutral + intensity * (target - neutral) + rng.normal(0, _EXPRESSION_NOISE)
    return Expression(*np.maximum(drawn, (-1, -1, -1, 0.2, -1, 0.1, 0, -1, 1.8, 0, 0, 0, 0)).tolist())


def _sample_hair(female: bool, years: float, tone: float, rng: np.random.Generator) -> Hair:
    toddler, old = years < 4, years >= 70
    colour = _blend(_HAIRS, rng.beta(1.0, 3.0) if tone > 0.5 else rng.uniform())
    grey = np.clip((years - 42) / 30 + 0.15 * rng.standard_normal(), 0, 1)
    colour = colour + grey * (np.full(3, rng.uniform(165, 235)) - colour)
    long = not toddler and rng.random() < ((0.7 if old else 0.8) if female else 0.12)
    fringe = rng.random() < (0.4 if female else 0.2) and not old
    balding = np.clip((years - 30) / 45, 0, 1) * (0.15 if female else 1.0) * rng.uniform(0.2, 1.0)
    bearded = not female and years >= 20 and rng.random() < 0.45
    return Hair(
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


def _sample_scene(rng: np.random.Generator) -> Scene:
    base = rng.uniform(95, 215) + rng.normal(0, 22, 3)
    return Scene(
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


def _blend(colours: Array, where: float) -> Array:
    """The colour [3] at `where`, from 0 to 1, along a row of colours [n, 3]."""
    return np.array([np.interp(where * (len(colours) - 1), np.arange(len(colours)), c) for c in colours.T])
