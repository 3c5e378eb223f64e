"""Tasks by name: ``make_task("peg-insert-side")``, ``make_task("module:factory")``, and Gymnasium ids.

Importing this module registers ``robopref/<task>-v0`` with Gymnasium; importing it imports no simulator.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from robopref.envs.metaworld_specs import METAWORLD_SPECS
from robopref.envs.perturbations.options import check_perturbations
from robopref.errors import RoboprefError

TASKS: Mapping[str, str] = {
    **dict.fromkeys(METAWORLD_SPECS, "robopref.envs.metaworld_tasks:MetaWorldTask"),
    **dict.fromkeys(("fetch-reach", "fetch-push", "fetch-pick-and-place"), "robopref.envs.fetch_tasks:FetchTask"),
}
"""Entry point of every task that has a name; it is called with the name and the keywords of ``make_task``."""

OBSERVATION_KEYS = ("image", "proprio", "state")


def task_names() -> tuple[str, ...]:
    """The names that ``make_task`` knows."""
    return tuple(TASKS)


def make_task(
    name: str,
    *,
    image: bool = True,
    image_size: int = 84,
    camera: str | None = None,
    horizon: int | None = None,
    perturb: Sequence[str] = (),
    perturb_strength: float = 1.0,
) -> gymnasium.Env[Any, Any]:
    """A task by name, or by ``module:factory``.

    Args:
        name: one of ``task_names()``, or ``module:factory``: a callable without required arguments that returns a
            Gymnasium environment satisfying ``robopref.protocols.Task``. The other arguments are not for factories.
        image: whether observations hold ``image``; without it nothing is rendered, which is about ten times faster.
        image_size: height and width of the image in pixels.
        camera: camera of the scene; each task has its own default.
        horizon: steps until truncation; each task has its own default.
        perturb: what to change in the scene at every reset: some of ``robopref.envs.perturbations.options.KINDS``.
        perturb_strength: scale of these changes, above 0 and at most 3.

    Raises:
        RoboprefError: the name is unknown, the factory cannot be imported, what it made is no task, or the
            perturbations are unknown or cannot be had.
    """
    check_task_perturbations(name, perturb, perturb_strength, image=image)
    if ":" in name:
        return _make_from_factory(name)
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(TASKS)}."
        raise RoboprefError(f"there is no task {name!r}: {hint} Your own task is given as module:factory.")
    make = _import_attribute(TASKS[name])
    environment: gymnasium.Env[Any, Any] = make(
        name,
        image=image,
        image_size=image_size,
        camera=camera,
        horizon=horizon,
        perturb=perturb,
        perturb_strength=perturb_strength,
    )
    return environment


def check_task_perturbations(name: str, perturb: Sequence[str], strength: float, *, image: bool) -> None:
    """See that a task's scene can be perturbed so, without making it.

    Raises:
        RoboprefError: the perturbations are unknown, would change nothing, or the task is a user's own.
    """
    kinds = check_perturbations(perturb, strength, image=image)
    if kinds and ":" in name:
        raise RoboprefError(
            f"the perturbation {kinds[0]} is for robopref's own MuJoCo tasks, and {name!r} makes its scene itself: "
            "leave it out, or perturb the scene in the factory."
        )


def _import_attribute(entry_point: str) -> Any:
    module_name, _, attribute = entry_point.partition(":")
    if not module_name or not attribute:
        raise RoboprefError(f"task {entry_point!r} is not of the form module:factory.")
    try:
        module = importlib.import_module(module_name)
    except RoboprefError:
        raise
    except Exception as error:  # a module may fail to import in any way; all that matters is which and why
        raise RoboprefError(
            f"task {entry_point!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    if not hasattr(module, attribute):
        raise RoboprefError(f"task {entry_point!r}: module {module_name!r} has no attribute {attribute!r}.")
    return getattr(module, attribute)


def _make_from_factory(entry_point: str) -> gymnasium.Env[Any, Any]:
    factory = _import_attribute(entry_point)
    if not callable(factory):
        raise RoboprefError(f"task {entry_point!r} is a {type(factory).__name__}, not a callable that makes one.")
    try:
        environment = factory()
    except RoboprefError:
        raise
    except Exception as error:  # a user's factory may fail in any way; all that matters is which and why
        raise RoboprefError(f"task {entry_point!r} failed to start ({type(error).__name__}: {error}).") from error
    problems = list(_contract_problems(environment))
    if problems:
        raise RoboprefError(
            f"what {entry_point!r} made is no task: {'; '.join(problems)}. See robopref.protocols.Task."
        )
    checked: gymnasium.Env[Any, Any] = environment
    return checked


def _contract_problems(environment: Any) -> list[str]:
    """What keeps an environment from being a task, as short statements."""
    if not isinstance(environment, gymnasium.Env):
        return [f"it is a {type(environment).__name__}, not a gymnasium.Env"]
    problems = []
    observed = environment.observation_space
    if not isinstance(observed, spaces.Dict):
        problems.append(f"its observation space is {type(observed).__name__}, not Dict")
    elif not set(observed) or not set(observed) <= set(OBSERVATION_KEYS):
        problems.append(f"its observations are {sorted(observed)}, not among {', '.join(OBSERVATION_KEYS)}")
    if not isinstance(environment.action_space, spaces.Box | spaces.Discrete):
        problems.append(f"its action space is {type(environment.action_space).__name__}, not Box or Discrete")
    task = environment.unwrapped
    for attribute in ("task_name", "instruction"):
        value = getattr(task, attribute, None)
        if not isinstance(value, str) or not value.strip():
            problems.append(f"{attribute} is missing or empty")
    paraphrases = getattr(task, "paraphrases", None)
    if not isinstance(paraphrases, tuple) or not all(isinstance(text, str) and text.strip() for text in paraphrases):
        problems.append("paraphrases is not a tuple of sentences")
    problems += [
        f"{method}() is missing" for method in ("make_expert", "progress") if not callable(getattr(task, method, None))
    ]
    return problems


for _name, _entry_point in TASKS.items():
    gymnasium.register(f"robopref/{_name}-v0", entry_point=_entry_point, kwargs={"task_name": _name})
