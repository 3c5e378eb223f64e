"""Any module as a Q policy."""

import copy

import numpy as np
import pytest
import torch
from q_models import ChannelsLast, CleanRLNetwork, frames, pixels
from torch import nn

from robopref.diagnosis import state_gradients
from robopref.errors import RoboprefError
from robopref.policies.q_module import as_q_policy
from robopref.protocols import QPolicy


def first(answer):
    return answer[0]


def channels_last(seed=0):
    torch.manual_seed(seed)
    return ChannelsLast()


def test_scale_layout_and_output_are_those_of_the_module():
    module = channels_last()
    policy = as_q_policy(module, input_scale=255, channels_last=True, output=first, game="Pong", name="mine")
    assert isinstance(policy, QPolicy)
    assert not module.training  # dropout is off
    states = frames(3)
    expected = module(torch.as_tensor(states).float().permute(0, 2, 3, 1))[0]
    torch.testing.assert_close(policy.q_values(pixels(states)), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(policy(pixels(states)), expected, rtol=1e-5, atol=1e-6)
    spec = policy.spec
    assert (spec.n_actions, spec.shape, spec.game, spec.source) == (3, (4, 84, 84), "Pong", "mine")
    assert (spec.kind, spec.architecture) == ("module", "ChannelsLast")


def test_gradients_are_per_pixel_in_zero_to_one_and_the_module_is_left_alone():
    module = channels_last()
    policy = as_q_policy(module, input_scale=255, channels_last=True, output=first)
    found = state_gradients(policy, frames(3), 0.1, dtype=torch.float64)
    assert next(module.parameters()).dtype == torch.float32
    double = copy.deepcopy(module).double()
    for state, row in zip(frames(3), found, strict=True):
        inputs = torch.as_tensor(state[None]).double().permute(0, 2, 3, 1).requires_grad_()
        values = double(inputs)[0] / 0.1
        loss = -torch.log_softmax(values, 1)[0, values.argmax()]
        (gradient,) = torch.autograd.grad(loss, inputs)
        expected = 255 * gradient.permute(0, 3, 1, 2).flatten()
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-6, atol=1e-12)


def test_the_policy_survives_copying_and_other_precisions():
    policy = as_q_policy(channels_last(), input_scale=255, channels_last=True, output=first)
    double = copy.deepcopy(policy).double()
    torch.testing.assert_close(
        double.q_values(pixels(frames()).double()).float(), policy.q_values(pixels(frames())), rtol=1e-4, atol=1e-5
    )
    assert double.spec == policy.spec


class Perceptron(nn.Module):
    def __init__(self, size=12):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(2 * size * size, 3))

    def forward(self, x):
        return self.layers(x)


def test_sizes_that_cannot_be_inferred_are_given():
    with pytest.raises(RoboprefError, match=r"no 2-D convolution.*pass frame_stack and channels_per_frame"):
        as_q_policy(Perceptron(), input_scale=1, image_size=12)
    policy = as_q_policy(Perceptron(), input_scale=1, image_size=12, frame_stack=2, channels_per_frame=1)
    assert policy.spec.shape == (2, 12, 12)
    wide = as_q_policy(Perceptron(), input_scale=1, image_size=(6, 24), frame_stack=2, channels_per_frame=1)
    assert (wide.spec.height, wide.spec.width) == (6, 24)
    colour = as_q_policy(CleanRLNetwork(channels=6), input_scale=255, channels_per_frame=3)
    assert (colour.spec.frame_stack, colour.spec.channels_per_frame) == (2, 3)


class Failing(nn.Module):
    def __init__(self, channels=4, answer=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 8)
        self.answer = answer

    def forward(self, frames):
        if self.answer is None:
            raise KeyError("no way")
        return self.answer


def broken():
    module = CleanRLNetwork()
    with torch.no_grad():
        module.network[0].weight[0, 0, 0, 0] = torch.nan
    return module


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (channels_last(), {"output": first}, r"refuses states of shape \(2, 4, 84, 84\).*pass channels_last=True"),
        (CleanRLNetwork(), {"channels_last": True}, r"shape \(2, 84, 84, 4\).*pass channels_last=False"),
        (CleanRLNetwork(), {"image_size": 64}, r"Check image_size, frame_stack and channels_per_frame"),
        (CleanRLNetwork(channels=84), {}, "channels last"),
        (CleanRLNetwork(channels=1), {}, "frame stack is missing"),
        (CleanRLNetwork(), {"channels_per_frame": 3}, "4 channels cannot be frames of 3 channels"),
        (CleanRLNetwork(), {"frame_stack": 3}, "not 3 frames"),
        (channels_last(), {"channels_last": True}, "answers tuple instead of action values.*output="),
        (Failing(answer=torch.zeros(2, 1)), {}, "at least 2 actions"),
        (Failing(answer=torch.zeros(1, 4)), {}, r"answers \(1, 4\)"),
        (Failing(), {}, "KeyError"),
        (broken(), {}, "not finite: 1 of"),
        (CleanRLNetwork(), {"input_scale": 0}, "input_scale is what a white pixel is"),
        (lambda x: x, {}, r"wraps a torch\.nn\.Module, got a function"),
    ],
)
def test_modules_that_do_not_fit_are_refused_at_once(module, settings, message):
    with pytest.raises(RoboprefError, match=message):
        as_q_policy(module, **{"input_scale": 255} | settings)
