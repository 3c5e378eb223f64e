"""Per-state gradients of a policy's softmax cross-entropy with respect to its pixels.

Source: Korkmaz, "Understanding and Diagnosing Deep Reinforcement Learning", ICML 2024, arXiv 2406.16979. With
pi(s, a) = exp(Q(s, a) / T) / sum_b exp(Q(s, b) / T) and tau(s) = argmax_a Q(s, a),

    J(s, s') = -log pi(s', tau(s)) = softplus(m),    m = logsumexp_{b != tau(s)} (Q(s', b) - Q(s', tau(s))) / T,
    g(s) = grad_{s'} J(s, s') at s' = s (or at s + noise) = sigmoid(m) grad m.

The factored form is the one computed: grad m is of ordinary size however confident the policy is, so the backward pass
neither cancels (as float32 cross-entropy does) nor underflows; only the last product can, once m < -103 in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopref.diagnosis.strided_convolutions import InputGradientsOnly
from robopref.errors import RoboprefError
from robopref.protocols import QPolicy

Context = Mapping[str, Any]
_FAINT = 1e-30  # a weight that float32 holds with fewer digits, or soon would


def state_gradients(
    q_policy: QPolicy,
    states: NDArray[Any] | Tensor,
    temperature: float = 1.0,
    jitter: float = 0.0,
    *,
    context: Context | None = None,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    seed: int | Sequence[int] = 0,
) -> NDArray[Any]:
    """The gradients g(s) of N states as rows [N, d], d = C * H * W, per unit of pixel value in [0, 1].

    One forward and one backward pass per batch. The policy must treat the states of a batch independently. A policy
    that is a module in training mode, on another device or in another precision is copied, never changed.

    Args:
        q_policy: gives action values [B, n_actions], n_actions >= 2, differentiable in the pixels.
        states: [N, C, H, W]; uint8 (divided by 255) or floats in [0, 1].
        temperature: T > 0 of the softmax, in units of Q.
        jitter: standard deviation, in pixel values of [0, 1], of the Gaussian noise added to the states at which the
            gradient is taken; tau is that of the clean state.
        context: tensors or arrays [N, ...] that ``q_values`` takes beside the pixels, by name.
        batch_size: states per pass; the result does not depend on it beyond rounding.
        dtype: float32 or float64, of the passes and of the result.
        device: where to compute; default: where the policy is.
        seed: of the noise, one number or several.

    Raises:
        RoboprefError: no states, states or action values of a wrong shape or range, action values or gradients that
            are not finite, a policy that is not differentiable in its pixels, a setting out of range.
    """
    if len(states) == 0:
        raise RoboprefError("gradients need at least one state, got an empty set.")
    batches = iter_state_gradients(
        q_policy,
        [states],
        temperature,
        jitter,
        contexts=None if context is None else [context],
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    first = next(batches)
    gradients = np.empty((len(states), first.shape[1]), dtype=first.dtype)
    gradients[: len(first)] = first
    done = len(first)
    for batch in batches:
        gradients[done : done + len(batch)] = batch
        done += len(batch)
    return gradients


def iter_state_gradients(
    q_policy: QPolicy,
    states: Iterable[NDArray[Any] | Tensor],
    temperature: float = 1.0,
    jitter: float = 0.0,
    *,
    contexts: Iterable[Context] | None = None,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    seed: int | Sequence[int] = 0,
) -> Iterator[NDArray[Any]]:
    """``state_gradients`` of states that come in pieces [n, C, H, W], as batches [at most batch_size, d].

    Holds one piece and one batch at a time. How the states are cut into pieces changes nothing, the noise included.

    Args:
        q_policy: as in ``state_gradients``, and so are the other arguments.
        states: pieces of any length, of one shape.
        contexts: a context per piece.

    Raises:
        RoboprefError: as ``state_gradients``, when the piece is reached.
    """
    _check_settings(temperature, jitter, batch_size, dtype)
    policy, target = working_copy(q_policy, dtype, device)
    noise = np.random.default_rng(seed)
    pieces = ((piece, {}) for piece in states) if contexts is None else zip(states, contexts, strict=True)
    shape, done = None, 0
    for piece, context in pieces:
        shape = shape or tuple(piece.shape[1:])
        _check_piece(piece, context, shape)
        for start in range(0, len(piece), batch_size):
            rows = slice(start, start + batch_size)
            pixels = to_pixels(piece[rows], dtype)
            # Drawn in float32 on the CPU, in the order of the states: the same noise for every batch size and device.
            drawn = torch.as_tensor(noise.standard_normal(pixels.shape, dtype=np.float32)) if jitter else None
            where = f"states {done} to {done + len(pixels) - 1}"
            yield _batch_gradients(
                policy,
                pixels.to(target),
                None if drawn is None else jitter * drawn.to(target, dtype),
                {name: torch.as_tensor(values[rows]).to(target) for name, values in context.items()},
                temperature,
                where,
            )
            done += len(pixels)


def _batch_gradients(
    policy: QPolicy, pixels: Tensor, noise: Tensor | None, context: dict[str, Tensor], temperature: float, where: str
) -> NDArray[Any]:
    with torch.enable_grad(), _full_precision(pixels.device), InputGradientsOnly():
        chosen = None
        if noise is not None:
            with torch.no_grad():
                chosen = _checked_q_values(policy, pixels, context, where).argmax(1)
        inputs = (pixels if noise is None else pixels + noise).requires_grad_()
        q_values = _checked_q_values(policy, inputs, context, where)
        if not q_values.requires_grad:
            raise RoboprefError(
                "q_values is not differentiable in its pixels; remove what detaches it (torch.no_grad)."
            )
        margin = log_odds_against(q_values, q_values.argmax(1) if chosen is None else chosen, temperature)
        (gradient,) = torch.autograd.grad(margin.sum(), inputs, allow_unused=True)
    if gradient is None:
        raise RoboprefError("q_values does not use its pixels, so there is no gradient to take.")
    rows: NDArray[Any] = _weighted(margin.detach(), gradient.flatten(1)).cpu().numpy()
    if not np.isfinite(rows).all():
        raise RoboprefError(f"the gradient is not finite in {where}; check the policy's weights and the temperature.")
    return rows


def _weighted(margin: Tensor, gradient: Tensor) -> Tensor:
    """sigmoid(m) [B] times the gradients of m [B, d], which are overwritten where that loses nothing."""
    # In float64, for exp(-m) overflows in float32 once m < -88, before the product does underflow.
    weight = torch.sigmoid(margin.double())
    faint = weight < _FAINT
    exact = weight[faint, None] * gradient[faint] if faint.any() else None
    gradient *= weight[:, None].to(gradient.dtype)
    if exact is not None:
        gradient[faint] = exact.to(gradient.dtype)
    return gradient


def log_odds_against(q_values: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """m [B] = log((1 - pi(a)) / pi(a)) of the chosen actions [B] under the softmax of ``q_values`` [B, A] / T.

    softplus(m) = -log pi(a) and sigmoid(m) = 1 - pi(a), without the cancellation of computing pi(a) first.
    """
    advantage = (q_values - q_values.gather(1, chosen[:, None])) / temperature
    return advantage.scatter(1, chosen[:, None], -torch.inf).logsumexp(1)


def _checked_q_values(policy: QPolicy, pixels: Tensor, context: dict[str, Tensor], where: str) -> Tensor:
    q_values = policy.q_values(pixels, **context)
    if q_values.ndim != 2 or len(q_values) != len(pixels) or q_values.shape[1] < 2:
        raise RoboprefError(
            f"q_values must be [{len(pixels)}, n_actions] with at least 2 actions, got {tuple(q_values.shape)}."
        )
    if q_values.dtype != pixels.dtype:
        raise RoboprefError(f"the policy computes in {q_values.dtype}, asked for {pixels.dtype}; convert one of them.")
    if not torch.isfinite(q_values).all():
        raise RoboprefError(f"the policy's action values are not finite in {where}; check its weights for NaN.")
    return q_values


def _check_settings(temperature: float, jitter: float, batch_size: int, dtype: torch.dtype) -> None:
    if not (np.isfinite(temperature) and temperature > 0):
        raise RoboprefError(f"the temperature must be positive and finite, got {temperature}.")
    if not (np.isfinite(jitter) and jitter >= 0):
        raise RoboprefError(f"the jitter is a standard deviation and must be at least 0, got {jitter}.")
    if batch_size < 1:
        raise RoboprefError(f"a batch holds at least 1 state, got batch_size={batch_size}.")
    if dtype not in (torch.float32, torch.float64):
        raise RoboprefError(f"gradients are taken in float32 or float64, not {dtype}.")


def _check_piece(piece: NDArray[Any] | Tensor, context: Context, shape: tuple[int, ...]) -> None:
    if piece.ndim != 4 or tuple(piece.shape[1:]) != shape:
        expected = f"[N, {', '.join(map(str, shape))}]" if len(shape) == 3 else "[N, C, H, W]"
        raise RoboprefError(f"states must be {expected}, got shape {tuple(piece.shape)}.")
    for name, values in context.items():
        if len(values) != len(piece):
            raise RoboprefError(f"context '{name}' has {len(values)} rows for {len(piece)} states.")


def to_pixels(states: NDArray[Any] | Tensor, dtype: torch.dtype) -> Tensor:
    """States as a tensor of pixels in [0, 1]: uint8 is divided by 255, floats are copied.

    Raises:
        RoboprefError: integers of another kind, or floats outside [0, 1].
    """
    tensor = torch.as_tensor(states)
    if tensor.dtype == torch.uint8:
        return tensor.to(dtype).div_(255)
    if not tensor.is_floating_point():
        raise RoboprefError(f"states are uint8 or floats in [0, 1], got {tensor.dtype}.")
    low, high = tensor.min().item(), tensor.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # not (...) so that NaN is refused as well
        raise RoboprefError(
            f"float states must lie in [0, 1], got {low:g} to {high:g}; pass frames of 0..255 as uint8."
        )
    return tensor.to(dtype, copy=True)


def working_copy(
    q_policy: QPolicy, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[QPolicy, torch.device]:
    """The policy in evaluation mode, in ``dtype`` and where to compute; itself if it is all that already, else a copy.

    Without ``device`` that is where the policy is.
    """
    target = device_of(q_policy) if device is None else torch.device(device)
    return _prepare(q_policy, target, dtype), target


def device_of(policy: object) -> torch.device:
    """Where a policy's parameters are; of one that has none, the CPU."""
    own = _parameter(policy)
    return torch.device("cpu") if own is None else own.device


def _prepare(q_policy: QPolicy, device: torch.device, dtype: torch.dtype) -> QPolicy:
    own = _parameter(q_policy)
    if not isinstance(q_policy, torch.nn.Module) or own is None:
        return q_policy
    if q_policy.training or own.device != device or own.dtype != dtype:
        return copy.deepcopy(q_policy).to(device, dtype).eval()
    return q_policy


def _parameter(policy: object) -> Tensor | None:
    return next(policy.parameters(), None) if isinstance(policy, torch.nn.Module) else None


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Without it cuDNN may round the inputs of float32 convolutions to 10 bits (TF32) on a GPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
