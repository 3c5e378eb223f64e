"""What perturbations need in a model that cannot be added once it is compiled: spare objects, walls and textures.

They lie hidden (fully transparent, without contacts or joints), so that the compiled model draws and moves
exactly as the original one until a perturbation shows them.
"""

from __future__ import annotations

from typing import Any

import mujoco

PREFIX = "perturbation_"
DISTRACTOR_SHAPES = ("box", "cylinder", "sphere", "capsule", "ellipsoid") * 2
BACKDROP = f"{PREFIX}backdrop"
TEXTURES: dict[str, tuple[str, int]] = {"plane": ("2d", 128), "surface": ("cube", 128), "object": ("cube", 64)}
"""Spare textures by use: their type and edge in pixels. A cube's six faces lie one below the other."""
_SPARES = {"plane": 1, "surface": 2, "object": 2}
_PARKED = (0.0, 0.0, -50.0)
_HIDDEN = (1.0, 1.0, 1.0, 0.0)
_ROOM = 4.5  # metres from the middle of the scene to the walls of the backdrop
_MASS = 1e-6  # kg: some scenes refuse a body without any; nothing here moves
_GEOMS = mujoco.mjtGeom


def perturbable_model(path: str) -> Any:
    """The ``mujoco.MjModel`` of an XML file, with what perturbations need added behind everything of its own."""
    # An empty place in the scene would otherwise count as part of it, which moves clipping planes and mesh detail.
    statistics = mujoco.MjModel.from_xml_path(path).stat
    spec = mujoco.MjSpec.from_file(path)
    for use, count in _SPARES.items():
        for number in range(count):
            _add_texture(spec, use, f"{PREFIX}{use}{number}")
    _add_backdrop(spec, statistics.center)
    for number, shape in enumerate(DISTRACTOR_SHAPES):
        body = spec.worldbody.add_body(name=distractor_name(number), pos=_PARKED)
        _add_hidden(body, distractor_name(number), getattr(_GEOMS, f"mjGEOM_{shape.upper()}"), (0.03, 0.03, 0.03))
    model = spec.compile()
    for name in ("extent", "center", "meansize", "meanmass", "meaninertia"):
        setattr(model.stat, name, getattr(statistics, name))
    return model


def distractor_name(number: int) -> str:
    """Of the body, and of its only geom."""
    return f"{PREFIX}distractor{number}"


def is_perturbable(model: Any) -> bool:
    """Whether a model was made by ``perturbable_model``."""
    return bool(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, BACKDROP) >= 0)


def spare_materials(model: Any, use: str) -> list[tuple[int, int]]:
    """Material and texture of each spare texture of a use, by their ids."""
    names = [f"{PREFIX}{use}{number}" for number in range(_SPARES[use])]
    return [(model.material(name).id, model.texture(name).id) for name in names]


def _add_texture(spec: Any, use: str, name: str) -> None:
    kind, edge = TEXTURES[use]
    spec.add_texture(
        name=name,
        type=getattr(mujoco.mjtTexture, f"mjTEXTURE_{kind.upper()}"),
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        width=edge,
        height=edge if kind == "2d" else 6 * edge,
        rgb1=(1, 1, 1),
        rgb2=(1, 1, 1),
    )
    material = spec.add_material(name=name, specular=0.3, shininess=0.3)
    textures = list(material.textures)
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    material.textures = textures
    material.texrepeat = (4, 4) if kind == "2d" else (1, 1)


def _add_backdrop(spec: Any, centre: Any) -> None:
    """Four walls around the scene and a ground just below its floor, where pictures are black otherwise."""
    planes = [g.pos[2] + g.parent.pos[2] for g in spec.geoms if g.type == _GEOMS.mjGEOM_PLANE]
    ground = min(planes, default=0.0) - 0.02
    body = spec.worldbody.add_body(name=BACKDROP, pos=(centre[0], centre[1], ground))
    thick, half = 0.05, _ROOM
    _add_hidden(body, f"{BACKDROP}_ground", _GEOMS.mjGEOM_BOX, (half, half, thick), (0, 0, -thick))
    for number, (x, y) in enumerate(((half, 0), (-half, 0), (0, half), (0, -half))):
        size = (thick, half, half) if x else (half, thick, half)
        _add_hidden(body, f"{BACKDROP}_wall{number}", _GEOMS.mjGEOM_BOX, size, (x, y, half - 1.0))


def _add_hidden(body: Any, name: str, kind: Any, size: Any, pos: Any = (0.0, 0.0, 0.0)) -> None:
    body.add_geom(name=name, type=kind, size=size, pos=pos, contype=0, conaffinity=0, mass=_MASS, group=1, rgba=_HIDDEN)
