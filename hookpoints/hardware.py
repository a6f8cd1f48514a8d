"""What the hardware computes natively."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware, rather than by emulation."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
