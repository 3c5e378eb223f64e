"""Denormal numbers are zero while training, and what they were before once it is over."""

from __future__ import annotations

import pytest
import torch

from robopref.training.devices import denormals_as_zero


def _half_of_the_smallest() -> float:
    return float(torch.tensor(torch.finfo(torch.float32).smallest_normal) / 2)


def test_denormals_are_zero_inside_and_come_back() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    assert _half_of_the_smallest() > 0
    with denormals_as_zero():
        assert _half_of_the_smallest() == 0
        with denormals_as_zero():
            pass
        assert _half_of_the_smallest() == 0  # the inner one left it as it was
    assert _half_of_the_smallest() > 0


def test_an_error_inside_brings_them_back() -> None:
    @denormals_as_zero()
    def fail() -> None:
        raise KeyError

    torch.set_flush_denormal(False)
    with pytest.raises(KeyError):
        fail()
    assert _half_of_the_smallest() > 0
