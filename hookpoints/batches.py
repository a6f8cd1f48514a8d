"""Training batches of one hook, read shard after shard."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from hookpoints.shards import ActivationDataset, shard_name


class ShardBatches:
    """An endless stream of batches ``[batch_size, d_in]`` of raw activations (float32), outlier rows left out.

    Each epoch visits the training shards in an order of its own (a function of ``seed`` and the epoch) and reads each
    from front to back; rows were shuffled inside a shard when it was written. Batch k is a function of k alone, so the
    state is one number. The next shard is read while the current one is in use, by a thread that `close` ends; or use it as a
    context manager. Raises ValueError when the split holds
    fewer rows than one batch.
    """

    def __init__(self, dataset: ActivationDataset, hook_name: str, *, batch_size: int, seed: int) -> None:
        self._dataset = dataset
        self._hook_name = hook_name
        self._batch_size = batch_size
        self._seed = seed
        self._shards = dataset.shards("train")
        self._sizes = [dataset.n_kept_rows(hook_name, index) for index in self._shards]
        self.n_rows = sum(self._sizes)
        if self.n_rows < batch_size:
            raise ValueError(
                f"train.batch_size is {batch_size} and {hook_name} has {self.n_rows} training rows; "
                "lower train.batch_size or raise harvest.n_tokens"
            )
        self._cursor = 0
        self._loaded: tuple[int, Tensor] | None = None
        self._ahead: tuple[int, Future[Tensor]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shards")

    def __next__(self) -> Tensor:
        pieces = [self._rows(shard)[start:stop] for shard, start, stop in self._spans(self._cursor)]
        self._cursor += 1
        return torch.cat(pieces)

    def __enter__(self) -> "ShardBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reader's thread; a shard that it is reading is dropped."""
        self._reader.shutdown(cancel_futures=True)
        self._ahead = None

    def where(self) -> str:
        """Where the batch given last came from, for error messages."""
        spans = self._spans(self._cursor - 1)
        places = ", ".join(f"{shard_name(shard)} rows {start} to {stop - 1}" for shard, start, stop in spans)
        return f"{self._hook_name}: {places} (counting rows that the norm-outlier filter kept)"

    def state_dict(self) -> dict[str, int]:
        """Position in the stream."""
        return {"cursor": self._cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self._cursor = state["cursor"]

    def _order(self, epoch: int) -> list[int]:
        """Positions in the list of training shards, as an epoch visits them."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        return torch.randperm(len(self._shards), generator=generator).tolist()

    @property
    def _batches_per_epoch(self) -> int:
        return self.n_rows // self._batch_size

    def _spans(self, batch: int) -> list[tuple[int, int, int]]:
        """(shard, first row, end row) pieces of a batch; an epoch's incomplete last batch is left out."""
        epoch, number = divmod(batch, self._batches_per_epoch)
        first, end = number * self._batch_size, (number + 1) * self._batch_size
        spans, offset = [], 0
        for position in self._order(epoch):
            size = self._sizes[position]
            start, stop = max(first - offset, 0), min(end - offset, size)
            if start < stop:
                spans.append((self._shards[position], start, stop))
            offset += size
        return spans

    def _rows(self, shard: int) -> Tensor:
        if self._loaded is None or self._loaded[0] != shard:
            is_ahead = self._ahead is not None and self._ahead[0] == shard
            self._loaded = (shard, self._ahead[1].result() if self._ahead and is_ahead else self._read(shard))
            following = self._following(shard)
            self._ahead = None if following == shard else (following, self._reader.submit(self._read, following))
        return self._loaded[1]

    def _read(self, shard: int) -> Tensor:
        rows = self._dataset.read(self._hook_name, shard)
        return rows.activations[~rows.is_outlier] if bool(rows.is_outlier.any()) else rows.activations

    def _following(self, shard: int) -> int:
        """The shard visited after this one."""
        epoch = self._cursor // self._batches_per_epoch
        order = [self._shards[position] for position in self._order(epoch)]
        place = order.index(shard) + 1
        return order[place] if place < len(order) else self._shards[self._order(epoch + 1)[0]]
