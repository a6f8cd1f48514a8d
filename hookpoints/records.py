"""A record of every part of every shard; written after the part's file, so that the file counts."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from core.files import DamagedFileError, read_json
from core.schema import Schema
from hookpoints.config import Split
from hookpoints.outliers import NormBound

TOKENS = "tokens"
"""The part that is no hook."""
WAY_OUT = "delete that folder and run dipole harvest again, or set activations to another one"
Record = TypeVar("Record", bound=Schema)


class Dropped(Schema):
    """Rows that are not stored."""

    first_position: int
    """First positions of pieces."""
    special_tokens: int
    """Special tokens at other positions."""


class TokenRecord(Schema):
    """The tokens of one shard; written after its file, so that the file counts."""

    split: Split
    """Which split its rows belong to."""
    n_rows: int
    """Rows stored."""
    n_dropped: Dropped
    """Rows that are not."""
    file_sha256: str
    """Of its file."""
    bytes: int
    """Size of its file."""


class HookRecord(Schema):
    """One hook's rows in one shard: sums; those without `all_rows` are over the rows that the norm filter keeps."""

    n_rows: int
    """Rows stored."""
    norm_bound: float | None
    """Norm over which a row is an outlier; None without the filter."""
    norm_gap: tuple[float, float] | None
    """Norms on both sides of the gap that the bound lies in; None where it is a multiple of the median."""
    n_outliers: int
    """Rows over it."""
    sum: list[float]
    """Of the rows, `[d_in]`."""
    sum_norm: float
    """Of their norms."""
    sum_squared_norm: float
    """Of their squared norms."""
    sum_squared_centred_norm: float
    """Of their squared distances from their own mean."""
    sum_squared_norm_all_rows: float
    """Of squared norms, with the outliers."""
    largest_kept_norm: float
    """Largest norm that the filter keeps."""
    norm_histogram: list[tuple[int, int]]
    """Of all rows, as `hookpoints.outliers.norm_histogram`."""
    sum_squared_storage_error: float
    """Of ||stored - captured||^2, over all rows."""

    @property
    def bound(self) -> NormBound | None:
        """The filter's."""
        return None if self.norm_bound is None else NormBound(self.norm_bound, self.norm_gap)


class HookShardRecord(Schema):
    """One hook of one shard; written after its file, so that the file counts."""

    file_sha256: str
    """Of its file."""
    bytes: int
    """Size of its file."""
    environment: dict[str, str]
    """Versions and hardware that it was made with."""
    rows: HookRecord
    """What was measured of them."""


def parse_record(kind: type[Record], path: Path) -> Record:
    """A JSON file as a typed record. Raises DamagedFileError naming the file, the place in it and the way out."""
    value = read_json(path, WAY_OUT)
    value.pop("sha256", None)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the whole file"
        raise DamagedFileError(
            f"{path} is not what this version of dipole writes ({place}: {problem['msg']}): {WAY_OUT}"
        ) from error
