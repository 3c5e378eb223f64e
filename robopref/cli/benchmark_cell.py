"""One cell of a benchmark: a base policy of one seed, its deployments, every method's refinement and evaluations.

A cell is a directory, and each of its stages goes on where it stopped. All methods of a cell learn from the same
recordings and are evaluated on the same layouts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from robopref.cli.benchmark_methods import BASE, METHODS, Method
from robopref.cli.collect import Collect, run_deployment
from robopref.cli.demos import Demos, run_demos
from robopref.cli.evaluate import Evaluate, run_evaluate
from robopref.cli.refine import ObjectiveName, Refine, run_refine
from robopref.cli.run_directory import read_json, write_json
from robopref.cli.train import Train, run_train
from robopref.envs.perturbations.options import ORIGINAL, PerturbationOptions
from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperatorConfig

Regime = Literal["one-round", "perturbed", "pretrained"]
ORIGINAL_SCENE, PERTURBED_SCENE = "original", "perturbed"
_MADE = "made.json"
"""How a method's policy was made; written when it is there."""


@dataclass(frozen=True)
class Budget:
    """What every method of a benchmark gets, the same for all of them."""

    demos: int
    train_steps: int
    refine_steps: int
    batch_size: int
    learning_rate: float
    episodes: int
    """Deployment episodes under the operator."""
    evaluation_episodes: int
    refine_learning_rate: float | None = None
    """Of methods that go on from the base; None takes the learning rate of everything else."""
    action_smoothing: float = 0.0
    """Of the base and of every method."""
    chunk: int = 1
    """Actions per inference, of every policy."""

    def learning_rate_of(self, method: Method) -> float:
        """A start from scratch is a training like that of the base, and keeps its rate."""
        if method.from_scratch or self.refine_learning_rate is None:
            return self.learning_rate
        return self.refine_learning_rate


def budget_json(budget: Budget) -> dict[str, Any]:
    """As JSON values, without what is at its default: the same as was written before there was such a setting."""
    return {
        f.name: value for f in fields(budget) if (value := getattr(budget, f.name)) != f.default or f.default is MISSING
    }


@dataclass(frozen=True)
class Evaluation:
    """A method's policy on a task in a scene: what the rows of the results are about."""

    task: str
    """The task that was refined on."""
    method: str
    evaluated_on: str
    scene: str


@dataclass(frozen=True)
class Cell:
    """What runs by itself, beside other cells.

    Attributes:
        directory: where everything of it goes.
        regime: which recordings and scenes there are.
        seed: of every stage.
        base_tasks: what the base policy is trained on, all together.
        tasks: what it is refined on, one after the other, each time from the base.
        methods: names in ``METHODS``.
        budget: the same for all.
        inputs: what the policy sees.
        operator: who watches.
        perturbation: of deployments, of their demonstrations and of a second evaluation; in the perturbed regime.
    """

    directory: Path
    regime: Regime
    seed: int
    base_tasks: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    budget: Budget
    inputs: Literal["state", "image"] = "state"
    operator: ScriptedOperatorConfig = field(default_factory=ScriptedOperatorConfig)
    perturbation: PerturbationOptions = ORIGINAL

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.regime}, {' and '.join(self.tasks)}, seed {self.seed}"

    def evaluations(self) -> Iterator[Evaluation]:
        """Everything that is evaluated, in the order in which it is."""
        for task in self.tasks:
            for method in (BASE, *self.methods):
                for evaluated_on in self.base_tasks:
                    for scene in self.scenes():
                        yield Evaluation(task, method, evaluated_on, scene)

    def scenes(self) -> dict[str, PerturbationOptions]:
        """The scenes of the evaluations by their names."""
        if self.regime == "perturbed":
            return {PERTURBED_SCENE: self.perturbation, ORIGINAL_SCENE: ORIGINAL}
        return {ORIGINAL_SCENE: ORIGINAL}

    def optimiser_steps(self, method: str) -> int:
        """What a policy has had in all, the base training counted."""
        return self.budget.train_steps + (0 if method == BASE else self.budget.refine_steps)

    def interactions(self, task: str) -> Path:
        """The recordings of a task's deployment."""
        return self.directory / task / "interactions"

    def policy(self, evaluation: Evaluation) -> Path:
        """The training run whose policy is evaluated."""
        return self._base if evaluation.method == BASE else self.directory / evaluation.task / evaluation.method

    def results(self, evaluation: Evaluation) -> Path:
        """Where an evaluation's episodes are; that of the base is the same whatever task is refined on."""
        return self.policy(evaluation) / f"evaluation-{evaluation.scene}" / evaluation.evaluated_on

    def finished(self, evaluation: Evaluation) -> bool:
        """Whether all episodes of an evaluation are there."""
        return (self.results(evaluation) / "summary.json").exists()

    @property
    def _base(self) -> Path:
        return self.directory / "base"

    def _demos(self, task: str, scene: str) -> Path:
        return self.directory / "demos" / scene / task

    def _refinement_demos(self, task: str) -> tuple[Path, ...]:
        """Of the task alone: what a pretrained policy learned its other tasks from is not at hand any more."""
        return tuple(self._demos(task, scene) for scene in reversed(self.scenes()))


def run_cell(cell: Cell, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Run what is not finished; returns False when it was stopped, to be gone on with by the same call.

    Raises:
        RoboprefError: a method could not be brought to an end, such as one that learns from takeovers where there were
            none; the others are finished first. Or a stage that all of them need cannot be run.
    """
    if not all(not should_stop() and stage() for stage in _preparations(cell)):
        return False
    failures: dict[tuple[str, str], str] = {}
    for evaluation in cell.evaluations():
        what = evaluation.method, evaluation.task
        if what in failures:
            continue
        try:
            for stage in () if cell.finished(evaluation) else (_refine, _evaluate):
                if should_stop() or not stage(cell, evaluation):
                    return False
        except RoboprefError as error:
            failures[what] = str(error)
    if failures:
        raise RoboprefError("; ".join(f"{method} on {task}: {why}" for (method, task), why in failures.items()))
    return True


def _preparations(cell: Cell) -> Iterator[Callable[[], bool]]:
    """What comes before the methods, as far as there is something to do."""
    if all(cell.finished(evaluation) for evaluation in cell.evaluations()):
        return
    for task in cell.base_tasks:
        yield partial(_demonstrate, cell, task, ORIGINAL_SCENE)
    yield partial(_train_base, cell)
    for task in cell.tasks:
        if PERTURBED_SCENE in cell.scenes():
            yield partial(_demonstrate, cell, task, PERTURBED_SCENE)
        yield partial(_deploy, cell, task)


def _demonstrate(cell: Cell, task: str, scene: str) -> bool:
    return run_demos(
        Demos(
            cell._demos(task, scene),
            (task,),
            cell.budget.demos,
            cell.inputs == "image",
            seed=cell.seed,
            workers=1,
            resume=True,
            perturbation=cell.scenes()[scene],
        )
    )


def _train_base(cell: Cell) -> bool:
    if (cell._base / "policy").exists():
        trained_on = {Path(path).name for path in read_json(cell._base / "config.json")["config"]["demos"]}
        if trained_on != set(cell.base_tasks):
            raise RoboprefError(
                f"the base policy in {cell._base} was trained on {', '.join(sorted(trained_on))}: ask for these tasks, "
                f"or choose another --out."
            )
        return True
    demos = tuple(cell._demos(task, ORIGINAL_SCENE) for task in cell.base_tasks)
    return _clone(cell, demos, cell._base, cell.budget.train_steps)


def _clone(cell: Cell, demos: tuple[Path, ...], out: Path, steps: int) -> bool:
    return run_train(
        Train(
            demos,
            out,
            cell.inputs,
            steps,
            cell.budget.batch_size,
            learning_rate=cell.budget.learning_rate,
            action_smoothing=cell.budget.action_smoothing,
            chunk=cell.budget.chunk,
            wandb="disabled",
            seed=cell.seed,
            resume=True,
        )
    )


def _deploy(cell: Cell, task: str) -> bool:
    return run_deployment(
        Collect(
            str(cell._base),
            cell.interactions(task),
            task,
            cell.budget.episodes,
            cell.operator,
            image=cell.inputs == "image",
            seed=cell.seed,
            workers=1,
            resume=True,
            perturbation=cell.scenes().get(PERTURBED_SCENE, ORIGINAL),
        )
    )


def _refine(cell: Cell, evaluation: Evaluation) -> bool:
    """Make the policy that is evaluated, unless it is there, and note how long that took."""
    out = cell.policy(evaluation)
    if evaluation.method == BASE:
        return True
    if (out / _MADE).exists():
        return True
    method = METHODS[evaluation.method]
    steps = cell.budget.refine_steps + (cell.budget.train_steps if method.from_scratch else 0)
    started = time.monotonic()
    if method.objective is None:
        finished = _clone(cell, cell._refinement_demos(evaluation.task), out, steps)
    else:
        finished = _refine_by(cell, evaluation.task, method, method.objective, out, steps)
    if finished:
        write_json(
            out / _MADE,
            {"method": _settings_of(evaluation.method), "steps": steps, "seconds": time.monotonic() - started},
        )
        (out / "state.pt").unlink()  # the optimiser's: larger than all else together, and of no use any more
    return finished


def _refine_by(cell: Cell, task: str, method: Method, objective: ObjectiveName, out: Path, steps: int) -> bool:
    """Refine the base, or what its clone became in the method's first steps."""

    def refine(start: Path, into: Path, by: ObjectiveName, from_scratch: bool, steps: int, **own: Any) -> bool:
        shared = {
            "learning_rate": cell.budget.learning_rate_of(method),
            "action_smoothing": cell.budget.action_smoothing,
        }
        return run_refine(
            Refine(
                str(start),
                cell._refinement_demos(task),
                (cell.interactions(task),),
                into,
                objective=by,
                from_scratch=from_scratch,
                steps=steps,
                batch_size=cell.budget.batch_size,
                wandb="disabled",
                seed=cell.seed,
                resume=True,
                **{**shared, **own},
            )
        )

    first = round(method.cloned_first * steps)
    if not first:
        return refine(cell._base, out, objective, method.from_scratch, steps, **method.settings)
    # Methods that begin alike share the clone; its training state stays, by which the next one finds it finished.
    clone = cell.directory / task / f"cloned-{first}-steps{'-from-scratch' * method.from_scratch}"
    return refine(cell._base, clone, "bc", method.from_scratch, first) and refine(
        clone, out, objective, False, steps - first, **method.settings
    )


def _settings_of(name: str) -> dict[str, Any]:
    method = METHODS[name]
    found = {"objective": method.objective, "from_scratch": method.from_scratch, "settings": dict(method.settings)}
    return found | ({"cloned_first": method.cloned_first} if method.cloned_first else {})


def check_made(cell: Cell, evaluation: Evaluation) -> None:
    """See that a method's policy, where it is there, was made as the method's name says now.

    Raises:
        RoboprefError: it was not: its results would be averaged with others under one name.
    """
    path = cell.policy(evaluation) / _MADE
    if path.exists() and read_json(path)["method"] != _settings_of(evaluation.method):
        raise RoboprefError(
            f"{path.parent} was refined when {evaluation.method} had other settings: remove it, or choose another "
            f"--out."
        )


def refinement_seconds(cell: Cell, evaluation: Evaluation) -> float:
    """Wall-clock seconds of a refinement, of its last part where it was interrupted; 0 for the base."""
    path = cell.policy(evaluation) / _MADE
    return float(read_json(path)["seconds"]) if path.exists() else 0.0


def _evaluate(cell: Cell, evaluation: Evaluation) -> bool:
    return run_evaluate(
        Evaluate(
            str(cell.policy(evaluation)),
            cell.results(evaluation),
            evaluation.evaluated_on,
            cell.budget.evaluation_episodes,
            cell.operator,
            wandb="disabled",
            seed=cell.seed,
            workers=1,
            resume=True,
            perturbation=cell.scenes()[evaluation.scene],
        )
    )
