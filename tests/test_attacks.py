from dataclasses import replace

import numpy as np
import pytest
import torch
from attacked_policies import ConvNet, Linear, Transformed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robopref.diagnosis import collect_episodes
from robopref.diagnosis.attacks import (
    ATTACKS,
    Attack,
    CarliniWagner,
    DeepFool,
    ElasticNet,
    NesterovFGSM,
    make_attack,
    parse_attack,
)
from robopref.envs.ale import AtariSpec, make_atari_vector, n_actions
from robopref.errors import RoboprefError
from robopref.policies.q_network import QArchitecture, QNetwork

QUICK: dict[str, Attack] = {
    "carlini_wagner": CarliniWagner(steps=12, searches=2),
    "elastic_net": ElasticNet(steps=12, searches=2),
    "deepfool": DeepFool(steps=20),
    "nesterov_fgsm": NesterovFGSM(epsilon=0.3, steps=10),
}
STRONG = ATTACKS | {"nesterov_fgsm": NesterovFGSM(epsilon=1.0)}  # random networks hardly care about less
each_attack = pytest.mark.parametrize("attack", QUICK.values(), ids=QUICK)


def states(seed, n=5, channels=2, size=8, dtype=torch.float64):
    """Random pixels with some at their limits, and one black state."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-0.3, 1.3, (n, channels, size, size)).clip(0, 1)
    pixels[-1] = 0
    return torch.tensor(pixels, dtype=dtype)


def same(one, other, **tolerance):
    for name in ("adversarial", "success", "l1", "l2", "original_action", "adversarial_action", "gradient_evaluations"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **({"rtol": 0, "atol": 0} | tolerance))


def test_every_attack_is_tested():
    assert QUICK.keys() == ATTACKS.keys()
    assert all(type(QUICK[name]) is type(attack) and attack.name == name for name, attack in ATTACKS.items())


@each_attack
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), n_actions=st.integers(2, 5), n=st.integers(1, 4))
def test_the_result_is_what_it_says(attack, seed, n_actions, n):
    policy, pixels = ConvNet(seed, n_actions).double(), states(seed, n)
    before = pixels.clone()
    result = attack(policy, pixels)
    assert torch.equal(pixels, before)
    assert result.adversarial.shape == pixels.shape
    assert result.adversarial.dtype == pixels.dtype
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    clean, attacked = policy.q_values(pixels).argmax(1), policy.q_values(result.adversarial).argmax(1)
    assert torch.equal(result.original_action, clean)
    assert torch.equal(result.adversarial_action, attacked)
    assert torch.equal(result.success, clean != attacked)
    assert torch.equal(result.adversarial[~result.success], pixels[~result.success])
    added = (result.adversarial - pixels).reshape(n, -1).numpy()
    np.testing.assert_array_equal(result.l0, (np.abs(added) > 1e-6).sum(1))
    for name, order in (("l1", 1), ("l2", 2), ("linf", np.inf)):
        np.testing.assert_allclose(getattr(result, name), np.linalg.norm(added, order, axis=1))
    assert (result.success_rate.successes, result.success_rate.n) == (int(result.success.sum()), n)
    assert (result.gradient_evaluations >= 1).all()
    if isinstance(attack, NesterovFGSM):
        assert result.linf.max() <= attack.epsilon + 1e-12


@each_attack
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-30, 30))
def test_the_size_of_q_does_not_matter(attack, seed, exponent):
    # A power of two changes no digit of Q, so that the results must agree to the last bit.
    policy, pixels = ConvNet(seed).double(), states(seed)
    same(attack(Transformed(policy, 2.0**exponent), pixels), attack(policy, pixels))


@each_attack
@pytest.mark.parametrize(("scale", "shift"), [(1e-5, 0.0), (1.0, 7.0), (1e-3, -0.2), (321.0, 50.0)])
def test_neither_does_an_affine_change_of_q(attack, scale, shift):
    policy, pixels = ConvNet(3).double(), states(3)
    same(attack(Transformed(policy, scale, shift), pixels), attack(policy, pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attack", STRONG.values(), ids=STRONG)
def test_a_small_gap_on_large_values_does_not_stall_it(attack):
    # As a trained Atari policy has them: gaps of about 1e-3 on values of about 3, in float32.
    policy, pixels = ConvNet(4), states(4, n=8, dtype=torch.float32)
    q_values = policy.q_values(pixels)
    scale = 1e-3 / (q_values.amax(1) - q_values.amin(1)).mean().item()
    small, plain = attack(Transformed(policy, scale, 3.0), pixels), attack(policy, pixels)
    assert plain.success.float().mean() >= 0.8
    assert torch.equal(small.success, plain.success)
    won = plain.success
    assert 0.9 < (small.l2[won].mean() / plain.l2[won].mean()).item() < 1.15


@pytest.mark.parametrize("attack", STRONG.values(), ids=STRONG)
def test_a_state_is_attacked_alike_in_any_company(attack):
    policy = ConvNet(5, width=4).double()
    together = torch.cat([states(5, n=4), torch.rand(2, 2, 8, 8, dtype=torch.float64), states(6, n=3)])
    result = attack(policy, together)
    order = torch.tensor([8, 0, 3, 7, 1, 5, 2, 6, 4])
    shuffled = attack(policy, together[order])
    alone = [attack(policy, state[None]) for state in together]
    for name in ("adversarial", "success", "adversarial_action", "l2", "gradient_evaluations"):
        whole = getattr(result, name)
        torch.testing.assert_close(getattr(shuffled, name), whole[order], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(torch.cat([getattr(one, name) for one in alone]), whole, rtol=1e-6, atol=1e-7)
    assert result.gradient_evaluations.unique().numel() > 1  # they were done at different times


@each_attack
def test_the_same_arguments_give_the_same_result(attack):
    policy, pixels = ConvNet(6), states(6, dtype=torch.float32)
    same(attack(policy, pixels), attack(policy, pixels))


class Normalising(nn.Module):
    """Batch normalisation, whose buffers move in training mode, and dropout, which would make Q random."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.3), ConvNet(7).layers)

    def q_values(self, pixels):
        return self.layers(pixels)


@each_attack
@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_policy_is_left_as_it_was(attack, switch):
    policy = Normalising()
    policy.layers[2][0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    frozen = [parameter.requires_grad for parameter in policy.parameters()]
    with switch():
        result = attack(policy, states(7, dtype=torch.float32))
    assert result.success.any()
    assert policy.training
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert [parameter.requires_grad for parameter in policy.parameters()] == frozen
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name])
    assert not result.adversarial.requires_grad
    same(result, attack(policy.eval(), states(7, dtype=torch.float32)))


@each_attack
def test_pixels_decide_the_precision(attack):
    policy, pixels = ConvNet(8), states(8)
    double = attack(policy, pixels)
    assert double.adversarial.dtype == double.l2.dtype == torch.float64
    assert next(policy.parameters()).dtype == torch.float32
    same(double, attack(ConvNet(8).double(), pixels))
    assert attack(policy, pixels.float()).adversarial.dtype == torch.float32


@each_attack
def test_pixels_of_a_graph_are_taken_as_they_are(attack):
    pixels = states(9).requires_grad_()
    result = attack(ConvNet(9).double(), pixels)
    assert pixels.grad is None
    same(result, attack(ConvNet(9).double(), pixels.detach()))


class Sign(nn.Module):
    """Blind to states whose first pixel is below a half, where its Q is constant but for the graph."""

    def __init__(self):
        super().__init__()
        self.net = ConvNet(10).double()

    def q_values(self, pixels):
        seeing = (pixels[:, 0, 0, 0] > 0.5).to(pixels.dtype)[:, None]
        return self.net.q_values(pixels) * seeing + torch.tensor([1.0, 0.9, 0.8, 0.7], dtype=pixels.dtype) * (
            1 - seeing
        )


@pytest.mark.parametrize("attack", STRONG.values(), ids=STRONG)
def test_where_no_gradient_leads_on_the_state_comes_back(attack):
    pixels = states(10, n=6)
    pixels[:3, 0, 0, 0], pixels[3:, 0, 0, 0] = 0.1, 0.9
    result = attack(Sign(), pixels)
    assert result.success.tolist()[:3] == [False] * 3
    assert result.success[3:].any()
    assert torch.equal(result.adversarial[:3], pixels[:3])
    assert (result.l2[:3] == 0).all()
    alone = attack(Sign(), pixels[3:])
    torch.testing.assert_close(result.adversarial[3:], alone.adversarial, rtol=1e-6, atol=1e-7)


@each_attack
def test_a_boundary_out_of_reach_is_a_failure(attack):
    policy = Linear(np.stack([np.full(128, 0.01), np.zeros(128)]), [1.0, 0.0])  # ahead by at least 1 in the whole box
    pixels = states(11)
    result = attack(policy, pixels)
    assert not result.success.any()
    assert torch.equal(result.adversarial, pixels)
    assert result.success_rate.successes == 0


class Given:
    def __init__(self, function):
        self.q_values = function


@pytest.mark.parametrize("attack", STRONG.values(), ids=STRONG)
def test_a_boundary_that_only_its_slope_puts_out_of_reach_is_reached(attack):
    # From grey, raising every pixel to white would close 64 * .002 of the gap of .5, were Q linear; it grows faster.
    def q_values(pixels):
        rise = (pixels - 0.5).sum((1, 2, 3))
        return torch.stack([torch.full_like(rise, 0.5), 0.002 * rise + 0.01 * rise * rise.abs()], 1)

    result = attack(Given(q_values), torch.full((1, 2, 8, 8), 0.5, dtype=torch.float64))
    assert result.success.item()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_tie_is_broken(attack):
    weights = np.random.default_rng(0).normal(size=(3, 128))
    policy, pixels = Linear(weights, -weights.sum(1) / 2), torch.full((1, 2, 8, 8), 0.5, dtype=torch.float64)
    policy.bias.data -= policy.q_values(pixels)[0].detach()
    assert policy.q_values(pixels).unique().numel() == 1
    result = attack(policy, pixels)
    assert result.success.item()
    assert 0 < result.l2.item() < 0.1


class Asked(nn.Module):
    """Q turned by one action for the states whose context is 1."""

    def __init__(self):
        super().__init__()
        self.net = ConvNet(12).double()

    def q_values(self, pixels, turn):
        q_values = self.net.q_values(pixels)
        return torch.where(turn[:, None] == 1, q_values.roll(1, dims=1), q_values)


@each_attack
def test_what_a_policy_takes_beside_the_pixels_follows_its_state(attack):
    policy, pixels = Asked(), states(12)
    result = attack(policy, pixels, context={"turn": np.array([0, 1, 0, 1, 1])})
    plain = attack(policy.net, pixels)
    torch.testing.assert_close(result.l2, plain.l2, rtol=1e-6, atol=1e-8)
    assert torch.equal(result.original_action, (plain.original_action + torch.tensor([0, 1, 0, 1, 1])) % 4)
    with pytest.raises(RoboprefError, match="'turn' has 2 rows for 5 states"):
        attack(policy, pixels, context={"turn": np.zeros(2)})


def with_nan():
    policy = ConvNet(0)
    policy.layers[0].weight.data[0, 0, 0, 0] = torch.nan
    return policy


GOOD = states(0, dtype=torch.float32)


@each_attack
@pytest.mark.parametrize(
    ("policy", "pixels", "message"),
    [
        (with_nan(), GOOD, "not finite"),
        (Transformed(ConvNet(), torch.inf), GOOD, "not finite"),
        (ConvNet(n_actions=1), GOOD, "at least 2 actions"),
        (Given(lambda pixels: pixels.sum((1, 2, 3))), GOOD, "at least 2 actions"),
        (Given(lambda pixels: ConvNet().q_values(pixels)[:2]), GOOD, "at least 2 actions"),
        (Given(lambda pixels: ConvNet().q_values(pixels).detach()), GOOD, "not differentiable"),
        (Given(lambda pixels: torch.ones(len(pixels), 2, requires_grad=True) * 1), GOOD, "does not use its pixels"),
        (Given(lambda pixels: ConvNet().double().q_values(pixels.double())), GOOD, "float64, the pixels are"),
        (ConvNet(), (255 * GOOD).to(torch.uint8), "float32 or float64"),
        (ConvNet(), 255 * GOOD, r"pixels in \[0, 1\]"),
        (ConvNet(), GOOD - 0.1, r"pixels in \[0, 1\]"),
        (ConvNet(), torch.full_like(GOOD, torch.nan), r"pixels in \[0, 1\]"),
        (ConvNet(), GOOD[0], "at least one state"),
        (ConvNet(), GOOD[:0], "at least one state"),
    ],
)
def test_bad_input_is_refused(attack, policy, pixels, message):
    with pytest.raises(RoboprefError, match=message):
        attack(policy, pixels)


@each_attack
def test_values_that_break_down_on_the_way_are_refused(attack):
    def q_values(pixels):
        given = ConvNet(1).q_values(pixels)
        return given if torch.equal(pixels, GOOD) else given / 0

    with pytest.raises(RoboprefError, match="not finite"):
        attack(Given(q_values), GOOD)
    with pytest.raises(RoboprefError, match="gradient of the action values is not finite"):
        # The square root's slope at 0 is infinite, and the black state lies there.
        attack(Given(lambda p: torch.stack([p.sum((1, 2, 3)).sqrt() + 1, p.mean((1, 2, 3))], 1)), GOOD)


# Names and settings.


@pytest.mark.parametrize("attack", [*ATTACKS.values(), *QUICK.values()], ids=str)
def test_the_text_of_an_attack_reads_back(attack):
    assert parse_attack(str(attack)) == attack


def test_settings_may_be_given():
    assert parse_attack("carlini_wagner:steps=50,confidence=0") == CarliniWagner(steps=50, confidence=0.0)
    assert parse_attack(" deepfool : overshoot = 0.1 ") == replace(ATTACKS["deepfool"], overshoot=0.1)
    assert parse_attack("elastic_net:rule=EN") == make_attack("elastic_net", rule="EN")
    assert str(DeepFool()) == "deepfool:steps=50,overshoot=0.02"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fgsm", "no attack is called 'fgsm'; there are carlini_wagner, elastic_net, deepfool, nesterov_fgsm"),
        ("deepfool:norm=2", "no setting 'norm'; it has steps, overshoot"),
        ("deepfool:50", "name=value, e.g. carlini_wagner:steps=50"),
        ("deepfool:steps=3,steps=4", "gives 'steps' twice"),
        ("deepfool:steps=2.5", "whole"),
        ("deepfool:steps=0", "steps must be at least 1"),
        ("deepfool:overshoot=-1", "negative"),
        ("carlini_wagner:steps=0", "at least 1"),
        ("carlini_wagner:searches=0", "at least 1"),
        ("carlini_wagner:rate=0", "rate must be positive"),
        ("carlini_wagner:rate=inf", "finite"),
        ("carlini_wagner:confidence=-0.1", "confidence"),
        ("carlini_wagner:widening=-0.1", "widening"),
        ("elastic_net:searches=0", "at least 1"),
        ("elastic_net:rate=0.6", "at most 0.5"),
        ("elastic_net:beta=-1", "beta"),
        ("elastic_net:confidence=-1", "confidence"),
        ("elastic_net:rule=L2", "rule must be L1 or EN"),
        ("nesterov_fgsm:epsilon=0", "epsilon"),
        ("nesterov_fgsm:epsilon=255", "at most 1"),
        ("nesterov_fgsm:steps=0", "steps"),
        ("nesterov_fgsm:momentum=-1", "momentum"),
        ("nesterov_fgsm:temperature=0", "temperature"),
    ],
)
def test_bad_attacks_are_refused(text, message):
    with pytest.raises(RoboprefError, match=message):
        parse_attack(text)


# In a game.


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return QNetwork(QArchitecture(n_actions(AtariSpec("pong")), hidden=32)).eval()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_episodes_are_collected_under_attack(attack):
    network = small_network()
    env = make_atari_vector(AtariSpec("pong", frame_stack=1), 2)
    bound = attack.bind(network)
    assert (str(bound), bound.name) == (str(attack), attack.name)
    traces = collect_episodes(network, env, episodes=2, seed=0, frame_stack=4, epsilon=0.0, max_steps=3, attack=bound)
    clean = np.concatenate([trace.states(perturbed=False) for trace in traces])
    attacked = np.concatenate([trace.states() for trace in traces])
    pixels = torch.tensor(clean, dtype=torch.float32) / 255
    with torch.no_grad():
        flipped = network.q_values(pixels).argmax(1) != network.q_values(torch.tensor(attacked)).argmax(1)
    result = attack(network, pixels)
    # What the policy saw is what the attack makes of the clean states, to the precision of float16; a state that just
    # passed the boundary may be rounded back.
    np.testing.assert_allclose(attacked, result.adversarial.numpy(), atol=1e-3)
    assert (flipped <= result.success).all()
    assert flipped.sum() >= result.success.sum() - 1
    assert result.success.sum() >= len(pixels) / 2
    assert result.l2.mean() < 1  # of the 168 that the box would allow
