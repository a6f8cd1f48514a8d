"""Devices, their number formats and what they compute natively. torch is imported where it is used."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def resolve_device(device: str, *, needs_float64: bool = False) -> "torch.device":
    """``auto`` becomes CUDA, then MPS (where float64 is not needed, which it lacks), then CPU.

    Raises ValueError for a device that this machine lacks, or that cannot do the work.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps and not needs_float64 else "cpu"
        return torch.device(name)
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown; give auto, cpu, cuda, cuda:<n> or mps") from error
    n_cuda = torch.cuda.device_count()
    if resolved.type == "cuda" and (resolved.index or 0) >= n_cuda:
        raise ValueError(f"device {device!r}: this machine has {n_cuda or 'no'} CUDA device(s); give auto or cpu")
    if resolved.type == "mps" and not has_mps:
        raise ValueError(f"device {device!r}: this machine has none; give auto or cpu")
    if resolved.type == "mps" and needs_float64:
        raise ValueError(f"device {device!r} has no float64, which this work needs; give auto or cpu")
    return resolved


def resolve_dtype(dtype: Dtype, device: "torch.device") -> "torch.dtype":
    """``auto`` is bfloat16 where the hardware multiplies it natively, else float32."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def dtype_name(dtype: "torch.dtype") -> str:
    """``float32``, as configurations write it."""
    return str(dtype).removeprefix("torch.")


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware, rather than by emulation."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
