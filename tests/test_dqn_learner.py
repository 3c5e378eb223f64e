import copy

import numpy as np
import pytest
import torch

from robopref.dqn.bounds import margin_upper_bounds
from robopref.dqn.exploration import RepeatedRandomActions
from robopref.dqn.learner import Learner, LearnerSettings
from robopref.dqn.replay import Transitions
from robopref.errors import RoboprefError
from robopref.policies.q_network import QArchitecture, QNetwork

SIZE = 36


def learner(seed=0, **settings):
    torch.manual_seed(seed)
    network = QNetwork(QArchitecture(3, frame_stack=2, image_size=SIZE, hidden=16))
    made = Learner(network, LearnerSettings(**({"mixed_precision": False} | settings)))
    with torch.no_grad():  # so that the target network chooses differently
        for parameter in made.target.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def batch(n=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Transitions(
        states=torch.randint(0, 256, (n, 2, SIZE, SIZE), generator=g, dtype=torch.uint8),
        actions=torch.randint(0, 3, (n,), generator=g),
        returns=torch.randn(n, generator=g) * 3,
        next_states=torch.randint(0, 256, (n, 2, SIZE, SIZE), generator=g, dtype=torch.uint8),
        discounts=torch.where(torch.rand(n, generator=g) < 0.3, 0.0, 0.97),
        weights=torch.rand(n, generator=g),
        indices=torch.arange(n),
    )


def by_hand(made, b):
    """Loss and TD errors, state by state in numpy."""
    with torch.no_grad():
        online = made.network(b.states.float() / 255).double().numpy()
        following = made.network(b.next_states.float() / 255).numpy()
        frozen = made.target(b.next_states.float() / 255).double().numpy()
    losses, errors = [], []
    for i in range(len(b.actions)):
        bootstrap = frozen[i][following[i].argmax()]
        error = abs(online[i][b.actions[i]] - (float(b.returns[i]) + float(b.discounts[i]) * bootstrap))
        losses.append(float(b.weights[i]) * (error**2 / 2 if error < 1 else error - 0.5))
        errors.append(error)
    return np.mean(losses), errors


def test_the_loss_is_that_of_double_dqn():
    made, b = learner(), batch()
    loss, errors = by_hand(made, b)
    found, metrics = made.update(b)
    assert float(metrics["loss/td"]) == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(found.numpy(), errors, rtol=1e-3, atol=1e-4)


def test_a_step_lowers_the_loss_and_leaves_the_target_alone():
    made, b = learner(learning_rate=1e-3), batch()
    before = {k: v.clone() for k, v in made.target.state_dict().items()}
    losses = [float(made.update(b)[1]["loss/td"]) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in made.target.state_dict().items())
    made.update_target()
    assert all(torch.equal(v, made.network.state_dict()[k]) for k, v in made.target.state_dict().items())


def test_bfloat16_says_about_the_same():
    exact, mixed, b = learner(), learner(mixed_precision=True), batch()
    errors = exact.update(b)[0]
    np.testing.assert_allclose(mixed.update(b)[0].numpy(), errors.numpy(), atol=0.05)
    assert all(p.dtype == torch.float32 for p in mixed.network.parameters())


def test_the_robust_regulariser_makes_decisions_hold_in_the_box():
    plain, robust, b = learner(), learner(kappa=1.0), batch()
    certified = []
    for made in (plain, robust):
        for _ in range(150):
            made.update(b, epsilon=1 / 255)
        probe = learner(kappa=1.0)
        probe.network.load_state_dict(made.network.state_dict())
        certified.append(float(probe.update(b, epsilon=1 / 255)[1]["certified"]))
    assert certified[1] > certified[0] + 0.3
    assert "loss/robust" not in plain.update(b, epsilon=1 / 255)[1]


@pytest.mark.parametrize("epsilon", [0.2 / 255, 1 / 255])
def test_bfloat16_does_not_round_the_box_away(epsilon):
    exact, mixed, b = learner(kappa=1.0), learner(kappa=1.0, mixed_precision=True), batch()
    hinges = [float(made.update(b, epsilon)[1]["loss/robust"]) for made in (exact, mixed)]
    without = float(learner(kappa=1.0).update(b, 1e-9)[1]["loss/robust"])
    assert hinges[1] - without == pytest.approx(hinges[0] - without, rel=0.1)


def anchored(**settings):
    torch.manual_seed(9)
    anchor = QNetwork(QArchitecture(3, frame_stack=2, image_size=SIZE, hidden=16))
    b = batch(32)
    b.states[::2] //= 8  # dark ones, for which a decision is easily another
    with torch.no_grad():  # no action is the best on average, so that decisions differ between the states
        anchor.advantage[-1].weight.mul_(20)
        anchor.advantage[-1].bias.sub_(anchor(b.states.float() / 255).mean(dim=0))
    made = Learner(learner().network, LearnerSettings(mixed_precision=False, **settings), anchor=anchor)
    return made, anchor, b


def test_an_anchor_decides_which_actions_are_held_and_how_much_a_state_counts():
    made, anchor, b = anchored(kappa=1.0, hinge=0.05)
    epsilon = 1e-4
    pixels = b.states.float() / 255
    with torch.no_grad():
        wanted = anchor(pixels).double().numpy()
        total = 0.0
        for i, q in enumerate(wanted):
            best, second = np.sort(q)[::-1][:2]
            held = torch.tensor([int(q.argmax())])
            bounds = margin_upper_bounds(made.network, pixels[i : i + 1], held, epsilon)[0].double().numpy()
            rival = max(bound for action, bound in enumerate(bounds) if action != held)
            total += min(1.0, (best - second) / 0.05) * max(rival, -0.05)
    assert float(made.update(b, epsilon)[1]["loss/robust"]) == pytest.approx(total / len(wanted), rel=1e-4)


def test_an_anchored_network_comes_to_choose_the_anchors_actions():
    made, anchor, b = anchored(kappa=1.0, hinge=0.05, learning_rate=1e-3)
    pixels = b.states.float() / 255
    wanted = anchor(pixels).argmax(dim=1)
    assert 0.25 < (wanted == wanted[0]).float().mean() < 0.75
    before = {name: value.clone() for name, value in made.anchor.state_dict().items()}
    for _ in range(100):
        made.update(b, epsilon=1e-5)
    best, second = anchor(pixels).topk(2, dim=1).values.unbind(dim=1)
    cared = best - second > 0.05  # the others count for less
    assert (made.network(pixels).argmax(dim=1) == wanted)[cared].float().mean() > 0.9
    assert all(torch.equal(value, before[name]) for name, value in made.anchor.state_dict().items())


def test_learning_goes_on_from_a_saved_state():
    first, b = learner(), batch()
    first.update(b)
    second = learner(seed=5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as through a file
    for made in (first, second):
        made.update(batch(seed=1))
    for a, b_ in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b_)


@pytest.mark.parametrize("settings", [{"learning_rate": 0}, {"max_grad_norm": -1}, {"kappa": -0.1}, {"hinge": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RoboprefError, match=next(iter(settings))):
        LearnerSettings(**settings)


def explorer(**settings):
    return RepeatedRandomActions(1000, 4, **settings)


def test_exploration_lasts_as_the_zeta_distribution_says():
    explore = explorer(mu=2.0)
    greedy, none = np.full(1000, 9), np.zeros(1000, bool)
    explore(greedy, 1.0, none)
    lengths = np.ones(1000)
    going = np.ones(1000, bool)
    for _ in range(200):
        going &= explore(greedy, 0.0, none) != 9
        lengths += going
    # P(n = 1) = 1 / zeta(2) = 6 / pi^2, P(n > 4) = 1 - 6 / pi^2 (1 + 1/4 + 1/9 + 1/16)
    assert (lengths == 1).mean() == pytest.approx(0.608, abs=0.05)
    assert (lengths > 4).mean() == pytest.approx(0.134, abs=0.04)


def test_plain_epsilon_greedy_and_no_exploration():
    explore = explorer(mu=np.inf)
    greedy, none = np.full(1000, 9), np.zeros(1000, bool)
    shares = [(explore(greedy, 0.3, none) != 9).mean() for _ in range(20)]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.01)
    assert (explore(greedy, 0.0, none) == 9).all()


def test_an_episode_that_ends_ends_its_exploration():
    explore = explorer(mu=1.01)
    greedy, none = np.full(1000, 9), np.zeros(1000, bool)
    explore(greedy, 1.0, none)
    assert (explore(greedy, 0.0, none) != 9).mean() > 0.5
    assert (explore(greedy, 0.0, ~none) == 9).all()
    with pytest.raises(RoboprefError, match="above 1"):
        explorer(mu=1.0)


@pytest.mark.slow
def test_the_compiled_update_is_the_same():
    plain, compiled, b = learner(kappa=0.5), learner(kappa=0.5, compile=True), batch()
    for epsilon in (0.0, 1e-3, 2e-3, 3e-3):
        errors = [made.update(b, epsilon)[0].numpy() for made in (plain, compiled)]
        np.testing.assert_allclose(errors[1], errors[0], rtol=1e-3, atol=1e-4)
