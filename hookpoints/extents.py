"""How far the text of a harvest reaches. A harvest grows by whole extents; each holds those before it, token for token."""

from core.schema import Schema
from hookpoints.config import Split


class Extent(Schema):
    """The text up to a number of tokens asked for."""

    n_tokens: int
    """Asked for, both splits together."""
    n_contexts: dict[Split, int]
    """By split; fewer than asked for where the corpus ended."""
    n_documents: int
    """Documents read until both splits were full or the corpus ended."""
    corpus_hash: str
    """SHA-256 over those documents."""
    n_shards: int
    """Shards up to here."""
    notes: list[str]
    """What was replaced or skipped in the text."""

    @property
    def contents(self) -> dict[str, object]:
        """What rows are a function of, in all of this."""
        return self.model_dump(mode="json", include={"n_contexts", "n_documents", "corpus_hash"})


def extent_of(extents: list[Extent], n_tokens: int) -> int | None:
    """The first extent of a number of tokens; None where there is none."""
    return next((number for number, extent in enumerate(extents) if extent.n_tokens == n_tokens), None)
