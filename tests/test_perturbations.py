from __future__ import annotations

import json

import numpy as np
import pytest

from robopref.cli.collect import Collect, run_collect
from robopref.cli.demos import Demos, run_demos
from robopref.cli.episodes import check_task
from robopref.cli.evaluate import Evaluate, run_evaluate
from robopref.cli.teleop import Teleop, run_teleop
from robopref.cli.teleop_scenes import make_scene, split_scene
from robopref.cli.teleop_station import station_context
from robopref.envs.perturbations.assets import BACKDROP, DISTRACTOR_SHAPES, distractor_name
from robopref.envs.perturbations.options import KINDS, VISUAL, PerturbationOptions
from robopref.envs.perturbations.position import objects_collide, widened
from robopref.envs.perturbations.scene import texture_pixels
from robopref.envs.perturbations.texture import textures_in_use
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.store.store import EpisodeStore

TASK = "pick-place"
LOOKS = {
    "background": {"geom_rgba", "geom_matid"},
    "texture": {"geom_rgba", "geom_matid", "tex_data"},
    "lighting": {"light_pos", "light_dir", "light_diffuse", "light_specular", "headlight"},
    "camera": {"cam_pos", "cam_quat"},
    "distractor": {"body_pos", "body_quat", "geom_size", "geom_rgba"},
}


@pytest.fixture(scope="module")
def original():
    env = make_task(TASK)
    yield env
    env.close()


@pytest.fixture(scope="module")
def perturbed():
    env = make_task(TASK, perturb=KINDS)
    yield env
    env.close()


def look(env, seed, *kinds):
    """The first observation of an episode under the kinds."""
    return env.reset(seed=seed, options={"perturb": kinds})[0]


def model_fields(env):
    """All arrays of the model, copied."""
    model = env.unwrapped.model
    names = [n for n in dir(model) if not n.startswith("_") and isinstance(getattr(model, n), np.ndarray)]
    headlight = model.vis.headlight
    return {n: getattr(model, n).copy() for n in names} | {
        "headlight": np.concatenate([headlight.ambient, headlight.diffuse, headlight.specular])
    }


def changed_fields(first, second):
    return {name for name in first if not np.array_equal(first[name], second[name])}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_depends_on_the_seed_alone(kind, perturbed):
    first = look(perturbed, 3, kind)
    other = look(perturbed, 4, kind)
    assert (first["image"] != other["image"]).any()
    look(perturbed, 5, *KINDS)
    for _ in range(3):
        perturbed.step(np.ones(4, np.float32))
    assert_same(look(perturbed, 3, kind), first)
    fresh = make_task(TASK, perturb=(kind,))
    assert_same(fresh.reset(seed=3)[0], first)
    fresh.close()


@pytest.mark.parametrize("kind", VISUAL)
def test_visual_kinds_change_the_picture_and_their_part_of_the_model_alone(kind, original, perturbed):
    plain = look(perturbed, 6)
    before = model_fields(perturbed)
    seen = look(perturbed, 6, kind)
    np.testing.assert_array_equal(seen["state"], plain["state"])
    np.testing.assert_array_equal(seen["proprio"], plain["proprio"])
    share = (seen["image"] != plain["image"]).any(axis=2).mean()
    assert share > (0.005 if kind == "distractor" else 0.2)
    changed = changed_fields(before, model_fields(perturbed))
    assert changed
    assert changed <= LOOKS[kind]
    assert seen["image"].mean() > 25  # no black picture


@pytest.mark.parametrize("task", [TASK, "drawer-open", "fetch-push"])
def test_under_visual_kinds_the_same_actions_lead_through_the_same_states_to_the_last_bit(task):
    if task.startswith("fetch"):
        pytest.importorskip("gymnasium_robotics")
    plain, seen = make_task(task), make_task(task, perturb=VISUAL)
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        a, b = plain.reset(seed=seed)[0], seen.reset(seed=seed)[0]
        for _ in range(30):
            np.testing.assert_array_equal(a["state"], b["state"])
            np.testing.assert_array_equal(plain.unwrapped.data.qpos, seen.unwrapped.data.qpos)
            np.testing.assert_array_equal(plain.unwrapped.data.qvel, seen.unwrapped.data.qvel)
            assert (a["image"] != b["image"]).any()
            action = rng.uniform(-1, 1, 4).astype(np.float32)
            (a, reward, *_), (b, reward_seen, *_) = plain.step(action), seen.step(action)
            assert reward == reward_seen
    plain.close(), seen.close()


@pytest.mark.parametrize("task", [TASK, "peg-insert-side", "fetch-push"])
def test_an_unperturbed_reset_brings_back_the_original_scene_to_the_last_bit(task):
    if task.startswith("fetch"):
        pytest.importorskip("gymnasium_robotics")
    original, perturbed = make_task(task), make_task(task, perturb=KINDS, perturb_strength=2.0)
    for seed in (1, 2):
        perturbed.reset(seed=seed)
        for _ in range(2):
            perturbed.step(np.ones(4, np.float32))
        observed, info = perturbed.reset(seed=seed, options={"perturb": ()})
        assert "perturb" not in info
        assert_same(observed, original.reset(seed=seed)[0])
        np.testing.assert_array_equal(perturbed.render(), original.render())
        for _ in range(3):
            assert_same(perturbed.step(np.ones(4, np.float32))[0], original.step(np.ones(4, np.float32))[0])
    original.close(), perturbed.close()


def test_kinds_together_are_each_what_they_are_alone(perturbed):
    look(perturbed, 8)
    plain = model_fields(perturbed)
    alone = {}
    for kind in VISUAL:
        look(perturbed, 8, kind)
        alone[kind] = model_fields(perturbed)
    look(perturbed, 8, "distractor", "camera", "lighting")
    together = model_fields(perturbed)
    together_of = ("lighting", "camera", "distractor")
    changed = {kind: changed_fields(plain, alone[kind]) for kind in together_of}
    for name, values in together.items():
        sources = [kind for kind in together_of if name in changed[kind]]
        if name != "tex_data":  # spare textures keep what was last drawn, and nothing shows them
            np.testing.assert_array_equal(values, alone[sources[0]][name] if sources else plain[name], err_msg=name)
    # Surroundings under both: the texture's pattern in the background's colour.
    look(perturbed, 8, "texture", "background")
    both, table = model_fields(perturbed), perturbed.unwrapped.model.body("tablelink").geomadr[0]
    np.testing.assert_array_equal(both["geom_rgba"][table], alone["background"]["geom_rgba"][table])
    np.testing.assert_array_equal(both["geom_matid"][table], alone["texture"]["geom_matid"][table])
    np.testing.assert_array_equal(both["tex_data"], alone["texture"]["tex_data"])
    first = look(perturbed, 8, "position", "lighting")
    np.testing.assert_array_equal(first["state"], look(perturbed, 8, "position")["state"])


def test_all_kinds_are_named_in_the_info_in_their_order(perturbed):
    _, info = perturbed.reset(seed=0, options={"perturb": ("camera", "position", "camera")})
    assert info["perturb"] == ["position", "camera"]
    assert info["perturb_strength"] == 1.0
    assert perturbed.reset(seed=0)[1]["perturb"] == list(KINDS)


def test_positions_are_the_episodes_own_farther_from_the_middle_and_the_state_says_so(original, perturbed):
    objects, goals = [], []
    for seed in range(12):
        own, wide = look(original, seed), look(perturbed, seed, "position")
        for low, high, where, found in (
            (np.array([-0.1, 0.6]), np.array([0.1, 0.7]), slice(4, 6), objects),
            (np.array([-0.1, 0.8]), np.array([0.1, 0.9]), slice(36, 38), goals),
        ):
            found.append((wide["state"][where] < low).any() or (wide["state"][where] > high).any())
            middle, half = (low + high) / 2, (high - low) / 2
            assert (np.abs(own["state"][where] - middle) <= half + 2e-3).all()
            assert (np.abs(wide["state"][where] - middle) <= 1.5 * half + 2e-3).all()
        assert not objects_collide(perturbed.unwrapped.model, perturbed.unwrapped.data)
    assert sum(objects) >= 4
    assert sum(goals) >= 4


def test_widening_stops_at_limits_but_never_narrows():
    low, high = np.array([-1.0, 0.0, 4.0]), np.array([1.0, 0.0, 6.0])
    wide_low, wide_high = widened(low, high, 1.5, within=(np.array([-1.2, -9, 4.5]), np.array([9.0, 9, 5.5])))
    np.testing.assert_allclose(wide_low, [-1.2, 0.0, 4.0])
    np.testing.assert_allclose(wide_high, [1.5, 0.0, 6.0])


@pytest.mark.parametrize("task", ["fetch-push", "fetch-reach"])
def test_fetch_layouts_are_wider_and_on_the_table(task):
    pytest.importorskip("gymnasium_robotics")
    own, wide = make_task(task, image=False), make_task(task, image=False, perturb=("position",))
    start = own.unwrapped._sim.initial_gripper_xpos
    far = 0
    for seed in range(20):
        a, b = own.reset(seed=seed)[0]["state"], wide.reset(seed=seed)[0]["state"]
        assert np.abs(a[-3:-1] - start[:2]).max() <= 0.15 + 1e-6
        assert np.abs(b[-3:-1] - start[:2]).max() <= 0.225 + 1e-6
        assert 1.05 <= b[-3] <= 1.55
        assert 0.4 <= b[-2] <= 1.1
        assert b[-1] >= 0.4
        far += np.abs(b[-3:-1] - start[:2]).max() > 0.15
    assert far >= 5


def test_stronger_is_farther_from_the_original():
    weak, strong = (make_task(TASK, perturb=VISUAL, perturb_strength=s) for s in (0.2, 1.0))
    contrasts = []
    for env in (weak, strong):
        look(env, 1, "texture")
        model = env.unwrapped.model
        contrasts += [texture_pixels(model, texture).std(axis=(0, 1)).max() for texture in textures_in_use(model)]
    assert (np.array(contrasts[: len(contrasts) // 2]) < contrasts[len(contrasts) // 2 :]).all()
    for kind in ("background", "lighting", "camera", "distractor"):
        distances = []
        for env in (weak, strong):
            images = [np.float32(look(env, seed, *kinds)["image"]) for seed in (1, 2) for kinds in ((), (kind,))]
            distances.append(np.abs(images[0] - images[1]).mean() + np.abs(images[2] - images[3]).mean())
        assert 0 < distances[0] < distances[1], kind
    weak.close(), strong.close()


def test_distractors_stand_on_the_table_apart_from_the_task_and_cannot_be_touched(perturbed):
    task = perturbed.unwrapped
    model = task.model
    bodies = [model.body(distractor_name(number)).id for number in range(len(DISTRACTOR_SHAPES))]
    for name in (BACKDROP, *map(distractor_name, range(len(DISTRACTOR_SHAPES)))):
        geoms = np.flatnonzero(model.geom_bodyid == model.body(name).id)
        assert not model.geom_contype[geoms].any()
        assert not model.geom_conaffinity[geoms].any()
    looks = set()
    for seed in range(8):
        observed = look(perturbed, seed, "distractor")
        shown = [body for body in bodies if model.geom_rgba[model.body_geomadr[body], 3] > 0]
        assert 1 <= len(shown) <= 4
        places = task.data.xpos[shown][:, :2]
        np.testing.assert_array_equal(task.data.xpos[shown], model.body_pos[shown])
        for where in (slice(0, 2), slice(4, 6), slice(36, 38)):  # hand, puck, goal
            assert np.linalg.norm(places - observed["state"][where], axis=1).min() > 0.05
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(shown))
        assert apart.min() > 0.04
        looks.add(tuple(shown))
    assert len(looks) > 4


def test_nothing_is_shown_of_the_spare_objects_unless_asked(perturbed):
    look(perturbed, 1, "camera")
    model = perturbed.unwrapped.model
    spare = [g for g in range(model.ngeom) if model.geom(g).name.startswith("perturbation_")]
    assert len(spare) == len(DISTRACTOR_SHAPES) + 5
    assert not model.geom_rgba[spare, 3].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": TASK, "perturb": ("ligthing",)}, "did you mean lighting.*position, background"),
        ({"name": TASK, "perturb": ("camera",), "image": False}, "camera would change nothing, because no image"),
        ({"name": TASK, "perturb": ("camera",), "perturb_strength": 0.0}, "more than 0 and at most 3"),
        ({"name": TASK, "perturb": ("camera",), "perturb_strength": float("nan")}, "more than 0"),
        ({"name": "synthetic:make_task", "perturb": ("position",)}, "own MuJoCo tasks.*synthetic:make_task"),
    ],
)
def test_what_cannot_be_is_said(arguments, message):
    with pytest.raises(RoboprefError, match=message):
        make_task(**arguments)


def test_an_episode_takes_only_what_the_task_was_made_for(original):
    with pytest.raises(RoboprefError, match="without the perturbation camera"):
        original.reset(seed=0, options={"perturb": ("camera",)})


def test_checks_before_anything_is_written():
    check_task(TASK, PerturbationOptions(("position",)), image=False)
    with pytest.raises(RoboprefError, match="no image"):
        check_task(TASK, PerturbationOptions(("position", "texture")), image=False)


@pytest.mark.parametrize("kind", ["texture", "lighting", "background", "distractor"])
def test_the_operators_picture_shows_the_perturbed_scene(kind):
    env = make_task(TASK, image_size=96, perturb=(kind,))
    scene = make_scene(env, station_context(), 96)
    scene.painter.warm_up()
    for seed in (1, 2):
        observed, _ = env.reset(seed=seed)
        scene.capture()
        _, message = split_scene(scene.painter.slot.get()[1])
        (picture,) = dict(scene.painter.paint(message)).values()
        assert np.abs(picture.astype(int) - observed["image"].astype(int)).mean() < 0.05
    env.close()


def test_commands_meet_the_perturbed_scene_and_record_it(barely_trained, tmp_path):
    position = PerturbationOptions(("position",), 2.0)
    common = {"policy": str(barely_trained), "task": "reach", "episodes": 2, "workers": 1}
    assert run_evaluate(Evaluate(out=tmp_path / "plain", wandb="disabled", **common))
    assert run_evaluate(Evaluate(out=tmp_path / "far", wandb="disabled", perturbation=position, **common))
    plain, far = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("plain", "far"))
    assert far["perturb"] == ["position"]
    assert far["perturb_strength"] == 2.0
    assert "perturb" not in plain
    assert far["seeds"] == plain["seeds"]
    with pytest.raises(RoboprefError, match="other settings \\(perturbation\\)"):
        run_evaluate(Evaluate(out=tmp_path / "far", wandb="disabled", resume=True, **common))
    visual = PerturbationOptions(("lighting",))
    with pytest.raises(RoboprefError, match="no image is observed"):
        run_evaluate(Evaluate(out=tmp_path / "none", wandb="disabled", perturbation=visual, **common))
    assert not (tmp_path / "none").exists()

    assert run_collect(Collect(out=tmp_path / "data", image=False, perturbation=position, **common))
    store = EpisodeStore.open(tmp_path / "data")
    for episode in store.episode_ids():
        info = store.info(episode)
        assert info.extra["perturb"] == ["position"]
        assert info.extra["perturb_strength"] == 2.0
        env = make_task("reach", image=False, perturb=("position",), perturb_strength=2.0)
        first = env.reset(seed=info.seed)[0]["state"]
        np.testing.assert_array_equal(store.read(episode).observation["state"][0], first)
    assert json.loads((tmp_path / "data" / "summary.json").read_text())["perturb"] == ["position"]


def test_demonstrations_in_a_perturbed_scene(tmp_path):
    options = PerturbationOptions(("distractor", "background"))
    assert run_demos(Demos(out=tmp_path / "demos", task=("reach",), episodes=1, workers=1, perturbation=options))
    store = EpisodeStore.open(tmp_path / "demos")
    (episode,) = store.episode_ids()
    assert store.info(episode).extra["perturb"] == ["background", "distractor"]
    env = make_task("reach", perturb=options.perturb)
    first = env.reset(seed=store.info(episode).seed)[0]["image"]
    np.testing.assert_array_equal(store.read(episode).observation["image"][0], first)
    env.close()


def test_a_session_with_an_operator_is_perturbed_but_not_on_a_game(barely_trained, tmp_path):
    session = Teleop(
        policy=str(barely_trained), out=tmp_path / "data", task="reach", operator="scripted", episodes=1, hz=400,
        image=False, real_time=False, perturbation=PerturbationOptions(("position",)),
    )  # fmt: skip
    assert run_teleop(session)
    store = EpisodeStore.open(tmp_path / "data")
    assert store.info(store.episode_ids()[0]).extra["perturb"] == ["position"]
    with pytest.raises(RoboprefError, match="a game has not"):
        run_teleop(
            Teleop(
                policy="pong-ddqn-v2", out=tmp_path / "g", game="Pong", perturbation=PerturbationOptions(("camera",))
            )
        )
