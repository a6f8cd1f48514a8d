"""safetensors files: whole or absent, and held against the checksum of what was written."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.files import DamagedFileError, sha256_file, write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors, on the CPU and contiguous in the file; returns the file's SHA-256."""
    digest = ""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        nonlocal digest
        try:
            save_file(on_cpu, temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        digest = sha256_file(temporary)

    write_atomically(path, write)
    return digest


def read_tensors(path: Path, sha256: str | None, way_out: str) -> dict[str, Tensor]:
    """All tensors of a file. Raises DamagedFileError, naming the file and the way out, where it is missing, broken, or not of
    the checksum given; None, for files that were written without one, compares nothing."""
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing: {way_out}")
    if sha256 is not None and sha256_file(path) != sha256:
        raise DamagedFileError(
            f"{path} does not match the checksum of what was written: it was cut off, damaged or replaced: {way_out}"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is no whole safetensors file ({error}): {way_out}") from error


def tensor_shapes(path: Path, way_out: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name, from the file's header alone: nothing is allocated. Errors as for `read_tensors`."""
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing: {way_out}")
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is no whole safetensors file ({error}): {way_out}") from error
