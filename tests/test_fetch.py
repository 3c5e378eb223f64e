from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robopref.envs.registry import make_task
from robopref.protocols import Task

NAMES = ("fetch-reach", "fetch-push", "fetch-pick-and-place")


def attempt(env, seed, disturbed_steps=0):
    """The expert's attempt after some random steps -> success, progress at every step."""
    rng = np.random.default_rng(seed)
    expert = env.unwrapped.make_expert()
    observation, info = env.reset(seed=seed)
    progress = [env.unwrapped.progress(observation)]
    done = False
    while not done:
        action = rng.uniform(-1, 1, 4) if len(progress) <= disturbed_steps else expert(observation)
        observation, _, terminated, truncated, info = env.step(action.astype(np.float32))
        assert info["success"] is terminated
        progress.append(env.unwrapped.progress(observation))
        done = terminated or truncated
    return info["success"], progress


def test_without_the_extra_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['gymnasium_robotics'] = None\n"
        "from robopref.envs.registry import make_task\n"
        "from robopref.errors import RoboprefError\n"
        "try: make_task('fetch-push')\n"
        "except RoboprefError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "robopref[fetch]"' in result.stdout


@pytest.fixture(params=NAMES)
def name(request):
    pytest.importorskip("gymnasium_robotics")
    return request.param


def test_task_satisfies_the_protocol_and_gymnasiums_checker(name):
    env = gymnasium.make(f"robopref.envs.registry:robopref/{name}-v0", disable_env_checker=True).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    complaints = {str(w.message) for w in caught if "WARN" in str(w.message)}
    assert all("infinity" in text for text in complaints), complaints  # the state has no bounds of its own
    assert isinstance(env, Task)
    assert env.task_name == name
    assert len({env.instruction, *env.paraphrases}) >= 4
    env.close()


def test_the_expert_succeeds_and_progress_rises(name):
    env = make_task(name, image=False)
    results = [attempt(env, seed) for seed in range(200, 220)]
    assert np.mean([success for success, _ in results]) >= 0.95
    for _, progress in results:
        assert np.corrcoef(progress, np.arange(len(progress)))[0, 1] > 0.5


def test_the_expert_takes_over_in_the_middle_of_an_attempt(name):
    env = make_task(name, image=False)
    assert np.mean([attempt(env, seed, disturbed_steps=8)[0] for seed in range(20)]) >= 0.9


def test_the_same_seed_gives_the_same_episode_whatever_ran_before(name):
    fresh, used = make_task(name), make_task(name)
    attempt(used, seed=1)
    used.reset()
    used.render()
    for _ in range(3):
        used.step(np.ones(4, dtype=np.float32))
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4)).astype(np.float32)
    for seed in (5, 6):
        observations = []
        for env in (fresh, used):
            first, _ = env.reset(seed=seed)
            observations.append([first] + [env.step(action)[0] for action in actions])
        for one, two in zip(*observations, strict=True):
            for key in ("image", "proprio", "state"):
                np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    assert not np.array_equal(fresh.reset(seed=5)[0]["state"], fresh.reset(seed=6)[0]["state"])
    fresh.close()
    used.close()


def test_the_target_is_drawn_where_the_goal_is(name):
    """Nothing but the goal's marker is pure red; where it is drawn follows from the pinhole equations."""
    env = make_task(name)
    observation, _ = env.reset(seed=0)
    pixels = env.render().astype(int)
    data, model = env.unwrapped.data, env.unwrapped.model
    camera_id = model.camera("external_camera_0").id
    offset = observation["state"][-3:].astype(np.float64) - data.cam_xpos[camera_id]
    right, up, back = data.cam_xmat[camera_id].reshape(3, 3).T @ offset
    focal = 128 / np.tan(np.radians(model.cam_fovy[camera_id]) / 2)
    row, column = 128 + focal * up / back, 128 - focal * right / back
    near = pixels[int(row) - 3 : int(row) + 4, int(column) - 3 : int(column) + 4]
    assert ((near[..., 0] > 120) & (near[..., 1] < 60) & (near[..., 2] < 60)).mean() > 0.3
    env.close()
