"""Episodes of an action-token policy in a robot task, as a diagnosis of one of its action dimensions takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robopref.cli.seeds import episode_seeds
from robopref.diagnosis.collection import Attack, EpisodeTrace, Progress, Shift, load_traces, save_traces
from robopref.diagnosis.findings import identity_of
from robopref.diagnosis.gradients import device_of
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.evaluation.rollouts import PolicyRunner, instruction_for
from robopref.policies.q_tokens import INSTRUCTION, TOKENS, TokenQPolicy, encode_instructions, greedy_tokens
from robopref.protocols import QPolicy, TokenPolicy

_VALUED_AT_ONCE = 64


class TaskSource:
    """Plays a policy that reads an image; the same episodes serve every action dimension.

    An episode ends where it succeeds, and the reward of that step is 1, so that a trace's score is the success. Its
    actions are the bins of the action dimension that is asked about, its context what ``TokenQPolicy.q_values`` takes
    beside the image. The layout of episode i is that of episode i of ``robopref evaluate`` under the same seed.

    Args:
        policy: what acts, whatever Q policy is played: the latter is one of its decisions.
        task: as ``make_task`` takes it.
        image_size: pixels a side.
        kept: directory in which episodes are kept, so that they are played once for all action dimensions; None:
            they are played again when asked for again. In memory none are kept: those of every shift would be there.

    Raises:
        RoboprefError: the policy reads no image, or no such task.
    """

    def __init__(self, policy: TokenPolicy, task: str, image_size: int, *, kept: Path | None = None) -> None:
        if "image" not in policy.observation_keys:
            raise RoboprefError(
                f"the policy reads {', '.join(policy.observation_keys)} and no image, to which shifts could apply; "
                "robopref.policies.q_tokens has its decisions for use in Python."
            )
        self._policy, self._task = policy, task
        self._env: Any = make_task(task, image=True, image_size=image_size)
        self._runner = PolicyRunner(policy, self._env.action_space)
        self._kept = kept

    def play(
        self,
        q_policy: QPolicy,
        *,
        episodes: int,
        seed: int,
        epsilon: float,
        shift: Shift | None = None,
        attack: Attack | None = None,
        max_steps: int | None = None,
        progress: Progress | None = None,
    ) -> list[EpisodeTrace]:
        """As ``EpisodeSource`` says; with an ``epsilon`` of 1 the robot moves at random."""
        path = None
        if self._kept is not None and attack is None:  # an attack is on one dimension, and its episodes serve no other
            path = self._kept / f"{identity_of(episodes, seed, epsilon, str(shift), max_steps)}.npz"
        if path is not None and path.exists():
            traces = load_traces(path)
        else:
            traces = []
            for number, episode_seed in enumerate(episode_seeds("evaluate", seed, episodes), start=1):
                traces.append(self._episode(episode_seed, epsilon, shift, attack, max_steps))
                if progress is not None:
                    progress(number, episodes)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_traces(path, traces)
        return [_valued(trace, q_policy) for trace in traces]

    def close(self) -> None:
        """End the simulation."""
        self._env.close()

    def _episode(
        self, seed: int, epsilon: float, shift: Shift | None, attack: Attack | None, max_steps: int | None
    ) -> EpisodeTrace:
        """One episode; ``actions`` holds zeros until ``_valued`` says of which dimension they are."""
        rng, space = np.random.default_rng(seed), self._env.action_space
        instruction = instruction_for(self._env.unwrapped, seed, paraphrase=False)
        observation, _ = self._env.reset(seed=seed)
        rows: dict[str, list[Any]] = {name: [] for name in ("image", "rewards", TOKENS, *self._beside)}
        ended = False
        while not ended and len(rows["rewards"]) != max_steps:
            image = observation["image"] if shift is None else shift(observation["image"][None])[0]
            seen = {name: np.asarray(observation[name]) for name in self._beside} | {"image": image}
            batch: dict[str, Any] = {name: value[None] for name, value in seen.items()}
            tokens = greedy_tokens(self._policy, batch, [instruction])
            self._runner.reset()  # what is diagnosed is the decision at this state, not a plan of an earlier one
            at_random = rng.random() < epsilon
            action = rng.uniform(space.low, space.high).astype(np.float32)
            if attack is not None and not at_random:
                attacked = batch | {"image": self._attacked(attack, batch, tokens, instruction)}
                action = np.clip(self._policy.act(attacked, [instruction])[0], space.low, space.high)
            elif not at_random:
                action = self._runner(seen, instruction)
            observation, _, terminated, truncated, info = self._env.step(action)
            success = bool(info.get("success", False))
            ended = success or bool(terminated or truncated)  # a user's task may go on after its success
            rows["rewards"].append(float(success))
            for name, value in (("image", image), (TOKENS, tokens[0]), *((n, seen[n]) for n in self._beside)):
                rows[name].append(value)
        length = len(rows["rewards"])
        context = {name: np.stack(rows[name]) for name in (TOKENS, *self._beside)}
        return EpisodeTrace(
            frames=np.stack(rows["image"]),
            actions=np.zeros(length, np.int64),
            rewards=np.array(rows["rewards"], np.float32),
            q_values=np.zeros((length, 2), np.float32),
            seed=seed,
            finished=ended,
            frame_stack=1,
            epsilon=epsilon,
            shift="" if shift is None else str(shift),
            context=context | {INSTRUCTION: encode_instructions([instruction] * length)},
        )

    def _attacked(
        self, attack: Attack, batch: dict[str, NDArray[Any]], tokens: NDArray[np.int64], instruction: str
    ) -> torch.Tensor:
        """The image [1, H, W, 3] in [0, 1] that the policy is made to see instead."""
        pixels = torch.from_numpy(np.moveaxis(batch["image"], -1, 1).astype(np.float32) / np.float32(255))
        context = {name: value for name, value in batch.items() if name != "image"}
        context |= {TOKENS: tokens, INSTRUCTION: encode_instructions([instruction])}
        # An attack works where its pixels are: on another device than the policy it would copy it at every step.
        return attack(pixels.to(device_of(self._policy)), context=context).detach().cpu().permute(0, 2, 3, 1)

    @property
    def _beside(self) -> list[str]:
        """The observations that the policy reads beside the image."""
        return [name for name in self._policy.observation_keys if name != "image"]


def _valued(trace: EpisodeTrace, q_policy: QPolicy) -> EpisodeTrace:
    """The trace with the values of one decision, and the greedy action of it at every step."""
    values = []
    for start in range(0, len(trace), _VALUED_AT_ONCE):
        rows = np.arange(start, min(start + _VALUED_AT_ONCE, len(trace)))
        pixels = torch.from_numpy(trace.states(rows).astype(np.float32) / np.float32(255))
        context = {name: torch.as_tensor(value) for name, value in trace.context_at(rows).items()}
        with torch.no_grad():
            values.append(q_policy.q_values(pixels, **context).float().cpu().numpy())
    q_values = np.concatenate(values)
    if not np.isfinite(q_values).all():
        raise RoboprefError("the policy gives logits that are not finite: check its weights for NaN.")
    actions = q_values.argmax(axis=1)
    if isinstance(q_policy, TokenQPolicy):
        actions = trace.context[TOKENS][:, q_policy.dimension] - 1
    return EpisodeTrace(**(vars(trace) | {"q_values": q_values, "actions": actions.astype(np.int64)}))
