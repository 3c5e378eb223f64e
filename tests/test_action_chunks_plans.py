"""How a chunk is executed: the plan is used up before the next is made, unless another drove meanwhile."""

import numpy as np
import pytest
from chunk_policies import BINNED, FAST, A, H, chunk_policy
from test_policies import UNIT, observations

from robopref.errors import RoboprefError
from robopref.evaluation.rollouts import PolicyRunner
from robopref.policies.action_plan import ActionPlan


def test_a_plan_is_used_up_before_the_next_is_made():
    made = []

    def chunk():
        made.append(len(made))
        return 10 * made[-1] + np.arange(4.0)[:, None]

    plan = ActionPlan(3)
    assert [plan.next(chunk).item() for _ in range(4)] == [0, 1, 2, 10]
    plan.reset()
    assert plan.next(chunk).item() == 20
    assert len(made) == 3
    with pytest.raises(RoboprefError, match="at least one"):
        ActionPlan(0)


@pytest.mark.parametrize("tokenizer", [BINNED, FAST], ids=["binned", "fast"])
def test_single_observations_follow_the_plan_and_batches_never_do(tokenizer):
    policy = chunk_policy(tokenizer, execute_steps=3)
    states = observations(8)["state"]
    fresh = policy.act({"state": states}, ["reach"] * 8)  # decided at each state, with nobody's plan

    def act(i):
        return policy.act({"state": states[i : i + 1]}, ["reach"])[0]

    played = [act(0), act(1)]
    np.testing.assert_array_equal(policy.act({"state": states}, ["reach"] * 8), fresh)
    played += [act(2), act(3)]
    np.testing.assert_allclose(played[0], fresh[0], atol=1e-6)
    np.testing.assert_allclose(played[3], fresh[3], atol=1e-6)  # the plan of three is used up
    batch = policy.encode({"state": states[:1]}, ["reach"])
    tokens = policy.network.greedy(batch.features).numpy()
    np.testing.assert_allclose(played[:3], UNIT.unnormalize(tokenizer.decode(tokens)[0])[:3], atol=1e-6)
    policy.reset()
    np.testing.assert_allclose(act(5), fresh[5], atol=1e-6)
    with pytest.raises(RoboprefError, match="cannot be executed"):
        chunk_policy(tokenizer, execute_steps=H + 1)


def test_a_runner_drops_the_plan_when_told_that_another_drove():
    import gymnasium as gym

    policy = chunk_policy(BINNED)
    runner = PolicyRunner(policy, gym.spaces.Box(-1, 1, (A,), np.float32))
    states = observations(4)["state"]
    fresh = np.clip(policy.act({"state": states}, ["reach"] * 4), -1, 1)
    np.testing.assert_allclose(runner({"state": states[0]}, "reach"), fresh[0], atol=1e-6)
    assert not np.allclose(runner({"state": states[1]}, "reach"), fresh[1])
    runner.reset()
    np.testing.assert_allclose(runner({"state": states[2]}, "reach"), fresh[2], atol=1e-6)
