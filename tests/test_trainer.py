import itertools
import json

import numpy as np
import pytest
import torch
from synthetic import demonstrations, episode, interactions, right_action
from test_policies import tiny_policy

from robopref.errors import RoboprefError
from robopref.labeling import LabelingRule
from robopref.objectives import get_objective
from robopref.sampling import BalancedSampler
from robopref.training.augmentation import shift_images
from robopref.training.dataset import StepDataset
from robopref.training.trainer import Trainer, TrainerConfig, learning_rate_factor, make_accelerator
from robopref.trajectory import Actor, Label

APO_SHARES = (0.5, 0.25, 0.25)


def make_trainer(
    tmp_path, objective="apo", *, steps=30, state="state.pt", policy=None, fingerprint="", stop=None, seed=0, **settings
):
    policy = policy or tiny_policy()
    episodes = demonstrations() + interactions()
    labels = [LabelingRule(window=5).apply(e) for e in episodes]
    dataset = StepDataset(episodes, labels, policy, policy.observation_keys)
    config = TrainerConfig(
        steps=steps, batch_size=16, learning_rate=3e-3, log_every=1, checkpoint_every=7, seed=seed, precision="fp32"
    )
    shares = (1.0, 0.0, 0.0) if objective == "bc" else APO_SHARES
    curve = {}
    trainer = Trainer(
        policy,
        dataset,
        BalancedSampler(dataset.labels, 16, shares=shares, seed=seed),
        get_objective(objective, **settings),
        config,
        accelerator=make_accelerator("fp32", "cpu"),
        state_path=tmp_path / state,
        fingerprint=fingerprint,
        log=lambda metrics, step: curve.__setitem__(step, metrics),
        should_stop=stop or (lambda: False),
    )
    return trainer, curve


def error_on(policy, episodes):
    obs = {k: np.concatenate([e.observation[k] for e in episodes]) for k in policy.observation_keys}
    wanted = right_action(obs["state"])
    return np.abs(policy.act(obs, ["reach the goal"] * len(wanted)) - wanted).mean()


def test_cloning_learns_the_demonstrated_action(tmp_path):
    trainer, curve = make_trainer(tmp_path, "bc", steps=700)
    before = error_on(trainer.policy, demonstrations(2))
    assert trainer.run()
    assert error_on(trainer.policy, demonstrations(2)) < 0.4 * before
    assert curve[700]["loss"] < 0.3 * curve[1]["loss"]


@pytest.mark.parametrize("objective", ["apo", "kto"])
def test_preferences_separate_what_the_human_did_from_what_led_to_the_takeover(tmp_path, objective):
    trainer, curve = make_trainer(tmp_path, objective, steps=500)
    trainer.run()
    assert curve[1]["rewards/margins"] == pytest.approx(0, abs=1e-6)  # policy and reference start alike
    assert curve[500]["rewards/margins"] > 0.2
    assert curve[500]["shares/expert"] == pytest.approx(0.5)
    assert curve[500]["shares/undesirable"] == pytest.approx(0.25)


def test_the_reference_variant_runs_through_the_trainer(tmp_path):
    trainer, curve = make_trainer(tmp_path, "apo", steps=400, variant="reference")
    assert trainer.objective.own_prefix_kl
    trainer.run()
    assert curve[400]["rewards/margins"] > 0.2


def test_a_stopped_run_resumes_to_the_identical_loss_curve(tmp_path):
    whole, whole_curve = make_trainer(tmp_path, steps=30, state="whole.pt")
    whole.run()
    stops = iter([False] * 11 + [True] * 99)
    first, curve = make_trainer(tmp_path, steps=30, stop=lambda: next(stops))
    assert not first.run()
    assert first.step == 12
    second, rest = make_trainer(tmp_path, steps=30)
    assert second.resume()
    assert second.step == 12
    assert second.run()
    curve |= rest
    assert curve == whole_curve  # every metric of every step, to the last bit
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path):
    whole, whole_curve = make_trainer(tmp_path, steps=30, state="whole.pt")
    whole.run()

    class Killed(BaseException):
        pass

    steps = iter(range(99))

    def die():
        if next(steps) == 17:
            raise Killed

    first, _ = make_trainer(tmp_path, steps=30, stop=die)
    with pytest.raises(Killed):
        first.run()
    second, rest = make_trainer(tmp_path, steps=30)
    second.resume()
    assert second.step == 14  # the last multiple of checkpoint_every
    second.run()
    assert all(rest[step] == whole_curve[step] for step in range(15, 31))


def test_the_state_of_another_run_is_refused(tmp_path):
    trainer, _ = make_trainer(tmp_path, steps=7, fingerprint="this data")
    trainer.run()
    other, _ = make_trainer(tmp_path, steps=7, fingerprint="that data")
    with pytest.raises(RoboprefError, match="other data or settings"):
        other.resume()


def test_a_diverging_loss_says_what_to_do(tmp_path):
    policy = tiny_policy()
    with torch.no_grad():
        policy.network.head_bias.fill_(float("nan"))
    trainer, _ = make_trainer(tmp_path, "bc", policy=policy)
    with pytest.raises(RoboprefError, match=r"NaN|learning rate"):
        trainer.run()


def test_warm_up_then_cosine():
    config = TrainerConfig(steps=110, warmup_steps=10)
    factors = [learning_rate_factor(step, config) for step in range(110)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[60] == pytest.approx(0.5)
    assert factors[-1] < 1e-3
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


# --- data


def make_dataset(episodes, policy=None):
    policy = policy or tiny_policy()
    return StepDataset(episodes, [LabelingRule(window=5).apply(e) for e in episodes], policy, policy.observation_keys)


def test_samples_are_the_recorded_steps_with_their_labels():
    episodes = demonstrations(2, length=7) + interactions(1)
    dataset = make_dataset(episodes)
    assert len(dataset) == 14 + 48
    index = 14 + 15  # the first human step of the interaction
    sample = dataset.gather(np.array([index, 3]))
    np.testing.assert_array_equal(sample.observations["state"][0], episodes[2].observation["state"][15])
    np.testing.assert_array_equal(sample.observations["state"][1], episodes[0].observation["state"][3])
    assert dataset.labels[index] == Label.HUMAN
    assert dataset.labels[index - 1] == Label.UNDESIRABLE
    assert dataset.labels[index - 6] == Label.POLICY
    policy = tiny_policy()
    decoded = policy.tokenizer.decode(sample.tokens)
    np.testing.assert_allclose(decoded[0], policy.norm_stats.normalize(episodes[2].action[15]), atol=1 / 250)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        ([episode([Actor.POLICY] * 3, discrete=True)], "discrete"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(episodes, message):
    with pytest.raises(RoboprefError, match=message):
        make_dataset(episodes)


def test_a_missing_observation_is_named():
    with pytest.raises(RoboprefError, match="lacks the observation 'image'"):
        make_dataset(demonstrations(1), tiny_policy(("image",)))


def test_image_shifts_move_each_picture_as_a_whole():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    shifted = shift_images({"image": images, "state": np.ones(6)}, rng.integers(-2, 3, (2, 6)))
    assert shifted["image"].shape == images.shape
    for original, moved in zip(images, shifted["image"], strict=True):
        padded = np.pad(original, ((2, 2), (2, 2), (0, 0)), mode="edge")
        crops = [padded[r : r + 12, c : c + 12] for r in range(5) for c in range(5)]
        assert any(np.array_equal(moved, crop) for crop in crops)
    assert not np.array_equal(shifted["image"], images)
    np.testing.assert_array_equal(shift_images({"image": images}, np.zeros((2, 6), int))["image"], images)


def test_the_training_state_executes_no_code(tmp_path):
    trainer, _ = make_trainer(tmp_path, steps=7)
    trainer.run()
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["step"] == 7
    assert json.dumps(loaded["fingerprint"]) == '""'
