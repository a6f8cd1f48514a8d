"""Loading causal language models: from the Hub, from a folder, or the one that a package embeds."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.devices import resolve_device, resolve_dtype
from hookpoints.blocks import find_blocks
from hookpoints.config import EmbeddedModel, HubModel, LocalModel, ModelConfig, model_id
from hookpoints.embedded import dense_gguf, embedded_folder, gguf_options, quiet_transformers
from hookpoints.hub import reading_hub

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_WITHOUT_HUB = "give a downloaded folder as model.local, or try embedded: smollm2-135m, which needs no network"


class ModelShape(NamedTuple):
    """What a study costs depends on these."""

    n_layers: int
    d_model: int
    n_params: int


class LanguageModel(NamedTuple):
    """A loaded model, ready for `hookpoints.capture`."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    model_id: str
    revision: str

    @property
    def n_layers(self) -> int:
        return len(find_blocks(self.model))

    @property
    def n_embeddings(self) -> int:
        """Tokens that it has."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def d_model(self) -> int:
        return int(self.model.config.get_text_config(decoder=True).hidden_size)


def model_shape(config: ModelConfig) -> ModelShape:
    """Depth, width and parameter count from the model's configuration alone (no weights are read)."""
    import torch
    from transformers import AutoModelForCausalLM

    pretrained = _pretrained_config(config)
    with torch.device("meta"), _readable_errors(config), quiet_transformers():
        model = AutoModelForCausalLM.from_config(pretrained, trust_remote_code=_trusts_remote_code(config))
    width = int(pretrained.get_text_config(decoder=True).hidden_size)
    return ModelShape(len(find_blocks(model)), width, sum(p.numel() for p in model.parameters()))


def load_model(config: ModelConfig) -> LanguageModel:
    """Load weights and tokenizer in evaluation mode on the configured device.

    Raises ValueError, ConnectionError or MemoryError with the ways out when the model cannot be had.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    _check_memory(config, dtype, device)
    location, options = _location(config)
    weight_options = {**options, "quantization_config": dense_gguf()} if "gguf_file" in options else options
    tokenizer = load_tokenizer(config)
    with _readable_errors(config), quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, output_loading_info=True, **weight_options
        )
    model, loading = loaded
    _check_weights(config, sorted(loading["missing_keys"]))
    model.eval().requires_grad_(False)
    try:
        model.to(device=device)  # pyright: ignore[reportCallIssue]
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(f"{model_id(config)} does not fit on {device}: {_MEMORY_WAYS_OUT}") from error
    revision = getattr(model.config, "_commit_hash", None) or getattr(config, "revision", "local")
    return LanguageModel(model, tokenizer, model_id(config), revision)


def load_tokenizer(config: ModelConfig) -> "PreTrainedTokenizerBase":
    """The model's tokenizer alone; errors as for `load_model`."""
    from transformers import AutoTokenizer

    location, options = _location(config)
    with _readable_errors(config), quiet_transformers():
        return AutoTokenizer.from_pretrained(location, **options)


def model_files(config: ModelConfig) -> list[Path]:
    """The files that weights and tokenizer are read from, without reading them; none where they are not on this machine."""
    match config:
        case EmbeddedModel():
            folder = embedded_folder()
        case LocalModel():
            folder = Path(config.local)
            if folder.is_file():
                return [folder]
        case HubModel():
            import huggingface_hub

            try:
                folder = Path(
                    huggingface_hub.snapshot_download(config.hub, revision=config.revision, local_files_only=True)
                )
            except (OSError, ValueError):
                return []
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


_MEMORY_WAYS_OUT = "use a smaller model, dtype: bfloat16, or a device with more free memory (device: ...)"


def _check_memory(config: ModelConfig, dtype: "torch.dtype", device: "torch.device") -> None:
    import psutil
    import torch

    needed = model_shape(config).n_params * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{model_id(config)} needs {needed / 1e9:.1f} GB in {dtype} and {device} has {free / 1e9:.1f} GB free; "
            + _MEMORY_WAYS_OUT
        )


def _check_weights(config: ModelConfig, missing: list[str]) -> None:
    """transformers fills what a checkpoint lacks with random numbers, and says so only in its log."""
    if missing:
        raise ValueError(
            f"model {model_id(config)} lacks {len(missing)} of its parameters, {missing[0]} for one: its files are incomplete, "
            "of another architecture, or quantised in a way that this version of transformers does not read"
        )


def _pretrained_config(config: ModelConfig) -> "PreTrainedConfig":
    from transformers import AutoConfig

    location, options = _location(config)
    with _readable_errors(config), quiet_transformers():
        return AutoConfig.from_pretrained(location, **options)


def _location(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """First argument and options of every ``from_pretrained`` call for this model."""
    match config:
        case EmbeddedModel():
            return str(embedded_folder()), {}
        case HubModel():
            return config.hub, {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        case LocalModel():
            return _local(Path(config.local), trust_remote_code=config.trust_remote_code)


def _local(path: Path, *, trust_remote_code: bool) -> tuple[str, dict[str, Any]]:
    """A model folder, or a GGUF file: its path, or that of a folder that holds one."""
    if path.suffix == ".gguf" and path.is_file():
        return gguf_options(path)
    if (path / "config.json").is_file():
        return str(path), {"trust_remote_code": trust_remote_code}
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return gguf_options(files[0])
    if files:
        raise ValueError(f"model.local: {path} holds several GGUF files; give one: {', '.join(map(str, files))}")
    raise ValueError(
        f"model.local: {str(path)!r} is no model: neither a folder with a config.json in it, as save_pretrained writes it, "
        "nor a GGUF file or a folder with one; for a Hub id use hub:"
    )


def _trusts_remote_code(config: ModelConfig) -> bool:
    return not isinstance(config, EmbeddedModel) and config.trust_remote_code


@contextmanager
def _readable_errors(config: ModelConfig) -> Iterator[None]:
    """Turn the many ways in which a model cannot be had into one clear error each."""
    name = f"model {model_id(config)}"
    try:
        with reading_hub(name, instead=_WITHOUT_HUB) if isinstance(config, HubModel) else nullcontext():
            yield
    except ConnectionError:
        raise
    except Exception as error:  # files of the wrong form end in every kind of error, deep inside other libraries
        raise ValueError(_why_not_loaded(name, error)) from error


def _why_not_loaded(name: str, error: Exception) -> str:
    """In one line, with the way out where transformers knows only its own."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if not isinstance(error, OSError | ValueError | RuntimeError):
        said = f"its files are damaged, or not what they are named for ({type(error).__name__}: {said})"
    if "trust_remote_code" in str(error):  # transformers has no type for it, and names its own option
        return (
            f"{name} ships its own Python code, which is not run unless the study says so: "
            "set model.trust_remote_code: true if you trust it"
        )
    if unknown := re.match(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>", said):
        return (
            f"{name} is no causal language model that transformers knows (its configuration is a {unknown[1]}): dipole reads "
            "decoders that predict the next token, not encoder-decoders or encoders"
        )
    if isinstance(error, ImportError):
        return (
            f"{name} needs a package that is not installed: {said} Install it, or use the model's unquantised weights"
        )
    return f"{name} cannot be loaded: {said}"
