"""What the station draws is what the simulation would have drawn, to the pixel."""

from multiprocessing import get_context

import numpy as np
import pytest

from robopref.cli.teleop_scenes import make_scene, split_scene
from robopref.envs.ale import AtariSpec, make_atari
from robopref.envs.registry import make_task
from robopref.envs.rendering import OffscreenCamera
from robopref.errors import RoboprefError

pytestmark = pytest.mark.alone

CONTEXT = get_context("spawn")


def painted(scene):
    _, message = split_scene(scene.painter.slot.get()[1])
    return dict(scene.painter.paint(message))


def test_a_scene_is_drawn_as_the_simulation_draws_it_also_after_a_reset():
    env = make_task("reach", image=False)
    task = env.unwrapped
    scene = make_scene(env, CONTEXT, 96)
    scene.painter.warm_up()
    camera = OffscreenCamera(task.model, 96, task.camera)
    pictures = []
    for seed in (1, 2):
        env.reset(seed=seed)
        for _ in range(8):
            env.step(np.array([1, 0.5, -1, 1], np.float32))
        scene.capture()
        (picture,) = painted(scene).values()
        expected = camera.frame(task.data)
        assert np.abs(picture.astype(int) - expected.astype(int)).mean() < 0.05
        pictures.append(picture)
    assert (pictures[0] != pictures[1]).any()
    env.close()


def test_several_cameras_and_unknown_ones():
    env = make_task("reach", image=False)
    env.reset(seed=0)
    with pytest.raises(RoboprefError, match="corner"):
        make_scene(env, CONTEXT, 64, ("nowhere",))
    scene = make_scene(env, CONTEXT, 64, ("corner", "topview"))
    scene.painter.warm_up()
    scene.capture()
    pictures = painted(scene)
    assert list(pictures) == ["corner", "topview"]
    assert (pictures["corner"] != pictures["topview"]).any()
    env.close()


def test_the_screen_of_a_game_enlarged_by_whole_pixels():
    env = make_atari(AtariSpec("pong"))
    env.reset(seed=0)
    scene = make_scene(env, CONTEXT, 480)
    for _ in range(30):
        env.step(1)
    scene.capture()
    (picture,) = painted(scene).values()
    screen = env.unwrapped.ale.getScreenRGB()
    assert picture.shape == (420, 320, 3)
    np.testing.assert_array_equal(picture[::2, ::2], screen)
    np.testing.assert_array_equal(picture[1::2, 1::2], screen)
    with pytest.raises(RoboprefError, match="cameras"):
        make_scene(env, CONTEXT, 480, ("corner",))
