"""Steps per second with 84 x 84 frames: robopref's path against MuJoCo's default renderer, in the same run.

The baseline draws the same camera with ``mujoco.Renderer`` at its defaults (shadows, reflections, multisampling, full
meshes), which is what Gymnasium's ``env.render()`` asks of MuJoCo.
Usage: ``python scripts/bench_rendering.py [TASK ...]``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from robopref.envs.gl_backend import ensure_gl_backend

BACKEND = ensure_gl_backend()  # before mujoco is imported: its own renderer takes the back end from the environment

import mujoco  # noqa: E402

from robopref.envs.registry import make_task  # noqa: E402

SIZE = 84
DEFAULT_TASKS = ("peg-insert-side", "button-press", "assembly")


def steps_per_second(step: Callable[[], object], seconds: float = 4.0) -> float:
    for _ in range(5):
        step()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


def expert_stepper(env, after_step: Callable[[], object] = lambda: None) -> Callable[[], None]:
    expert = env.unwrapped.make_expert()
    observation, _ = env.reset(seed=0)

    def step() -> None:
        nonlocal observation
        observation, _, terminated, truncated, _ = env.step(expert(observation))
        after_step()
        if terminated or truncated:
            observation, _ = env.reset()

    return step


def bench(name: str) -> None:
    # The baseline's context is made first: MuJoCo fixes multisampling and buffer sizes when it makes a context.
    plain = make_task(name, image=False)
    task = plain.unwrapped
    baseline = mujoco.Renderer(task.model, SIZE, SIZE)

    def draw() -> None:
        baseline.update_scene(task.data, camera=task.camera)
        baseline.render()

    default = steps_per_second(expert_stepper(plain, draw))
    baseline.close()
    frameless = steps_per_second(expert_stepper(plain))
    plain.close()
    pictured = make_task(name, image_size=SIZE)
    ours = steps_per_second(expert_stepper(pictured))
    pictured.close()
    print(
        f"{name:20s} robopref {ours:6.0f} steps/s   mujoco.Renderer defaults {default:6.0f} steps/s   "
        f"ratio {ours / default:5.1f}   (without frames {frameless:.0f} steps/s)",
        flush=True,
    )


def main() -> None:
    print(f"expert steps with {SIZE} x {SIZE} frames, back end {BACKEND}")
    for name in sys.argv[1:] or DEFAULT_TASKS:
        bench(name)


if __name__ == "__main__":
    main()
