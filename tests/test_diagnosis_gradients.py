import numpy as np
import pytest
import torch
from torch import nn

from robopref.diagnosis import state_gradients
from robopref.diagnosis.gradients import iter_state_gradients, working_copy
from robopref.errors import RoboprefError

SHAPE = (2, 6, 5)


class SmallQ(nn.Module):
    def __init__(self, n_actions=4, gap=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, n_actions)
        )
        self.gap = gap
        self.eval()

    def q_values(self, pixels):
        q = self.layers(pixels)
        return torch.cat([q[:, :1] + self.gap, q[:, 1:]], dim=1) if self.gap else q


class Linear:
    """Q(s, a) = w_a . s (+ an offset of the context): its gradient is known in closed form."""

    def __init__(self, weights, output=lambda q: q):
        self.weights, self.output = torch.as_tensor(weights), output

    def q_values(self, pixels, offset=0):
        return self.output(pixels.flatten(1) @ self.weights.T.to(pixels.dtype)) + offset


def states(n=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def oracle(policy, pixels, temperature, noise=None):
    """Textbook form, a state at a time in float64: the gradient of -log softmax."""
    policy = policy.double()
    rows = []
    for i, state in enumerate(torch.as_tensor(pixels, dtype=torch.float64)):
        clean = policy.q_values(state[None])[0].argmax()
        inputs = (state if noise is None else state + torch.as_tensor(noise[i]))[None].requires_grad_()
        loss = -torch.log_softmax(policy.q_values(inputs)[0] / temperature, dim=0)[clean]
        rows.append(torch.autograd.grad(loss, inputs)[0].flatten().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_that_of_the_cross_entropy(temperature, dtype):
    found = state_gradients(SmallQ(), states(), temperature, dtype=dtype, batch_size=3)
    assert found.dtype == (np.float32 if dtype == torch.float32 else np.float64)
    expected = oracle(SmallQ(), states() / 255, temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-4 if dtype == torch.float32 else 1e-9, atol=1e-7)


def test_a_linear_policy_by_hand():
    # two actions, T = 2: J = log(1 + exp((w_1 - w_0) . s / T)), so g = sigmoid((w_1 - w_0) . s / T) (w_1 - w_0) / T
    weights = np.stack([np.full(60, 0.02), np.full(60, -0.01)])
    pixels = np.random.default_rng(0).random((3, *SHAPE))
    margin = -0.03 * pixels.reshape(3, -1).sum(1) / 2
    expected = (1 / (1 + np.exp(-margin)))[:, None] * np.full((3, 60), -0.03 / 2)
    np.testing.assert_allclose(state_gradients(Linear(weights), pixels, 2.0, dtype=torch.float64), expected)


@pytest.mark.parametrize("gap", [15, 45, 90])
def test_a_confident_policy_keeps_its_directions_in_float32(gap):
    found = state_gradients(SmallQ(gap=gap), states()).astype(np.float64)
    expected = state_gradients(SmallQ(gap=gap), states(), dtype=torch.float64)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-4)


def test_gradients_too_small_for_float32_are_exact_zeros():
    assert not state_gradients(SmallQ(gap=200), states()).any()
    assert state_gradients(SmallQ(gap=200), states(), dtype=torch.float64).any(axis=1).all()


def test_batches_pieces_and_precision_of_the_states_do_not_matter():
    whole = state_gradients(SmallQ(), states(), jitter=0.1, seed=3, batch_size=64)
    cut = state_gradients(SmallQ(), states() / np.float32(255), jitter=0.1, seed=3, batch_size=2)
    pieces = iter_state_gradients(SmallQ(), iter([states()[:3], states()[3:]]), jitter=0.1, seed=3, batch_size=2)
    np.testing.assert_allclose(cut, whole, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(np.concatenate(list(pieces)), whole, rtol=1e-3, atol=1e-7)


def test_jitter_moves_the_point_but_not_the_action():
    noise = np.random.default_rng(5).standard_normal((7, *SHAPE), dtype=np.float32) * np.float32(0.5)
    found = state_gradients(SmallQ(), states(), 0.05, 0.5, seed=5, dtype=torch.float64)
    policy = SmallQ().double()
    pixels = torch.as_tensor(states() / 255)
    moved = policy.q_values(pixels + torch.as_tensor(noise)).argmax(1)
    assert (moved != policy.q_values(pixels).argmax(1)).any()  # or the test would not tell
    np.testing.assert_allclose(found, oracle(SmallQ(), states() / 255, 0.05, noise), rtol=1e-5, atol=1e-9)
    again = state_gradients(SmallQ(), states(), 0.05, 0.5, seed=6, dtype=torch.float64)
    assert np.abs(again - found).max() > 1e-3


def test_context_goes_along_with_its_states():
    weights = np.random.default_rng(1).normal(size=(3, 60))
    offset = np.random.default_rng(2).normal(size=(7, 3)) * 5
    found = state_gradients(Linear(weights), states(), context={"offset": offset}, batch_size=2, dtype=torch.float64)
    for i in range(7):
        alone = state_gradients(
            Linear(weights), states()[i : i + 1], context={"offset": offset[i : i + 1]}, dtype=torch.float64
        )
        np.testing.assert_allclose(found[i], alone[0])
    with pytest.raises(RoboprefError, match="context 'offset' has 6 rows for 7 states"):
        state_gradients(Linear(weights), states(), context={"offset": offset[:6]})


def test_the_policy_is_left_as_it_was():
    policy = SmallQ().train()
    caller = states() / np.float32(255)
    kept = caller.copy()
    with torch.no_grad():
        found = state_gradients(policy, caller, jitter=0.1, dtype=torch.float64)
        assert not torch.is_grad_enabled()
    assert policy.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in policy.parameters())
    np.testing.assert_array_equal(caller, kept)
    # dropout is off: the gradient is that of the deployed policy
    np.testing.assert_allclose(found, state_gradients(SmallQ(), caller, jitter=0.1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("policy", "pixels", "settings", "message"),
    [
        (SmallQ(), states(0), {}, "at least one state"),
        (SmallQ(), states()[0], {}, "states must be"),
        (SmallQ(), states().astype(np.float32), {}, "pass frames of 0..255 as uint8"),
        (SmallQ(), np.full((1, *SHAPE), np.nan), {}, "must lie in"),
        (SmallQ(), states().astype(np.int64), {}, "uint8 or floats"),
        (SmallQ(), states(), {"temperature": 0}, "temperature"),
        (SmallQ(), states(), {"jitter": -1}, "jitter"),
        (SmallQ(), states(), {"batch_size": 0}, "batch_size"),
        (SmallQ(), states(), {"dtype": torch.float16}, "float32 or float64"),
        (SmallQ(n_actions=1), states(), {}, "at least 2 actions"),
        (Linear(np.ones((2, 60)), lambda q: q[0]), states(), {}, "at least 2 actions"),
        (Linear(np.ones((2, 60)), lambda q: q * torch.nan), states(), {}, "check its weights"),
        (Linear(np.ones((2, 60)), lambda q: q.detach()), states(), {}, "not differentiable"),
        (Linear(np.ones((2, 60)), lambda q: q.double()), states(), {}, "computes in torch.float64"),
        (Linear(np.ones((2, 60)), lambda q: torch.sqrt(0 * q)), states(), {}, "gradient is not finite"),
    ],
)
def test_bad_input_is_refused(policy, pixels, settings, message):
    with pytest.raises(RoboprefError, match=message):
        state_gradients(policy, pixels, **settings)


def test_a_policy_blind_to_its_pixels_is_refused():
    class Blind(SmallQ):
        def q_values(self, pixels):
            return self.layers[-1].bias.expand(len(pixels), -1)

    with pytest.raises(RoboprefError, match="does not use its pixels"):
        state_gradients(Blind(), states())


def test_the_pieces_must_be_alike():
    with pytest.raises(RoboprefError, match=r"\[N, 2, 6, 5\]"):
        list(iter_state_gradients(SmallQ(), [states(), states()[:, :1]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu():
    on_cpu = state_gradients(SmallQ(), states(), jitter=0.1)
    for policy, device in ((SmallQ().cuda(), None), (SmallQ(), "cuda")):
        found = state_gradients(policy, states(), jitter=0.1, device=device)
        np.testing.assert_allclose(found, on_cpu, rtol=1e-3, atol=1e-6)


def test_a_policy_is_asked_where_it_is(monkeypatch):
    """Whoever put it on the CPU of a machine with a GPU had a reason."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    policy = SmallQ()
    copy, device = working_copy(policy)
    assert copy is policy
    assert device.type == "cpu"
    assert working_copy(policy, device="meta")[1].type == "meta"
    assert working_copy(Linear(np.zeros((2, 60))))[1].type == "cpu"
