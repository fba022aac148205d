"""Synthetic axial head slices that look like MRI, with and without a lesion.

A patient is a set of random numbers in three dimensions; a slice is a cut
through it at a height. Adjacent slices of a patient therefore look alike, and
any image size shows the same head. Nothing here is measured anatomy.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

# Signal of each tissue, 0 (air) to 1, by the contrast that a scanner is set to.
CONTRASTS = (
    # T1: fat and white matter bright, fluid dark.
    {"scalp": 0.80, "skull": 0.10, "fluid": 0.14, "grey": 0.40, "white": 0.56},
    # T2: fluid bright, white matter darker than grey.
    {"scalp": 0.52, "skull": 0.07, "fluid": 0.62, "grey": 0.46, "white": 0.34},
    # FLAIR: as T2, but with the signal of fluid suppressed.
    {"scalp": 0.58, "skull": 0.08, "fluid": 0.11, "grey": 0.47, "white": 0.38},
)
SLICE_SPACING = 0.035
LESION_KINDS = ("solid", "ring", "mixed")

# Radii within a head of radius 1.
_SCALP, _SKULL, _BRAIN = 0.935, 0.865, 0.83


@dataclasses.dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves.

    `vectors`, float32 `[waves, 3]`, are in radians per head radius.
    """

    vectors: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, count: int):
        """Draws waves around one wavelength, in all directions."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = 2 * math.pi / (wavelength * rng.uniform(0.75, 1.35, count))
        return cls(
            (directions * lengths[:, np.newaxis]).astype(np.float32),
            rng.uniform(0, 2 * math.pi, count).astype(np.float32),
        )

    def at(self, u: np.ndarray, v: np.ndarray, z: float) -> np.ndarray:
        """The field at points of one height; mean 0, variance 1."""
        field = np.zeros_like(u)
        for (ku, kv, kz), phase in zip(self.vectors, self.phases, strict=True):
            field += np.cos(ku * u + kv * v + np.float32(kz * z + phase))
        return field * np.float32(math.sqrt(2 / len(self.phases)))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides on brightness and file size, and must not give a class away.

    Attributes:
        contrast: index into `CONTRASTS`.
        bottom: height of the lowest slice, in head radii.
        length: half the front-back length of the head, in half image sizes.
        mean: brightness that the pictures are exposed to, averaged over their
            pixels: a lesion does not show in it.
        noise: standard deviation of the noise, of the full range.
        blur: standard deviation, in head radii.
    """

    contrast: int
    bottom: float
    length: float
    mean: float
    noise: float
    blur: float


def draw_settings(rng: np.random.Generator, count: int) -> list[Setting]:
    """Draws settings spread evenly over their ranges (a Latin hypercube).

    Drawn one by one, those of a few hundred patients would by chance differ
    between the classes, and a model could learn the difference.
    """

    def spread(low, high):
        places = (rng.permutation(count) + rng.uniform(size=count)) / count
        return low + (high - low) * places

    columns = (
        [k % len(CONTRASTS) for k in range(count)],
        spread(-0.08, 0.42).tolist(),
        spread(0.76, 0.93).tolist(),
        spread(0.17, 0.27).tolist(),
        spread(0.008, 0.03).tolist(),
        spread(0.004, 0.011).tolist(),
    )
    return [Setting(*values) for values in zip(*columns, strict=True)]


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A tumor with its oedema; lengths are in head radii.

    Attributes:
        kind: one of `LESION_KINDS`.
        center: right, back and up.
        contrast: how much of the tissue's own signal it replaces, 0 to 1.
        signal: of its bright part; `core` is that of the dark part.
        oedema: signal added around it.
        outline: what makes it irregular; `texture` makes it uneven.
    """

    kind: str
    center: tuple[float, float, float]
    radius: float
    contrast: float
    signal: float
    core: float
    oedema: float
    outline: Waves
    texture: Waves


@dataclasses.dataclass(frozen=True)
class Patient:
    """Everything that the slices of one head share.

    Attributes:
        signals: of each tissue, as in `CONTRASTS`.
        half_axes: right-left and front-back, in half image sizes.
        rotation: in radians.
        offset: of the head's centre, in half image sizes.
        ventricle_size: 1 is average.
        egg: how much narrower the front is than the back.
        bias: strength of the slow shading.
        warp: two fields that bend the anatomy.
        cortex: the field whose zeros are the sulci.
        shading: the field of the coil's sensitivity and of uneven tissue.
        spots: right, back, up, radius and signal of vessels and calcifications,
            all harmless.
    """

    setting: Setting
    signals: dict[str, float]
    half_axes: tuple[float, float]
    rotation: float
    offset: tuple[float, float]
    ventricle_size: float
    egg: float
    bias: float
    warp: tuple[Waves, Waves]
    cortex: Waves
    shading: Waves
    spots: np.ndarray
    lesion: Lesion | None


def draw_patient(
    rng: np.random.Generator,
    setting: Setting,
    num_slices: int,
    has_lesion: bool,
) -> Patient:
    """Draws a head that will be cut into so many slices.

    A lesion lies so that each of them shows it.
    """
    signals = {
        tissue: signal * rng.uniform(0.9, 1.1)
        for tissue, signal in CONTRASTS[setting.contrast].items()
    }
    middle = setting.bottom + SLICE_SPACING * (num_slices - 1) / 2
    depth = SLICE_SPACING * num_slices
    num_spots = rng.integers(4, 12)
    spots = np.column_stack(
        [
            rng.uniform(-0.6, 0.6, (num_spots, 2)),
            middle + depth * rng.uniform(-0.5, 0.5, num_spots),
            rng.uniform(0.018, 0.032, num_spots),
            rng.choice([0.05, 0.95], num_spots, p=[0.3, 0.7]),
        ]
    )
    return Patient(
        setting=setting,
        signals=signals,
        half_axes=(setting.length * rng.uniform(0.76, 0.88), setting.length),
        rotation=math.radians(rng.normal(0, 6)),
        offset=tuple(rng.normal(0, 0.025, 2)),
        ventricle_size=rng.uniform(0.5, 1.5),
        egg=rng.uniform(0.02, 0.14),
        bias=rng.uniform(0.03, 0.12),
        warp=(Waves.draw(rng, 1.3, 6), Waves.draw(rng, 1.3, 6)),
        cortex=Waves.draw(rng, 0.24, 24),
        shading=Waves.draw(rng, 2.2, 5),
        spots=spots,
        lesion=_draw_lesion(rng, middle, num_slices) if has_lesion else None,
    )


def _draw_lesion(
    rng: np.random.Generator, middle: float, num_slices: int
) -> Lesion:
    radius = rng.uniform(0.18, 0.32)
    # The lesion stays inside the brain.
    distance = math.sqrt(rng.uniform(0.04, 1)) * (0.80 - radius)
    angle = rng.uniform(0, 2 * math.pi)
    reach = min(0.3 * radius, SLICE_SPACING * num_slices / 4)
    return Lesion(
        kind=str(rng.choice(LESION_KINDS)),
        center=(
            distance * math.cos(angle),
            distance * math.sin(angle),
            middle + rng.uniform(-reach, reach),
        ),
        radius=radius,
        contrast=rng.uniform(0.8, 1),
        signal=rng.uniform(0.90, 1.05),
        core=rng.uniform(0.04, 0.2),
        oedema=rng.uniform(0.0, 0.2) * rng.choice([-1, 1], p=[0.35, 0.65]),
        outline=Waves.draw(rng, 0.35, 8),
        texture=Waves.draw(rng, 0.13, 12),
    )


def draw_slice(
    patient: Patient, index: int, image_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Cuts one slice through a head, counted from the lowest.

    Returns:
        uint8 `[image_size, image_size]`.
    """
    z = patient.setting.bottom + index * SLICE_SPACING
    u, v = _head_coordinates(patient, z, image_size)
    # Width of an edge: two pixels, so that edges are smooth at any size.
    pixel = 2 / image_size / patient.half_axes[1]
    radius = np.hypot(u * (1 - patient.egg * v), v)
    image = _draw_tissue(patient, u, v, z, radius, 2 * pixel)
    if patient.lesion is not None:
        in_brain = _below(radius, _BRAIN, 2 * pixel)
        image = _add_lesion(patient, image, u, v, z, in_brain, 2 * pixel)
    image *= np.exp(np.float32(patient.bias) * patient.shading.at(u, v, z))
    image = ndimage.gaussian_filter(image, patient.setting.blur / pixel)
    image *= np.float32(
        patient.setting.mean * rng.uniform(0.97, 1.03) / image.mean()
    )
    # A magnitude image: noise in both channels of the receiver, so that it is
    # Rician, and air is not quite black.
    noise = patient.setting.noise * rng.standard_normal(
        (2, *image.shape), np.float32
    )
    image = np.hypot(image + noise[0], noise[1])
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _below(
    values: np.ndarray, limit: np.ndarray | float, width: float
) -> np.ndarray:
    """1 where values are below a limit, 0 above, with an edge of a width."""
    return np.clip(0.5 + (limit - values) / np.float32(width), 0, 1)


def _head_coordinates(
    patient: Patient, z: float, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Right and back of each pixel, in radii of the head at this height."""
    axis = (np.arange(image_size, dtype=np.float32) + 0.5) * 2 / image_size - 1
    x = axis[np.newaxis, :] - np.float32(patient.offset[0])
    y = axis[:, np.newaxis] - np.float32(patient.offset[1])
    cos, sin = math.cos(patient.rotation), math.sin(patient.rotation)
    # The head narrows towards its top.
    narrowing = math.sqrt(1 - (0.75 * z) ** 2)
    u = (cos * x + sin * y) / np.float32(patient.half_axes[0] * narrowing)
    v = (cos * y - sin * x) / np.float32(patient.half_axes[1] * narrowing)
    first, second = (field.at(u, v, z) for field in patient.warp)
    return u + np.float32(0.018) * first, v + np.float32(0.018) * second


def _draw_tissue(
    patient: Patient,
    u: np.ndarray,
    v: np.ndarray,
    z: float,
    radius: np.ndarray,
    edge: float,
) -> np.ndarray:
    """Signal of a healthy head."""
    signals = patient.signals
    folds = np.abs(patient.cortex.at(u, v, z))
    # Sulci open to the surface and to the fissure, and close with depth.
    depth = np.minimum(_BRAIN - radius, np.abs(u) + 0.13)
    opening = np.clip(1 - depth / 0.27, 0, 1)
    sulci = _below(folds, 0.24 * opening, 0.12) * (opening > 0)
    cortex = np.maximum(
        _below(folds, 0.2 + 0.5 * opening, 0.3) * _below(depth, 0.27, 0.06),
        _below(depth, 0.045, 0.03),
    )
    cortex = np.maximum(cortex, _nuclei(u, v, z))
    fluid = np.maximum(sulci, _ventricles(patient, u, v, z, edge))
    fluid = np.maximum(fluid, _fissure(u, v, z, edge))

    image = signals["white"] + (signals["grey"] - signals["white"]) * cortex
    image += (signals["fluid"] - image) * fluid
    for right, back, up, size, signal in patient.spots:
        spot = np.exp(
            -((u - right) ** 2 + (v - back) ** 2 + (z - up) ** 2) / size**2
        )
        image += (np.float32(signal) - image) * spot.astype(np.float32)
    for limit, outside in (
        (_BRAIN, signals["fluid"]),
        (_SKULL, signals["skull"]),
        (_SCALP, signals["scalp"]),
        (1.0, 0.0),
    ):
        image = outside + (image - outside) * _below(radius, limit, edge)
    return image.astype(np.float32)


def _ventricles(
    patient: Patient, u: np.ndarray, v: np.ndarray, z: float, edge: float
) -> np.ndarray:
    """Two lateral ventricles, bent outwards at their horns, and the third."""
    size = patient.ventricle_size * math.sqrt(max(0.0, 1 - (z / 0.42) ** 2))
    middle = 0.08 + 0.8 * (v - 0.02) ** 2
    width = 0.075 * size * (1 - (v / 0.4) ** 2)
    ventricles = _below(np.abs(np.abs(u) - middle), width, edge)
    if z < 0.08:
        third = np.hypot(u / 0.022, (v - 0.08) / 0.13)
        ventricles = np.maximum(ventricles, _below(third, 1, 0.5))
    return ventricles


def _fissure(u: np.ndarray, v: np.ndarray, z: float, edge: float) -> np.ndarray:
    """The cleft between the hemispheres; below, the callosum bridges it."""
    bridge = 0.46 * math.sqrt(max(0.0, 1 - (z / 0.46) ** 2))
    cleft = _below(np.abs(u), 0.011, edge)
    return cleft * (1 - _below(np.abs(v), bridge, 0.05))


def _nuclei(u: np.ndarray, v: np.ndarray, z: float) -> np.ndarray:
    """Grey matter beside the ventricles, near the base."""
    size = math.sqrt(max(0.0, 1 - (max(z, 0) / 0.3) ** 2))
    lateral = np.hypot((np.abs(u) - 0.3) / 0.07, (v + 0.02) / 0.2)
    medial = np.hypot((np.abs(u) - 0.13) / 0.09, (v - 0.14) / 0.13)
    return 0.5 * _below(np.minimum(lateral, medial), size, 0.3)


def _add_lesion(
    patient: Patient,
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    z: float,
    in_brain: np.ndarray,
    edge: float,
) -> np.ndarray:
    """Replaces tissue by a lesion, and swells what lies around it."""
    lesion = patient.lesion
    right, back, up = lesion.center
    aspect = np.float32(patient.half_axes[0] / patient.half_axes[1])
    distance = np.sqrt(
        ((u - right) * aspect) ** 2 + (v - back) ** 2 + (z - up) ** 2
    ).astype(np.float32)
    distance *= 1 + np.float32(0.1) * lesion.outline.at(u, v, z)
    texture = lesion.texture.at(u, v, z)
    reach = lesion.radius
    if lesion.kind == "solid":
        inside = lesion.signal * (1 + 0.05 * texture)
    else:
        if lesion.kind == "ring":
            dark = _below(distance, reach * (0.62 + 0.05 * texture), 2 * edge)
        else:
            dark = _below(texture, -0.3, 1.2)
        inside = lesion.signal + (lesion.core - lesion.signal) * dark
    swollen = _below(distance, reach * 1.45, reach * 0.6) * in_brain
    image = image + np.float32(lesion.oedema) * swollen
    mask = _below(distance, reach, edge) * in_brain * lesion.contrast
    return (image + (inside - image) * mask).astype(np.float32)
