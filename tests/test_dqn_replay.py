import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.dqn.replay import PrioritizedReplay
from robopref.errors import RoboprefError


def games(length, num_envs, seed):
    """A history of games as a NEXT_STEP environment gives it: per game a list of rows (dicts)."""
    rng = np.random.default_rng(seed)
    histories = []
    for _ in range(num_envs):
        rows, first, over = [], True, False
        for _ in range(length):
            ending = not over and rng.random() < 0.2
            truncated = bool(ending and rng.random() < 0.4)
            rows.append(
                {
                    "frame": int(rng.integers(1, 256)),
                    "action": int(rng.integers(3)),
                    "reward": 0.0 if over else float(rng.integers(-1, 2)),
                    "terminated": bool(ending and not truncated),
                    "truncated": truncated,
                    "first": first,
                    "acted": not over,
                }
            )
            first, over = over, bool(ending)
        histories.append(rows)
    return histories


def fill(replay, histories):
    for t in range(len(histories[0])):
        rows = [history[t] for history in histories]
        column = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        frames = column["frame"].to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
        replay.add(frames, *(column[n] for n in ("action", "reward", "terminated", "truncated", "first", "acted")))


def expected(history, t, frame_stack, n_step, gamma):
    """The transition from row t, told row by row."""

    def stack(at):
        frames = []
        while len(frames) < frame_stack:
            frames.insert(0, history[at]["frame"])
            if history[at]["first"]:
                break
            at -= 1
        return [0] * (frame_stack - len(frames)) + frames

    total, k = 0.0, 0
    discount = None
    while discount is None:
        row = history[t + k]
        total += gamma**k * row["reward"]
        k += 1
        if row["terminated"]:
            discount = 0.0
        elif row["truncated"] or k == n_step:
            discount = gamma**k
    return stack(t), history[t]["action"], total, stack(t + k), discount


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(6, 60), st.integers(0, 2**31))
@settings(max_examples=60)
def test_transitions_are_those_of_the_history(num_envs, frame_stack, n_step, length, seed):
    rows = frame_stack + n_step + 6
    replay = PrioritizedReplay(
        rows * num_envs, num_envs, (1, 2, 2), frame_stack=frame_stack, n_step=n_step, gamma=0.9, seed=seed
    )
    histories = games(length, num_envs, seed)
    fill(replay, histories)
    # What can be drawn: acted, its future known, and its oldest frame not overwritten yet.
    oldest = 0 if length <= rows else length - rows + frame_stack - 1
    possible = {
        (t % rows) * num_envs + game: (game, t)
        for game in range(num_envs)
        for t in range(oldest, length - n_step)
        if histories[game][t]["acted"]
    }
    if not possible:
        with pytest.raises(RoboprefError, match="no complete transition"):
            replay.sample(4, 0.5)
        return
    batch = replay.sample(64, 0.5)
    for i, index in enumerate(batch.indices.tolist()):
        game, t = possible[index]
        state, action, total, following, discount = expected(histories[game], t, frame_stack, n_step, 0.9)
        assert batch.states[i, :, 0, 0].tolist() == state
        assert batch.next_states[i, :, 1, 1].tolist() == following
        assert batch.actions[i] == action
        assert float(batch.returns[i]) == pytest.approx(total, abs=1e-6)
        assert float(batch.discounts[i]) == pytest.approx(discount, abs=1e-6)
    drawn = set(replay.sample(40 * len(possible), 0.5).indices.tolist())
    assert drawn == set(possible)  # equal priorities, stratified draws: each is drawn


def small(alpha=0.5, seed=0, capacity=40):
    replay = PrioritizedReplay(capacity, 1, (1, 2, 2), frame_stack=1, n_step=1, alpha=alpha, seed=seed)
    history = [
        {"frame": t + 1, "action": 0, "reward": 0.0, "terminated": False, "truncated": False, "first": t == 0,
         "acted": True}
        for t in range(11)
    ]  # fmt: skip
    fill(replay, [history])
    return replay


def test_draws_and_weights_follow_the_priorities():
    replay = small(alpha=0.5)
    errors = torch.arange(1.0, 11.0) ** 2
    replay.update_priorities(torch.arange(10), errors)
    probability = np.arange(1, 11) / 55  # errors^alpha
    batch = replay.sample(55_000, beta=0.4)
    counts = np.bincount(batch.indices.numpy(), minlength=10)
    np.testing.assert_allclose(counts / 55_000, probability, atol=1e-4)  # stratified: almost no noise
    weights = (10 * probability) ** -0.4
    np.testing.assert_allclose(batch.weights.numpy(), (weights / weights.max())[batch.indices.numpy()], rtol=1e-5)


def test_uniform_draws_weigh_alike():
    replay = small(alpha=0.0)
    replay.update_priorities(torch.arange(10), torch.arange(10.0))
    batch = replay.sample(1000, beta=1.0)
    np.testing.assert_allclose(batch.weights.numpy(), 1.0)
    np.testing.assert_allclose(np.bincount(batch.indices.numpy()), 100)


def test_new_transitions_come_with_the_highest_priority():
    replay = small(alpha=1.0)
    replay.update_priorities(torch.arange(10), torch.full((10,), 3.0))
    flags = torch.zeros(1, dtype=torch.bool)
    replay.add(torch.ones(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1), torch.zeros(1), flags, flags, flags, ~flags)
    counts = np.bincount(replay.sample(1100, 0.4).indices.numpy())
    np.testing.assert_allclose(counts, 100, atol=1)


def test_a_cut_is_a_truncation():
    replay = small()
    replay.cut()
    flags = torch.zeros(1, dtype=torch.bool)
    for _ in range(3):  # the games begin anew
        replay.add(
            torch.full((1, 1, 2, 2), 200, dtype=torch.uint8), torch.ones(1), torch.ones(1), flags, flags, ~flags, ~flags
        )
    batch = replay.sample(500, 0.4)
    assert 10 not in batch.indices  # its action is forgotten
    last = batch.indices == 9
    assert last.any()
    assert (batch.next_states[last] == 11).all()  # the frame before the cut, not the new game's
    assert (batch.discounts[last] > 0).all()


def test_a_restored_replay_goes_on_with_the_same_draws():
    replay = small(seed=3)
    replay.sample(5, 0.4)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in replay.state_dict().items()}
    other = PrioritizedReplay(40, 1, (1, 2, 2), frame_stack=1, n_step=1, seed=99)
    other.load_state_dict(state)
    for a, b in zip(vars(replay.sample(20, 0.4)).values(), vars(other.sample(20, 0.4)).values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RoboprefError, match="settings it was started with"):
        PrioritizedReplay(80, 1, (1, 2, 2), frame_stack=1, n_step=1).load_state_dict(state)


def test_a_replay_too_small_is_refused():
    with pytest.raises(RoboprefError, match="raise the capacity"):
        PrioritizedReplay(6, 1, (1, 2, 2), frame_stack=4, n_step=3)
