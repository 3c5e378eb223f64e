"""A diagnosis from end to end: play, measure a set at a time, put together.

Every set is measured as soon as it is played, and only what it comes to is kept, so that a run that is cut off goes on
at the set where it stopped.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from robopref.diagnosis.assembling import Kind, MeasuredCondition, assemble
from robopref.diagnosis.collection import Attack, EpisodeTrace, Shift, episode_digest, load_traces, save_traces
from robopref.diagnosis.competence import Indifferent
from robopref.diagnosis.findings import (
    CleanFindings,
    ConditionFindings,
    KeptFindings,
    PartFindings,
    RandomFindings,
    Sensitivity,
    identity_of,
)
from robopref.diagnosis.measuring import (
    ATTACKED,
    count_flips,
    measure_attack,
    measure_clean,
    measure_null,
    measure_part,
    measure_shift,
)
from robopref.diagnosis.plan import Plan
from robopref.diagnosis.results import Diagnosis, Subject, save_diagnosis
from robopref.diagnosis.selection import attack_selection, distinct_episodes, independent_episodes, select_as_many
from robopref.diagnosis.sources import EpisodeSource
from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

Progress = Callable[[str, int, int], None]
SETS = "sets"
_PACKAGES = ("torch", "numpy", "scipy", "gymnasium", "ale-py", "opencv-python-headless")
_NULL = "independent episodes of the same policy"


class DiagnosisStopped(Exception):
    """``should_stop`` asked for it; what was finished is kept."""


def diagnose(
    q_policy: QPolicy,
    source: EpisodeSource,
    subject: Subject | None = None,
    plan: Plan | None = None,
    *,
    shifts: Mapping[str, Shift] | None = None,
    attacks: Mapping[str, Attack] | None = None,
    notes: Sequence[str] = (),
    out: Path | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Diagnosis:
    """Diagnose a policy.

    Args:
        q_policy: what to diagnose; a module is not changed.
        source: plays it.
        subject: who it is; None: described as far as the policy itself tells.
        plan: the settings; None: the defaults.
        shifts: natural shifts, by the name to report them under.
        attacks: attacks on this policy, by name: pixels [B, C, H, W] in [0, 1] -> attacked pixels.
        notes: what else a reader must know; goes behind the diagnosis' own statements.
        out: directory for the results and the finished sets; what is finished there is not done again. None: nothing
            is kept.
        progress: told the stage, how much of it is done, and of how much.
        should_stop: asked now and then.

    Returns:
        The diagnosis; with ``out``, ``load_diagnosis(out)`` gives the same.

    Raises:
        DiagnosisStopped: ``should_stop`` said so.
        RoboprefError: bad settings, a policy that does not fit the environment or has values that are not finite, or
            an ``out`` that holds sets of another policy or other settings.
    """
    run = _Run(q_policy, source, subject, plan or Plan(), out, progress or _silent, should_stop)
    return run.diagnose(dict(shifts or {}), dict(attacks or {}), tuple(notes))


def _silent(stage: str, done: int, total: int) -> None:
    pass


class _Run:
    def __init__(
        self,
        q_policy: QPolicy,
        source: EpisodeSource,
        subject: Subject | None,
        plan: Plan,
        out: Path | None,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self._policy, self._source, self._subject, self._plan, self._out = q_policy, source, subject, plan, out
        self._progress, self._should_stop = progress, should_stop
        self._kept = KeptFindings(None if out is None else out / SETS)
        told = describe_policy(q_policy) if subject is None else asdict(subject)
        self._identity = (told, asdict(plan))
        self._synonyms = () if subject is None else subject.synonyms
        self._clean_traces: list[EpisodeTrace] | None = None
        self._null_traces: list[EpisodeTrace] | None = None

    def diagnose(self, shifts: dict[str, Shift], attacks: dict[str, Attack], notes: tuple[str, ...]) -> Diagnosis:
        names = ["clean", "random", "null", *shifts, *attacks]
        for name in names:
            if names.count(name) > 1:
                raise RoboprefError(f"two sets would be called {name!r}: give the shift or attack another name.")
        clean = self._kept.get("clean", CleanFindings, self._id("clean"), self._measure_clean)
        random = self._kept.get("random", RandomFindings, self._id("random"), partial(self._random, clean))
        measured = []
        if self._plan.null:
            measured.append(self._condition("null", "null", _NULL, partial(self._null, clean)))
        for name, shift in shifts.items():
            measured.append(self._condition(name, "shift", str(shift), partial(self._shift, name, shift, clean)))
        for name, attack in attacks.items():
            measure = partial(self._attack, name, attack, clean)
            measured.append(self._condition(name, "attack", _attack_text(attack), measure))
        nulls = self._nulls_of_the_same_size(measured, clean)
        originals = None
        if attacks:
            before = partial(self._originals, clean)
            originals = self._kept.get("attacked-before", PartFindings, self._id("attacked before"), before)
        rewards = {trace.seed: trace.rewards for trace in self._clean(clean)} if attacks else {}
        subject = self._subject or _default_subject(self._policy, clean)
        self._check_stop()
        diagnosis = assemble(
            subject,
            self._plan,
            software_versions(),
            random,
            clean,
            measured,
            clean_rewards=rewards,
            nulls=nulls,
            originals=None if originals is None else originals.sensitivity,
        )
        diagnosis = replace(diagnosis, statements=diagnosis.statements + notes)
        if self._out is not None:
            save_diagnosis(self._out, diagnosis)
        return diagnosis

    def _condition(
        self, name: str, kind: Kind, detail: str, measure: Callable[[str], ConditionFindings]
    ) -> MeasuredCondition:
        return MeasuredCondition(
            name, kind, detail, self._kept.get(name, ConditionFindings, self._id(name, detail), measure)
        )

    def _measure_clean(self, identity: str) -> CleanFindings:
        traces = self._play("clean", self._plan.clean_seed)
        distinct = distinct_episodes(traces)[0]
        if self._out is None:
            self._clean_traces = distinct
        else:
            (self._out / SETS).mkdir(parents=True, exist_ok=True)
            save_traces(self._traces_path(), distinct)
        return measure_clean(
            self._policy, traces, self._plan, identity, self._advance("clean: gradients"), self._synonyms
        )

    def _random(self, clean: CleanFindings, identity: str) -> RandomFindings:
        player = Indifferent(clean.peak_q_values.shape[1])
        return RandomFindings(
            identity, distinct_episodes(self._play("random", self._plan.random_seed, policy=player))[1]
        )

    def _null(self, clean: CleanFindings, identity: str) -> ConditionFindings:
        digests = {episode_digest(trace) for trace in self._clean(clean)}
        traces = self._play("null", self._plan.null_seed)
        self._keep_null(independent_episodes(traces, digests))
        return measure_null(
            self._policy, traces, clean, digests, self._plan, identity, self._advance("null: gradients")
        )

    def _nulls_of_the_same_size(
        self, measured: Sequence[MeasuredCondition], clean: CleanFindings
    ) -> dict[int, Sensitivity]:
        """For every size of a set that is not the null control's own: as many states of the null's episodes."""
        if not self._plan.null:
            return {}
        (own, *others) = (condition.findings.sensitivity.n_states for condition in measured)
        nulls = {}
        for size in sorted(set(others) - {own}):
            name = f"null of {size} states"
            found = self._kept.get(name, PartFindings, self._id(name), partial(self._null_part, name, size, clean))
            nulls[size] = found.sensitivity
        return nulls

    def _null_part(self, name: str, size: int, clean: CleanFindings, identity: str) -> PartFindings:
        traces = self._null_episodes()
        selection = select_as_many([len(trace) for trace in traces], size)
        advance = self._advance(f"{name}: gradients")
        return measure_part(self._policy, traces, selection, name, clean, self._plan, identity, advance)

    def _originals(self, clean: CleanFindings, identity: str) -> PartFindings:
        traces = self._clean(clean)
        selection = attack_selection(traces, clean.shape, self._plan)
        advance = self._advance("attacked states before the attack: gradients")
        return measure_part(self._policy, traces, selection, ATTACKED, clean, self._plan, identity, advance)

    def _keep_null(self, traces: list[EpisodeTrace]) -> None:
        if self._out is None:
            self._null_traces = traces
        else:
            (self._out / SETS).mkdir(parents=True, exist_ok=True)
            save_traces(self._out / SETS / "null_episodes.npz", traces)

    def _null_episodes(self) -> list[EpisodeTrace]:
        if self._null_traces is not None:
            return self._null_traces
        assert self._out is not None  # without a directory the traces are in memory
        return load_traces(self._out / SETS / "null_episodes.npz")

    def _shift(self, name: str, shift: Shift, clean: CleanFindings, identity: str) -> ConditionFindings:
        # Before it is played: the clean episodes and the shifted ones need not be in memory together.
        flips = count_flips(self._policy, shift, self._clean(clean), self._plan, self._synonyms)
        traces = self._play(name, self._plan.clean_seed, shift=shift)
        return measure_shift(
            self._policy, traces, name, shift, flips, clean, self._plan, identity, self._advance(f"{name}: gradients")
        )

    def _attack(self, name: str, attack: Attack, clean: CleanFindings, identity: str) -> ConditionFindings:
        traces = []
        if self._plan.attack_episodes:
            traces = self._play(name, self._plan.clean_seed, attack=attack)
        return measure_attack(
            self._policy,
            traces,
            attack,
            clean,
            self._clean(clean),
            self._plan,
            identity,
            self._advance(f"{name}: states attacked"),
            self._synonyms,
        )

    def _play(
        self,
        name: str,
        seed: int,
        *,
        shift: Shift | None = None,
        attack: Attack | None = None,
        policy: QPolicy | None = None,
    ) -> list[EpisodeTrace]:
        self._check_stop()
        plan = self._plan
        episodes = plan.random_episodes if policy is not None else plan.attack_episodes if attack else plan.episodes
        max_steps = plan.max_steps
        if attack is not None:
            max_steps = min(plan.attack_steps, max_steps or plan.attack_steps)
        advance = self._advance(f"{name}: episodes")
        advance(0, episodes)
        return self._source.play(
            self._policy if policy is None else policy,
            episodes=episodes,
            seed=seed,
            epsilon=1.0 if policy is not None else plan.epsilon,
            shift=shift,
            attack=None if attack is None else self._stoppable(attack),
            max_steps=max_steps,
            progress=advance,
        )

    def _stoppable(self, attack: Attack) -> Attack:
        def attacked(pixels: torch.Tensor, **context: Any) -> torch.Tensor:
            self._check_stop()
            return attack(pixels, **context)

        return attacked

    def _advance(self, stage: str) -> Callable[[int, int], None]:
        def advance(done: int, total: int) -> None:
            self._check_stop()
            self._progress(stage, done, total)

        return advance

    def _check_stop(self) -> None:
        if self._should_stop():
            raise DiagnosisStopped

    def _clean(self, clean: CleanFindings) -> list[EpisodeTrace]:
        """The clean episodes: from disk where there is one, so that they take no memory when they are not needed."""
        if self._clean_traces is not None:
            return self._clean_traces
        traces = load_traces(self._traces_path())
        if [trace.seed for trace in traces] != clean.played.seeds.tolist():
            raise RoboprefError(f"{self._traces_path()} does not belong to the clean set: remove {SETS} and repeat.")
        return traces

    def _traces_path(self) -> Path:
        assert self._out is not None  # without a directory the traces are in memory
        return self._out / SETS / "clean_episodes.npz"

    def _id(self, name: str, detail: str = "") -> str:
        return identity_of(self._identity, name, detail)


def describe_policy(q_policy: QPolicy) -> dict[str, str]:
    """The policy's class and a digest of its weights."""
    kind = type(q_policy)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    if isinstance(q_policy, torch.nn.Module):
        for name, tensor in sorted(q_policy.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {"policy": kind.__qualname__, "policy_id": digest.hexdigest()[:12]}


def software_versions() -> dict[str, str]:
    """Of what decides a result."""
    return {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES}


def _default_subject(q_policy: QPolicy, clean: CleanFindings) -> Subject:
    told = describe_policy(q_policy)
    n_actions = clean.peak_q_values.shape[1]
    return Subject(
        policy=told["policy"],
        policy_id=told["policy_id"],
        architecture=told["policy"],
        task="unnamed task",
        environment={},
        actions=tuple(f"action {index}" for index in range(n_actions)),
        value_unit="value",
        shape=clean.shape,
        frame_stack=clean.frame_stack,
        channels_per_frame=clean.shape[0] // clean.frame_stack,
    )


def _attack_text(attack: Attack) -> str:
    """An attack's settings, where it has a text of its own."""
    return str(attack) if type(attack).__str__ is not object.__str__ else getattr(attack, "__name__", "")
