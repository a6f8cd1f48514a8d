"""Sites of a transformer block and their TransformerLens hook names."""

import re
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from core.schema import Schema

_LAYER = re.compile(r"0|[1-9][0-9]{0,5}")
Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
SITES: tuple[Site, ...] = get_args(Site)


class HookpointConfig(Schema):
    """One hookpoint as a study writes it."""

    site: Site
    """Where in the block."""
    layer: int | Literal["mid"] = Field(default="mid")
    """Block index from 0, or `mid`: the block after which half of the blocks have run."""


class Hookpoint(NamedTuple):
    """A site of one block of one model."""

    site: Site
    layer: int

    @property
    def name(self) -> str:
        """TransformerLens hook name, for example ``blocks.14.hook_mlp_out``."""
        return f"blocks.{self.layer}.hook_{self.site}"


def middle_layer(n_layers: int) -> int:
    """The block after which half of the blocks have run: 14 of 30, 7 of 16, 17 of 36."""
    return (n_layers - 1) // 2


def resolve_hookpoint(config: HookpointConfig, n_layers: int) -> Hookpoint:
    """Put a number on ``mid`` and check the range. Raises ValueError for a layer the model lacks."""
    layer = middle_layer(n_layers) if config.layer == "mid" else config.layer
    if not 0 <= layer < n_layers:
        raise ValueError(
            f"hookpoint {config.site} at layer {layer}: the model has {n_layers} blocks; "
            f"give a layer from 0 to {n_layers - 1}, or mid (block {middle_layer(n_layers)})"
        )
    return Hookpoint(config.site, layer)


def parse_hook_name(name: str) -> Hookpoint:
    """The inverse of `Hookpoint.name`. Raises ValueError for any other string."""
    match name.split("."):
        case ["blocks", layer, hook] if _LAYER.fullmatch(layer) and hook.removeprefix("hook_") in SITES:
            site: Site = next(site for site in SITES if hook == f"hook_{site}")
            return Hookpoint(site, int(layer))
    raise ValueError(f"{name!r} is no hook name; they read blocks.<layer>.hook_<site>, site one of {', '.join(SITES)}")
