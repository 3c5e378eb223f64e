"""A Gymnasium wrapper in which an operator watches the policy and may drive instead of it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.protocols import OPERATOR_EVENT, OPERATOR_STOP, STEP_RECORD, Mode, Operator, OperatorEvent, StepRecord
from robopref.trajectory import Actor

_ACTORS = {Mode.FOLLOW: Actor.POLICY, Mode.TAKE_OVER: Actor.HUMAN, Mode.HOLD: Actor.HOLD}


class InterventionEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Asks an operator at every step whether the policy, the operator or nobody drives.

    FOLLOW executes the policy's action, TAKE_OVER the operator's, HOLD the hold action. STOP ends the episode: the
    environment is not stepped, the last observation comes back with reward 0 and ``truncated``, and ``info`` has
    ``operator_stop`` true and ``success`` as the operator's event judges it. What was executed last is then the
    environment's last command: over a robot that keeps it, an operator answers HOLD before STOP, as
    ``StationOperator`` does, and that step is recorded like any other.

    At every other step ``info`` carries

    - ``is_intervention``: whether the operator drove, and only then ``intervene_action``, what was executed;
    - ``step_record``: the ``StepRecord`` (executed action, the policy's and the operator's, actor, segment);
    - ``clipped``: how many components of the policy's and the operator's action lay outside a Box and were clipped;
    - ``operator_event``: only when the operator raised one.

    A segment is one takeover, numbered from 0 in each episode; a HOLD does not end it, a FOLLOW does.

    Args:
        env: any environment whose actions are a ``Box`` of floats or ``Discrete``; observations are free.
        operator: who watches.
        hold_action: what HOLD executes; zeros for a Box and 0 for Discrete if not given.

    Raises:
        RoboprefError: another action space, a hold action outside it, or, from ``step``, an action of the policy or of
            the operator that has the wrong shape, is not finite, or is no number of the Discrete space.
    """

    def __init__(self, env: gym.Env[Any, Any], operator: Operator, *, hold_action: Any = None) -> None:
        super().__init__(env)
        self.operator = operator
        self._check = _action_check(env.action_space)
        zero = np.zeros(env.action_space.shape or (), env.action_space.dtype)
        self._hold_action, outside = self._check(zero if hold_action is None else hold_action, "hold action")
        if outside:
            raise RoboprefError(f"the hold action lies outside {env.action_space}: pass hold_action, a safe command.")
        self._observation: Any = None
        self._segment_id = -1
        self._driving = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, then the operator with its ``info`` plus ``seed``, ``task`` and ``instruction``."""
        observation, info = self.env.reset(seed=seed, options=options)
        base = self.env.unwrapped
        spec_id = base.spec.id if base.spec is not None else type(base).__name__
        self.operator.reset(
            {
                "task": getattr(base, "task_name", spec_id),
                "instruction": getattr(base, "instruction", ""),
                **info,
                "seed": seed if seed is not None else info.get("seed"),
            }
        )
        self._observation = observation
        self._segment_id = -1
        self._driving = False
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Propose the policy's action; what is executed is the operator's choice."""
        if self._observation is None:
            raise RoboprefError("the episode has not begun: call reset() before step().")
        policy_action, clipped = self._check(action, "policy's action")
        command = self.operator.command(self._observation, policy_action)
        if command.mode is Mode.STOP:
            return self._stop(command.event)

        human_action: NDArray[Any] | None = None
        if command.mode is Mode.TAKE_OVER:
            human_action, human_clipped = self._check(command.action, "operator's action")
            clipped += human_clipped
            self._segment_id += not self._driving
            self._driving = True
            executed = human_action
        elif command.mode is Mode.FOLLOW:
            self._driving = False
            executed = policy_action
        else:
            executed = self._hold_action
        record = StepRecord(
            action=executed,
            actor=_ACTORS[command.mode],
            policy_action=policy_action,
            human_action=human_action,
            segment_id=self._segment_id if self._driving else -1,
        )
        # A copy, so that an environment which works on its action in place cannot change the record.
        self._observation, reward, terminated, truncated, info = self.env.step(executed.copy())
        info = {**info, "is_intervention": human_action is not None, STEP_RECORD: record, "clipped": clipped}
        if human_action is not None:
            info["intervene_action"] = human_action
        if command.event is not None:
            info[OPERATOR_EVENT] = command.event
        return self._observation, reward, terminated, truncated, info

    def _stop(self, event: OperatorEvent | None) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        info: dict[str, Any] = {
            "is_intervention": False,
            "clipped": 0,
            OPERATOR_STOP: True,
            "success": event is OperatorEvent.SUCCESS,
        }
        if event is not None:
            info[OPERATOR_EVENT] = event
        return self._observation, 0.0, False, True, info


def _action_check(space: gym.Space[Any]) -> Any:
    """A function (action, whose) -> (array that the space contains, number of components clipped)."""
    if isinstance(space, gym.spaces.Discrete):
        return lambda action, whose: (_checked_discrete(action, whose, space), 0)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return lambda action, whose: _checked_box(action, whose, space)
    raise RoboprefError(f"an operator can take over Box (float) or Discrete actions, not {space}.")


def _checked_discrete(action: Any, whose: str, space: gym.spaces.Discrete) -> NDArray[Any]:
    array = np.asarray(action)
    if array.shape != () or not np.issubdtype(array.dtype, np.integer):
        raise RoboprefError(f"the {whose} {action!r} is not one integer, as {space} asks.")
    if not space.start <= array < space.start + space.n:
        raise RoboprefError(f"the {whose} {array} is not in {space.start}..{space.start + space.n - 1}.")
    return array.astype(space.dtype)


def _checked_box(action: Any, whose: str, space: gym.spaces.Box) -> tuple[NDArray[Any], int]:
    try:
        array = np.asarray(action, dtype=space.dtype)
    except (TypeError, ValueError) as error:
        raise RoboprefError(f"the {whose} {action!r} is not an array of numbers.") from error
    if array.shape != space.shape:
        raise RoboprefError(f"the {whose} has shape {array.shape}, the environment takes {space.shape}.")
    if not np.isfinite(array).all():
        raise RoboprefError(f"the {whose} holds NaN or infinity: {array}.")
    inside = np.minimum(np.maximum(array, space.low), space.high)
    return inside, int(np.count_nonzero(inside != array))
