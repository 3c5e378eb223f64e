"""The instruction decides: one policy for two tasks, the same observations, another sentence."""

import numpy as np
import pytest
from test_policies import tiny_policy

from robopref.envs.registry import make_task
from robopref.labeling import LabelingRule
from robopref.objectives import get_objective
from robopref.policies.compact import build_compact_policy
from robopref.sampling import BalancedSampler
from robopref.store.recorder import RecordEpisodes
from robopref.store.store import EpisodeStore
from robopref.training.dataset import StepDataset
from robopref.training.trainer import Trainer, TrainerConfig, make_accelerator

TASKS = ("button-press", "drawer-open")
STEPS = 35  # long enough for the hand to be on its way to one of the two


def expert_paths(task, store, seeds):
    """Record demonstrations; returns where the expert's hand is after STEPS, averaged over the seeds."""
    env = make_task(task, image=False)
    recorder = RecordEpisodes(env, store, task=task, instruction=env.unwrapped.instruction)
    expert, ends = env.unwrapped.make_expert(), []
    for seed in seeds:
        observation, _ = recorder.reset(seed=seed)
        expert.reset()
        done, step = False, 0
        while not done:
            observation, _, terminated, truncated, _ = recorder.step(expert(observation))
            done, step = terminated or truncated, step + 1
            if step == STEPS:
                ends.append(observation["proprio"][:3])
    recorder.close()
    return np.mean(ends, axis=0)


def policy_path(policy, task, instruction, seed):
    env = make_task(task, image=False)
    observation, _ = env.reset(seed=seed)
    for _ in range(STEPS):
        action = policy.act({"proprio": observation["proprio"][None]}, [instruction])[0]
        observation, *_ = env.step(np.clip(action, -1, 1))
    env.close()
    return observation["proprio"][:3]


@pytest.mark.slow
def test_swapping_the_instruction_sends_a_multi_task_policy_elsewhere(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / "demos")
    ends = {task: expert_paths(task, store, range(6)) for task in TASKS}
    instructions = {task: make_task(task, image=False).unwrapped.instruction for task in TASKS}
    assert np.linalg.norm(ends[TASKS[0]] - ends[TASKS[1]]) > 0.1  # the two tasks do lead elsewhere
    episodes = list(store)
    policy = build_compact_policy(
        ("proprio",),
        {"proprio": np.concatenate([e.observation["proprio"] for e in episodes])},
        np.concatenate([e.action for e in episodes]),
        instructions,
        seed=0,
    )
    dataset = StepDataset(episodes, [LabelingRule(0).apply(e) for e in episodes], policy, ("proprio",))
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 64, shares=(1.0, 0.0, 0.0)),
        get_objective("bc"),
        TrainerConfig(steps=400, batch_size=64, precision="fp32"),
        accelerator=make_accelerator("fp32", "cpu"),
    )
    trainer.run()
    for shown, other in (TASKS, TASKS[::-1]):
        told = policy_path(policy, shown, instructions[shown], seed=77)
        swapped = policy_path(policy, shown, instructions[other], seed=77)
        assert np.linalg.norm(told - ends[shown]) < 0.1  # it does what it is told,
        assert np.linalg.norm(swapped - told) > 0.1  # and something else when told something else


def test_the_instruction_reaches_the_action_through_the_image_encoder_too():
    policy = tiny_policy(("image", "proprio"))
    observations = {
        "image": np.zeros((2, 16, 16, 3), dtype=np.uint8),
        "proprio": np.zeros((2, 3), dtype=np.float32),
    }
    batch = policy.encode(observations, ["press the button", "open the drawer"])
    assert not np.allclose(batch.features[0].detach(), batch.features[1].detach())
