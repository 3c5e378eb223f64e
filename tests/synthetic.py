"""Small recorded episodes for tests of training: the right action is a simple function of the state."""

import numpy as np

from robopref.trajectory import NULL_DISCRETE, Actor, Episode, EpisodeInfo, Outcome


def right_action(state):
    """What the expert does: half a unit towards the sign of each coordinate."""
    return np.where(state[:, :4] > 0, 0.5, -0.5)


def episode(actors, seed=0, *, instruction="reach the goal", state_size=5, image=False, discrete=False, **info):
    """An episode whose human and expert actions follow the signs of the state; the policy's oppose them."""
    rng = np.random.default_rng(seed)
    actors = np.asarray(actors, dtype=np.int8)
    length = len(actors)
    state = rng.uniform(-1, 1, (length, state_size)).astype(np.float32)
    right = right_action(state)
    wrong = -right
    taught = np.isin(actors, (Actor.EXPERT, Actor.HUMAN))[:, None]
    action = np.where(taught, right, wrong).astype(np.float32)
    nothing = np.full_like(action, np.nan)
    observation = {"state": state, "proprio": state[:, :3].copy()}
    if image:
        observation["image"] = rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)
    policy_action = np.where((actors == Actor.EXPERT)[:, None], nothing, wrong).astype(np.float32)
    human_action = np.where((actors == Actor.HUMAN)[:, None], right, nothing).astype(np.float32)
    if discrete:
        action = np.zeros(length, dtype=np.int64)
        policy_action, human_action = action, np.full(length, NULL_DISCRETE)
    human = actors == Actor.HUMAN
    onsets = human & ~np.concatenate([[False], human[:-1]])
    return Episode(
        info=EpisodeInfo(
            **{"task": "reach", "instruction": instruction, "seed": seed, "outcome": Outcome.SUCCESS} | info,
        ),
        observation=observation,
        action=action,
        policy_action=policy_action,
        human_action=human_action,
        actor=actors,
        segment_id=np.where(human, np.cumsum(onsets) - 1, -1).astype(np.int32),
        reward=np.zeros(length),
        terminated=np.arange(length) == length - 1,
        truncated=np.zeros(length, dtype=bool),
        success=np.arange(length) == length - 1,
        t_monotonic_ns=np.arange(length) * 50_000_000,
        final_observation={k: v[-1] for k, v in observation.items()},
    )


def demonstrations(count=4, length=40, **keywords):
    """Expert episodes."""
    return [episode([Actor.EXPERT] * length, seed=i, **keywords) for i in range(count)]


def interactions(count=4, **keywords):
    """Episodes with two takeovers each."""
    pattern = [Actor.POLICY] * 15 + [Actor.HUMAN] * 10 + [Actor.POLICY] * 12 + [Actor.HUMAN] * 8 + [Actor.POLICY] * 3
    return [episode(pattern, seed=100 + i, **keywords) for i in range(count)]
