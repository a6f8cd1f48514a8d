import threading
from collections import Counter

import pytest
import torch

from hookpoints.batches import ShardBatches
from tests.hookpoints.test_harvest import HOOK
from tests.hookpoints.test_harvest import run as run_harvest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, corpus_file):
    return run_harvest(tmp_path_factory.mktemp("batches"), corpus_file, norm_outlier_factor=1.2)


def batches(dataset, batch_size: int = 200, seed: int = 0) -> ShardBatches:
    return ShardBatches(dataset, HOOK, batch_size=batch_size, seed=seed)


def kept_rows(dataset) -> torch.Tensor:
    shards = [dataset.read(HOOK, index) for index in dataset.shards("train")]
    return torch.cat([shard.activations[~shard.is_outlier] for shard in shards])


def counted(rows: torch.Tensor) -> Counter[tuple[float, ...]]:
    """Equal beginnings of documents give equal rows, so rows are counted."""
    return Counter(tuple(row) for row in rows.tolist())


def test_an_epoch_shows_every_kept_row_once(dataset):
    source = batches(dataset)
    rows = torch.cat([next(source) for _ in range(source.n_rows // 200)])
    assert counted(rows) <= counted(kept_rows(dataset))
    assert len(rows) > 0.9 * source.n_rows


def test_epochs_differ_and_seeds_differ(dataset):
    source = batches(dataset)
    per_epoch = source.n_rows // 200
    first = [next(source) for _ in range(per_epoch)]
    second = [next(source) for _ in range(per_epoch)]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert any(not torch.equal(next(batches(dataset, seed=seed)), first[0]) for seed in range(1, 6))


def test_position_is_the_whole_state(dataset):
    source, other = batches(dataset), batches(dataset)
    for _ in range(17):
        next(source)
    other.load_state_dict(source.state_dict())
    for _ in range(25):
        assert torch.equal(next(source), next(other))


def test_where_names_shards_and_rows(dataset):
    source = batches(dataset)
    next(source)
    assert source.where().startswith(f"{HOOK}: shard-0000")
    assert "rows 0 to 199" in source.where()


def test_too_few_rows(dataset):
    with pytest.raises(ValueError, match=r"train.batch_size is 100000 and blocks.1.hook_mlp_out has \d+ training rows"):
        batches(dataset, 100_000)


def test_the_readers_thread_ends_with_the_batches(dataset):
    before = set(threading.enumerate())
    with batches(dataset) as source:
        next(source)
        readers = set(threading.enumerate()) - before
        assert [thread.name for thread in readers] == ["shards_0"]
    assert not any(thread.is_alive() for thread in readers)
