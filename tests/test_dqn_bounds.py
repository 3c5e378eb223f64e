import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.dqn.bounds import margin_upper_bounds, robust_hinge
from robopref.errors import RoboprefError
from robopref.policies.q_network import QArchitecture, QNetwork

SIZE = 36


def network(seed=0, dueling=True):
    torch.manual_seed(seed)
    return QNetwork(QArchitecture(4, frame_stack=2, image_size=SIZE, hidden=8, dueling=dueling)).double()


def pixels(n=3, seed=0):
    return torch.rand(n, 2, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0, 0.1), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_nothing_in_the_box_exceeds_the_bound(epsilon, dueling, seed):
    net, states = network(seed, dueling), pixels(seed=seed)
    actions = net(states).argmax(dim=1)
    bounds = margin_upper_bounds(net, states, actions, epsilon)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        noise = torch.rand(states.shape, dtype=torch.float64, generator=generator)
        corner = noise.sub(0.5).sign() if generator.seed() % 2 else 2 * noise - 1
        q = net((states + epsilon * corner).clamp(0, 1))
        assert (q - q.gather(1, actions[:, None]) <= bounds + 1e-9).all()


@pytest.mark.parametrize("dueling", [True, False])
def test_without_a_radius_the_bound_is_the_margin(dueling):
    net, states = network(dueling=dueling), pixels()
    q, actions = net(states), torch.tensor([0, 3, 1])
    torch.testing.assert_close(
        margin_upper_bounds(net, states, actions, 0.0), q - q.gather(1, actions[:, None]), atol=1e-12, rtol=0
    )


def as_matrix(layer, shape):
    """The layer's weights as a matrix, by what it does to every unit vector."""
    size = int(np.prod(shape))
    zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
    columns = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - zero
    return columns.reshape(size, -1).T.numpy(), zero.flatten().numpy(), zero.shape[1:]


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 1e-4, 1e-3])
@torch.no_grad()
def test_small_boxes_survive_mixed_precision(epsilon):
    """In bfloat16 a radius below 1/256 of its centre is rounded away unless the two are kept apart."""
    net, states, actions = network(3).float(), pixels(4, seed=3).float(), torch.zeros(4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        grown = margin_upper_bounds(net, states, actions, epsilon) - margin_upper_bounds(net, states, actions, 0.0)
    exact = margin_upper_bounds(net.double(), states.double(), actions, epsilon) - margin_upper_bounds(
        net, states.double(), actions, 0.0
    )
    # bfloat16 shifts each ReLU's centre a little, which decides whether it is cut; the sum is right to some per cent
    torch.testing.assert_close(grown[:, 1:].double(), exact[:, 1:], rtol=0.05, atol=1e-7)


@torch.no_grad()
def test_the_bound_is_that_of_interval_arithmetic_on_matrices():
    net, states, epsilon = network(1), pixels(1), 0.03
    low, high = (states - epsilon).clamp(0, 1)[0].numpy().ravel(), (states + epsilon).clamp(0, 1)[0].numpy().ravel()
    shape = states.shape[1:]
    for layer in (*net.features, *list(net.advantage)[:-1]):
        if isinstance(layer, torch.nn.ReLU):
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        elif not isinstance(layer, torch.nn.Flatten):
            if isinstance(layer, torch.nn.Linear):
                shape = (layer.in_features,)
            matrix, bias, shape = as_matrix(layer, shape)
            up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
            low, high = up @ low + down @ high + bias, up @ high + down @ low + bias
    weight, bias = net.advantage[-1].weight.numpy(), net.advantage[-1].bias.numpy()
    for action in range(4):
        difference = weight - weight[action]
        expected = np.maximum(difference, 0) @ high + np.minimum(difference, 0) @ low + bias - bias[action]
        found = margin_upper_bounds(net, states, torch.tensor([action]), epsilon)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_hinge_by_hand():
    margins = torch.tensor([[0.0, -0.5, 2.0], [-3.0, 0.0, -2.0], [-3.0, -0.2, 0.0]])
    # the action's own 0 does not count; below -1 nothing more is earned
    assert robust_hinge(margins, torch.tensor([0, 1, 2]), 1.0).tolist() == pytest.approx([2.0, -1.0, -0.2])


def test_training_can_lower_the_bound():
    net, states = network(2), pixels(8)
    actions = net(states).argmax(dim=1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    values = []
    for _ in range(30):
        loss = robust_hinge(margin_upper_bounds(net, states, actions, 1 / 255), actions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.1


def test_what_has_no_bound_is_refused():
    with pytest.raises(RoboprefError, match="radius"):
        margin_upper_bounds(network(), pixels(), torch.zeros(3, dtype=torch.int64), -0.1)
    net = network()
    net.features.append(torch.nn.Softmax(dim=1))
    with pytest.raises(RoboprefError, match="no interval bound for a layer Softmax"):
        margin_upper_bounds(net, pixels(), torch.zeros(3, dtype=torch.int64), 0.1)
