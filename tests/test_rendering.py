from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robopref.envs import gl_backend
from robopref.envs.gl_backend import ensure_gl_backend
from robopref.envs.mesh_simplification import cluster_faces, simplified_for_upload
from robopref.envs.registry import make_task
from robopref.envs.rendering import OffscreenCamera
from robopref.errors import RoboprefError


@pytest.fixture
def task():
    env = make_task("pick-place")
    env.reset(seed=0)
    yield env
    env.close()


def run_python(code, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)


def test_closing_one_task_leaves_the_frames_of_another_alone(task):
    before = task.reset(seed=3)[0]["image"]
    other = make_task("button-press")
    other.reset(seed=0)
    other.render()
    other.close()
    other.close()  # harmless
    after = task.reset(seed=3)[0]["image"]
    assert before.mean() > 20
    np.testing.assert_array_equal(before, after)


def test_a_task_that_is_only_dropped_leaves_the_frames_of_another_alone(task):
    before = task.reset(seed=3)[0]["image"]
    for _ in range(3):
        other = make_task("reach")
        other.reset(seed=0)
        del other
        gc.collect()
        np.testing.assert_array_equal(before, task.reset(seed=3)[0]["image"])


def test_a_closed_task_can_be_used_again(task):
    before = task.reset(seed=3)[0]["image"]
    task.close()
    np.testing.assert_array_equal(before, task.reset(seed=3)[0]["image"])


@pytest.mark.parametrize("seed", range(3))
def test_frames_are_upright_and_not_mirrored(task, seed):
    """The blue target is where the pinhole equations put it, after turning the upside-down camera by 180 degrees."""
    observation, _ = task.reset(seed=seed)
    data, model = task.unwrapped.data, task.unwrapped.model
    size = 256
    camera_id = model.camera("corner4").id
    goal = observation["state"][36:39].astype(np.float64)
    right, down, forward = (data.cam_xmat[camera_id].reshape(3, 3).T @ (goal - data.cam_xpos[camera_id])) * (1, -1, -1)
    focal = size / 2 / np.tan(np.radians(model.cam_fovy[camera_id]) / 2)
    row, column = size / 2 - focal * down / forward, size / 2 - focal * right / forward  # both negated: turned
    pixels = task.render().astype(int)
    blue = (pixels[..., 2] > 100) & (pixels[..., 2] > 2 * pixels[..., 0]) & (pixels[..., 2] > 2 * pixels[..., 1])
    rows, columns = np.nonzero(blue)
    assert abs(rows.mean() + 0.5 - row) < 3
    assert abs(columns.mean() + 0.5 - column) < 3


def test_up_is_up(task):
    """The table is below the empty space beyond the floor."""
    image = task.reset(seed=0)[0]["image"].astype(int)
    assert image[:10].mean() < 0.6 * image[-30:].mean()


def test_the_camera_may_be_used_from_any_thread(task):
    expected = task.reset(seed=1)[0]["image"]
    frames = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: frames.append(task.reset(seed=1)[0]["image"]))
        thread.start()
        thread.join()
    frames.append(task.reset(seed=1)[0]["image"])
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_array_equal(expected, frame)


def _frame_in_child(env, connection):
    try:
        connection.send(env.reset(seed=1)[0]["image"])
    except RoboprefError as error:
        connection.send(str(error))


def _ask_fork(env):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_frame_in_child, args=(env, there))
    child.start()
    assert here.poll(60), "the child process hangs"
    answer = here.recv()
    child.join(60)
    return answer


def test_a_fork_after_the_first_frame_is_refused_instead_of_hanging(task):
    before = task.reset(seed=1)[0]["image"]
    answer = _ask_fork(task)
    assert isinstance(answer, str)
    assert "spawn" in answer
    np.testing.assert_array_equal(before, task.reset(seed=1)[0]["image"])


def test_a_fork_before_the_first_frame_renders():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_rendering import _ask_fork\n"
        "from robopref.envs.registry import make_task\n"
        "print(_ask_fork(make_task('reach')).mean() > 20)\n"
    )
    result = run_python(code)
    assert result.stdout.split() == ["True"], result.stderr


def test_no_back_end_is_chosen_or_needed_without_images():
    code = (
        "import os\n"
        "from robopref.envs.registry import make_task\n"
        "env = make_task('reach', image=False)\n"
        "env.reset(seed=0); env.step(env.action_space.sample()); env.close()\n"
        "print('MUJOCO_GL' in os.environ)\n"
    )
    result = run_python(code)
    assert result.stdout.split() == ["False"], result.stderr


def test_a_back_end_is_found_when_none_is_named_and_the_process_ends_silently():
    code = (
        "import os\n"
        "from robopref.envs.registry import make_task\n"
        "env = make_task('reach'); other = make_task('reach')\n"
        "print(env.reset(seed=0)[0]['image'].mean() > 20, os.environ['MUJOCO_GL'] in ('egl', 'osmesa'))\n"
        "other.reset(seed=0)\n"
    )
    result = run_python(code)  # without close(): interpreter shutdown must free the contexts
    assert result.stdout.split() == ["True", "True"], result.stderr
    assert "Traceback" not in result.stderr
    assert "EGLError" not in result.stderr


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_the_back_ends_agree(backend):
    if gl_backend._probe(backend) is not None:
        pytest.skip(f"{backend} does not work on this machine")
    code = (
        "import numpy as np, sys\n"
        "from robopref.envs.registry import make_task\n"
        "env = make_task('button-press')\n"
        "image = env.reset(seed=0)[0]['image'].astype(float)\n"
        "print(*image.mean(axis=(0, 1)))\n"
    )
    means = np.array(run_python(code, MUJOCO_GL=backend).stdout.split(), dtype=float)
    env = make_task("button-press")
    expected = env.reset(seed=0)[0]["image"].astype(float).mean(axis=(0, 1))
    env.close()
    np.testing.assert_allclose(means, expected, atol=1.0)


@pytest.fixture
def fresh_choice(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    ensure_gl_backend.cache_clear()
    yield monkeypatch
    ensure_gl_backend.cache_clear()


def test_without_a_working_back_end_the_error_says_what_to_install(fresh_choice):
    broken = dict.fromkeys(gl_backend._CONTEXT_MODULES, "a_module_that_is_not_there")
    fresh_choice.setattr(gl_backend, "_CONTEXT_MODULES", broken)
    with pytest.raises(RoboprefError, match=r"a_module_that_is_not_there.*apt-get install libosmesa6"):
        ensure_gl_backend()
    assert "MUJOCO_GL" not in os.environ


def test_an_unknown_back_end_is_refused(fresh_choice):
    fresh_choice.setenv("MUJOCO_GL", "directx")
    with pytest.raises(RoboprefError, match=r"directx.*egl"):
        ensure_gl_backend()


def test_a_named_back_end_is_taken_as_it_is(fresh_choice):
    fresh_choice.setenv("MUJOCO_GL", "OSMesa")
    assert ensure_gl_backend() == "osmesa"


def test_camera_names_and_sizes_are_checked(task):
    model = task.unwrapped.model
    with pytest.raises(RoboprefError, match=r"no camera 'front'.*corner2"):
        OffscreenCamera(model, 84, "front")
    with pytest.raises(RoboprefError, match="0 x 0"):
        OffscreenCamera(model, 0, "corner2")


def test_frames_larger_than_mujocos_default_buffer(task):
    camera = OffscreenCamera(task.unwrapped.model, 700, "corner2")
    frame = camera.frame(task.unwrapped.data)
    camera.close()
    assert frame.shape == (700, 700, 3)
    assert frame.mean() > 20


@pytest.mark.parametrize("name", ["peg-insert-side", "hammer", "drawer-open"])
def test_simplified_meshes_change_the_picture_by_less_than_two_grey_levels(name, monkeypatch):
    env = make_task(name)
    simplified = env.reset(seed=0)[0]["image"].astype(int)
    env.close()
    monkeypatch.setattr(OffscreenCamera, "_triangle_size", lambda self: 1e-9)
    full = env.reset(seed=0)[0]["image"].astype(int)
    env.close()
    assert 0 < np.abs(full - simplified).mean() < 2


def test_simplification_leaves_the_simulated_model_alone(task):
    model = task.unwrapped.model
    faces, counts = model.mesh_face.copy(), model.mesh_facenum.copy()
    simplified = simplified_for_upload(model, 0.01)
    np.testing.assert_array_equal(faces, model.mesh_face)
    np.testing.assert_array_equal(counts, model.mesh_facenum)
    assert simplified.mesh_facenum.sum() < 0.3 * counts.sum()
    assert (simplified.mesh_facenum > 0).all()


vertices_and_faces = st.integers(3, 30).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, 3), elements=st.floats(-1, 1)),
        arrays(np.int32, (10, 3), elements=st.integers(0, n - 1)),
    )
)


@given(vertices_and_faces, st.floats(0.01, 1.0))
def test_clustering_moves_no_corner_out_of_its_cell(mesh, cell):
    vertices, faces = mesh
    clustered = cluster_faces(vertices, faces, cell)
    np.testing.assert_array_equal(np.floor(vertices[clustered] / cell), np.floor(vertices[faces] / cell))
    moved = np.linalg.norm(vertices[clustered] - vertices[faces], axis=-1)
    assert moved.max() <= np.sqrt(3) * cell + 1e-9
    np.testing.assert_array_equal(cluster_faces(vertices, clustered, cell), clustered)


def test_clustering_merges_the_vertices_of_a_cell():
    vertices = np.array([[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [1.5, 0, 0], [0, 1.5, 0]])
    faces = np.array([[0, 3, 4], [0, 1, 3]], dtype=np.int32)
    np.testing.assert_array_equal(cluster_faces(vertices, faces, 1.0), [[1, 3, 4], [1, 1, 3]])
