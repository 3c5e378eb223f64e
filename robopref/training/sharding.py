"""Whole tensors out of sharded ones and back, so that what is saved does not know how many processes there were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; all processes must call this, because a sharded one is gathered from them."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The whole ``tensor``, which every process has, on the device and in the shards of ``example``."""
    tensor = tensor.to(example.device)
    if isinstance(example, DTensor) and tensor.shape == example.shape:
        return distribute_tensor(tensor, example.device_mesh, example.placements)
    return tensor


def whole_state(module: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """What of the module's ``state_dict`` training changes, in whole tensors; all processes must call this.

    Frozen parameters are where they came from: the base of an adapter would make each state gigabytes larger. One
    process may ``keep`` the state.
    """
    frozen, state = _frozen(module), {}
    for name, tensor in module.state_dict().items():
        if name not in frozen:
            full = whole(tensor)
            if keep:
                state[name] = full
    return state


def load_whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``whole_state`` gave."""
    own = module.state_dict()
    kept = {name: own[name] for name in _frozen(module)}
    module.load_state_dict(
        kept | {name: sharded_like(tensor, own[name]) if name in own else tensor for name, tensor in state.items()}
    )


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def whole_optimizer_state(module: nn.Module, optimizer: Any, keep: bool = True) -> dict[str, dict[str, Any]]:
    """The optimiser's state by parameter name in whole tensors; all processes must call this."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    state: dict[str, dict[str, Any]] = {}
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        for key, value in optimizer.state.get(parameter, {}).items():
            full = whole(value) if isinstance(value, Tensor) else value
            if keep:
                state.setdefault(names[id(parameter)], {})[key] = full
    return state


def load_whole_optimizer_state(module: nn.Module, optimizer: Any, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Load what ``whole_optimizer_state`` gave; the settings of the groups stay the optimiser's own."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbered = {
        number: {
            key: sharded_like(value, parameter) if isinstance(value, Tensor) and value.dim() else value
            for key, value in state[names[id(parameter)]].items()
        }
        for number, parameter in enumerate(parameters)
        if names[id(parameter)] in state
    }
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def whole_parameters(module: nn.Module, keep: bool) -> Iterator[None]:
    """Inside it sharded parameters are whole, on the CPU, where ``keep``; all processes must enter, one may keep."""
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if isinstance(parameter, DTensor):
                    full = whole(parameter)
                    if keep:
                        replaced.append((owner, name, parameter))
                        setattr(owner, name, nn.Parameter(full, requires_grad=parameter.requires_grad))
        yield
    finally:
        for owner, name, parameter in replaced:
            setattr(owner, name, parameter)
