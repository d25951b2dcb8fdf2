"""The processes that train one network together, and what they compute in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from shapefit.settings import TrainSceneSettings

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Team(NamedTuple):
    """This process among those that `torchrun` started; alone without it."""

    rank: int
    count: int
    device: torch.device
    precision: torch.dtype

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean of all processes'."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.count
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def autocast(self) -> torch.autocast:
        """Computes in `precision`."""
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, self.precision if enabled else None, enabled=enabled)


@contextmanager
def join_team(settings: TrainSceneSettings) -> Iterator[Team]:
    """This process's part in the training that `settings` describe, as `torchrun` says in the environment.

    gloo joins processors, NCCL GPUs. Raises ValueError for a device or precision that is unknown or absent,
    and a batch that cannot be shared evenly.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if settings.device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {settings.device!r}; expected 'cpu' or 'cuda'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device; train with --device cpu")
    if settings.batch % count:
        raise ValueError(f"a batch of {settings.batch} cannot be shared evenly by {count} processes")
    device = torch.device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    threads = torch.get_num_threads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    started = count > 1 and not distributed.is_initialized()
    if started:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(rank, count, device, _precision(settings.precision, device))
    finally:
        if started:
            distributed.destroy_process_group()
        torch.backends.cudnn.deterministic = deterministic
        torch.set_num_threads(threads)


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        if device.type == "cuda":
            return (
                torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
            )
        return torch.bfloat16 if computes_bfloat16() else torch.float32
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; expected auto, {', '.join(PRECISIONS)}")
    if name == "float16" and device.type != "cuda":
        raise ValueError("float16 trains on a GPU alone; use bfloat16 or float32")
    return PRECISIONS[name]


def computes_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; others imitate it, slower than float32."""
    found: dict = getattr(torch.cpu, "get_capabilities", dict)()  # absent before PyTorch 2.8
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
