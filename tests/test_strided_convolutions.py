"""Gradients of the input that go back by blocks, against those of torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robopref.diagnosis.strided_convolutions import InputGradientsOnly, _ByBlocks


def input_gradient(layer, pixels):
    pixels = pixels.clone().requires_grad_()
    out = layer(pixels)
    (gradient,) = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), pixels)
    return gradient


@given(
    stride=st.integers(2, 4), blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)), extra=st.integers(0, 9),
    channels=st.integers(1, 5), outputs=st.integers(1, 6), n=st.integers(1, 3), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_the_gradient_is_torchs(stride, blocks, extra, channels, outputs, n, bias):
    torch.manual_seed(0)
    kernel = tuple(stride * side for side in blocks)
    layer = nn.Conv2d(channels, outputs, kernel, stride, bias=bias)
    pixels = torch.rand(n, channels, kernel[0] + extra, kernel[1] + 2 * extra)
    expected = input_gradient(layer.double(), pixels.double())
    layer.float()
    with InputGradientsOnly():
        out = layer(pixels.clone().requires_grad_())
        found = input_gradient(layer, pixels)
    assert type(out.grad_fn).__name__ == f"{_ByBlocks.__name__}Backward"
    torch.testing.assert_close(out.detach(), layer(pixels).detach())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (nn.Conv2d(4, 4, 3, 2), torch.float32),
        (nn.Conv2d(4, 4, 4, 2, padding=1), torch.float32),
        (nn.Conv2d(4, 4, 4, 2, padding="valid"), torch.float32),
        (nn.Conv2d(4, 4, 4, 2, dilation=2), torch.float32),
        (nn.Conv2d(4, 4, 4, 2, groups=2), torch.float32),
        (nn.Conv2d(4, 4, 4, (2, 4)), torch.float32),
        (nn.Conv2d(4, 4, 4), torch.float32),
        (nn.Conv2d(4, 4, 4, 2).double(), torch.float64),
    ],
)
def test_other_convolutions_are_left_to_torch(layer, dtype):
    pixels = torch.rand(2, 4, 20, 20, dtype=dtype)
    expected = input_gradient(layer, pixels)
    with InputGradientsOnly():
        out = layer(pixels.requires_grad_())
        assert "Convolution" in type(out.grad_fn).__name__
        torch.testing.assert_close(input_gradient(layer, pixels.detach()), expected, rtol=0, atol=0)


def test_what_needs_no_gradient_is_left_to_torch():
    layer, pixels = nn.Conv2d(4, 4, 4, 2), torch.rand(2, 4, 20, 20)
    with InputGradientsOnly():
        assert "Convolution" in type(layer(pixels).grad_fn).__name__  # its weights do
        with torch.no_grad():
            assert layer(pixels.requires_grad_()).grad_fn is None
