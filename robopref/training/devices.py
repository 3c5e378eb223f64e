"""Which devices a run is on, by way of ``accelerate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env

from robopref.errors import RoboprefError

_KNOWN = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.FSDP,
)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Inside it this thread takes denormal numbers for zero, where its processor can.

    Adam's averages of embeddings that no sample reads decay into denormal numbers, which make a training step of a
    small policy four times slower on a CPU.
    """
    smallest = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    before = bool(smallest / 2 == 0)  # there is no asking
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def make_accelerator(precision: str = "auto", device: str = "auto") -> Accelerator:
    """For what ``accelerate launch`` set up; bfloat16 autocast on GPUs that have it, unless told otherwise.

    Raises:
        RoboprefError: a way of distributing that the trainer does not know.
    """
    cpu = device == "cpu"
    if precision == "auto":
        precision = "bf16" if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=cpu)
    kind = accelerator.distributed_type
    if kind == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise RoboprefError("accelerate shards weights on GPUs only: launch CPU processes without --use_fsdp.")
    if kind not in _KNOWN or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise RoboprefError(
            f"training on {kind.value} is not supported: launch with --multi_gpu, or with --use_fsdp --fsdp_version 2 "
            f"(docs/many_devices.md)."
        )
    if kind == DistributedType.FSDP:
        # Every process has read the policy itself, and accelerate's way around that cannot handle buffers.
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
    return accelerator
