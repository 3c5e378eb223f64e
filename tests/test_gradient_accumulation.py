"""A batch in pieces: the gradient of the whole, the dropout of the first pass again in the second."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_policies import AdapterPolicy, PairScoringPolicy
from small_runs import Run

from robopref.errors import RoboprefError
from robopref.training.config import TrainerConfig
from robopref.training.randomness import SampleRandomness


def gradients(objective: str, micro_batch_size: int | None, steps: int, **keywords: Any) -> dict[str, torch.Tensor]:
    """The gradients of the last step, clipped and still there after the optimiser used them."""
    run = Run(objective, steps=steps, batch_size=16, micro_batch_size=micro_batch_size, **keywords)
    run.trainer.run()
    return {name: p.grad.double() for name, p in run.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("objective", ["apo", "kto", "dpo", "bc", "tpo"])
def test_pieces_have_the_gradient_of_the_whole(objective: str, steps: int) -> None:
    whole = gradients(objective, None, steps)
    scale = max(g.abs().max() for g in whole.values())
    for size in (1, 3, 16):
        pieces = gradients(objective, size, steps)
        assert pieces.keys() == whole.keys()
        for name, gradient in whole.items():
            tolerance = 1e-6 * float(scale) * (1 if steps == 1 else 10)  # later steps start from weights that differ
            torch.testing.assert_close(pieces[name], gradient, rtol=0, atol=tolerance)


def test_gradients_of_plain_accumulation_would_differ() -> None:
    """What the two passes are for: means over pieces are not the mean over the whole where classes are weighed."""
    run = Run("apo", batch_size=16)
    part, reference = run.trainer.reference.score(run.trainer.composer.part(0))
    outputs = run.trainer.passes.score(part)
    labels = run.trainer.dataset.labels[part.indices]
    columns = {
        "logps": outputs.logps,
        "second": outputs.kl_logps,
        "reference": reference.logps,
        "second_reference": reference.second_logps,
        "action_error": run.trainer._action_error(outputs.greedy_tokens, part.indices),
    }

    def loss(rows: slice) -> float:
        piece = {name: None if value is None else value[rows] for name, value in columns.items()}
        return run.trainer.objective(run.trainer._inputs(piece, labels[rows])).loss.item()

    assert abs(loss(slice(16)) - (loss(slice(8)) + loss(slice(8, 16))) / 2) > 1e-3


@pytest.mark.parametrize("objective", ["kto", "dpo"])
def test_both_passes_of_a_piece_drop_the_same(objective: str) -> None:
    policy = AdapterPolicy(dropout=0.5)
    run = Run(objective, policy=policy, steps=2, batch_size=15, micro_batch_size=4)
    run.trainer.run()
    seen = [features for adapter, features in policy.seen if adapter == "policy"]
    assert len(seen) == 2 * 2 * 4  # steps, passes, pieces
    for step in range(2):
        first, second = seen[8 * step :][:4], seen[8 * step + 4 :][:4]
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)


def test_dropout_is_a_function_of_seed_and_step(tmp_path: Any) -> None:
    def weights(**keywords: Any) -> dict[str, torch.Tensor]:
        run = Run("kto", policy="adapter", **keywords)
        run.policy.dropout.p = 0.5
        run.trainer.resume()
        run.trainer.run()
        return run.weights()

    torch.manual_seed(7)
    whole = weights()
    torch.manual_seed(8)
    torch.testing.assert_close(weights(), whole, rtol=0, atol=0)
    weights(stop_after=2, state=tmp_path / "state.pt")
    torch.testing.assert_close(weights(state=tmp_path / "state.pt"), whole, rtol=0, atol=0)
    other = weights(seed=1)
    assert any(not torch.equal(other[name], whole[name]) for name in whole)


def test_the_reference_drops_nothing_though_it_shares_the_dropout() -> None:
    policy = AdapterPolicy(dropout=0.5)
    run = Run("kto", policy=policy, steps=1, batch_size=15)
    policy.train()
    policy.inner.network.fuse.eval()  # a module that somebody keeps frozen stays so
    part = run.trainer.composer.part(0)
    scores = [run.trainer.reference.score(part)[1].logps for _ in range(2)]
    assert torch.equal(scores[0], scores[1])
    assert policy.dropout.training
    assert policy.training
    assert not policy.inner.network.fuse.training


@pytest.mark.parametrize("objective", ["apo", "dpo", "bc", "tpo"])
def test_a_policy_that_scores_pairs_is_asked_once_for_both(objective: str) -> None:
    pairwise = PairScoringPolicy()
    run, plain = Run(objective, policy=pairwise, steps=1), Run(objective, policy=PairScoringPolicy(), steps=1)
    part = run.trainer.composer.part(0)
    if run.trainer.objective.needs_reference:
        part, _ = run.trainer.reference.score(part)
    pairwise.scored = pairwise.passes = 0
    outputs = run.trainer.passes.score(part)
    assert (pairwise.scored, pairwise.passes) == (1, 0)
    assert outputs.kl_logps is None or outputs.kl_logps.requires_grad == (objective == "dpo")
    plain.trainer.passes.bare._scores_both = False  # as if it had no ``score``
    separate = plain.trainer.passes.score(part)
    torch.testing.assert_close(tuple(outputs), tuple(separate), rtol=0, atol=0)


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([None, 1, 4]), st.data())
def test_a_samples_numbers_do_not_depend_on_who_asks(
    seed: int, step: int, size: int, variants: int | None, data: st.DataObject
) -> None:
    randomness = SampleRandomness(seed, size, variants)
    positions = np.arange(size)
    indices = np.array(data.draw(st.lists(st.integers(0, 30), min_size=size, max_size=size)))
    some = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size)))
    chosen = randomness.variants(step, positions)
    assert randomness.variants(step, some).tolist() == chosen[some].tolist()
    assert set(chosen) <= set(range(variants or 1))
    shifts = randomness.shifts(step, positions, indices, chosen, 3)
    part = randomness.shifts(step, some, indices[some], chosen[some], 3)
    assert part.tolist() == shifts[:, some].tolist()
    assert np.abs(shifts).max() <= 3
    uniforms = randomness.uniforms(step, positions, indices, chosen, 5)
    assert randomness.uniforms(step, some, indices[some], chosen[some], 5).tolist() == uniforms[some].tolist()
    if variants:  # of the sample and its variant alone
        moved = randomness.shifts(step + 1, positions[::-1], indices, chosen, 3)
        assert moved.tolist() == shifts.tolist()


def test_impossible_settings() -> None:
    with pytest.raises(RoboprefError, match="micro_batch_size is at least 1"):
        TrainerConfig(micro_batch_size=0)
    with pytest.raises(RoboprefError, match="CompactPolicy cannot recompute activations"):
        Run(activation_checkpointing=True)


def test_activation_checkpointing_is_the_policys_own() -> None:
    policy = AdapterPolicy()
    asked: list[bool] = []
    policy.enable_activation_checkpointing = lambda: asked.append(True)  # type: ignore[assignment]
    Run("kto", policy=policy, activation_checkpointing=True)
    assert asked == [True]
