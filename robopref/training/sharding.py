"""Whole tensors out of sharded ones and back, so that what is saved does not know how many processes there were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from robopref.errors import RoboprefError


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
    changing, state = _changing(module), {}
    for name, tensor in module.state_dict().items():
        if name in changing:
            full = whole(tensor)
            if keep:
                state[name] = full
    return state


def load_whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``whole_state`` gave.

    Raises:
        RoboprefError: it is that of a module with other parameters.
    """
    own = module.state_dict()
    differing = sorted((own.keys() & _changing(module)) ^ state.keys())
    if differing:
        raise RoboprefError(f"the saved state is of another policy: only one of the two has {differing[0]}.")
    # Not strictly, since what is frozen stays as it is; layers of 4 bits could not even be loaded from their own state.
    module.load_state_dict({name: sharded_like(tensor, own[name]) for name, tensor in state.items()}, strict=False)


def _changing(module: nn.Module) -> set[str]:
    """Names of trained parameters and of buffers; a ``state_dict`` has more: second names, details of quantisation."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | {name for name, _ in module.named_buffers()}


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
