"""The machine that computes: device, precision, and the memory settings of the process."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from gnn_moe.errors import BadInput
from gnn_moe.model.head import lay_out_by_columns
from gnn_moe.training.process_memory import peak_resident_bytes, reset_peak_resident

if TYPE_CHECKING:
    from gnn_moe.model.language_model import LanguageModel


def resolve_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is a GPU if there is one, else the CPU.

    Raises:
        BadInput: the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cpu":
            return torch.device("cpu")
    except RuntimeError:
        raise BadInput(f"--device {name!r} is not a device: use auto, cpu, cuda or cuda:1") from None
    if not _is_there(device):
        raise BadInput(f"--device {name} is not on this machine: use --device cpu, or auto for what there is")
    return device


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return False


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix products of its own, rather than an emulation that is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """`bf16` or `fp32` for a `--precision` on a device.

    Raises:
        BadInput: bf16 was asked for and the device has none.
    """
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    if precision == "bf16" and not computes_bf16(device):
        raise BadInput(f"--precision bf16: the {device.type} of this machine has no bf16 products; use fp32 or auto")
    return precision


@contextmanager
def accelerator_for(device_name: str, precision_name: str) -> Iterator[Accelerator]:
    """An `Accelerator` for `--device` and `--precision`; its process-wide state ends with the context.

    Raises:
        BadInput: the device or precision cannot be had, or the process is one of several.
    """
    device = resolve_device(device_name)
    precision = resolve_precision(precision_name, device)
    if device.index is not None:
        torch.cuda.set_device(device)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
        if accelerator.num_processes > 1:
            raise BadInput(
                f"this was launched as {accelerator.num_processes} processes, but a run is one process: "
                "start gnn-moe train directly"
            )
        yield accelerator
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.index is not None:
            os.environ.pop("ACCELERATE_TORCH_DEVICE", None)


def precision_of(accelerator: Accelerator) -> Literal["bf16", "fp32"]:
    """What an accelerator computes in, as `--precision` names it."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "fp32"


def place(model: LanguageModel, accelerator: Accelerator) -> None:
    """Puts a model where it will be trained, before there is an optimiser, and the head's weight in order for it."""
    model.to(accelerator.device)
    if accelerator.device.type == "cpu" and precision_of(accelerator) == "bf16":
        lay_out_by_columns(model.head_weight)


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory in the process instead of handing it back to the kernel after every tensor.

    A step frees and takes hundreds of large blocks; without this each comes back as page faults. All threads take from
    one heap: those that have one of their own hand it back whenever its end falls free. It holds for the whole process,
    so only the command line calls it. No effect on other C libraries.
    """
    mmap_max, trim_threshold, arena_max = -4, -1, -8
    if (glibc := _glibc()) is not None:
        glibc.mallopt(mmap_max, 0)
        glibc.mallopt(trim_threshold, 2**31 - 1)
        glibc.mallopt(arena_max, 1)


def release_freed_memory(device: torch.device) -> None:
    """Hands freed memory back, which allocators keep: to the GPU, or to the kernel where the C library is glibc."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (glibc := _glibc()) is not None:
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:  # another system
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def reset_peak_memory(device: torch.device) -> None:
    """Starts the count of `peak_memory_bytes`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_resident()


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes since the count was started: the most allocated on a GPU, or the largest resident size of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def to_host(values: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The numbers of several steps, stacked on the device so that the host asks it once."""
    if not values:
        return []
    numbers = torch.stack([torch.stack(list(step.values())) for step in values]).tolist()
    return [dict(zip(step, found, strict=True)) for step, found in zip(values, numbers, strict=True)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch says so in plain RuntimeErrors."""
    # oneDNN, refused the memory for a kernel, says no more than that it could not create it.
    texts = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory object")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def _computes_with_amx() -> bool:
    """Whether the processor has AMX and the system lets this process use it."""
    return bool(torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx())


def describe_device(device: torch.device) -> str:
    """The device's name for the record: the GPU's, or the processor's where the system tells it.

    Virtual machines hide which processor it is, so the unit that decides how fast bf16 products are is named with it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processors = Path("/proc/cpuinfo")
    if device.type == "cpu" and processors.exists():
        for line in processors.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip() + " with AMX" * _computes_with_amx()
    return platform.processor() or str(device)
