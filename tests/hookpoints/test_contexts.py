from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from hookpoints.config import SPLITS
from hookpoints.contexts import CONTEXTS, Contexts, ContextSettings, ContextStore, packed_batches, padded_batches
from hookpoints.grow import Wanted, grow_contexts
from hookpoints.text import Notes, bos_token_ids
from tests.models import random_documents, tiny_tokenizer

LENGTH = 16


def build(folder, documents, n_contexts=10_000, n_embeddings=96, **changes):
    """The store, and how many contexts each split has."""
    values = {"tokenizer": "tiny", "context_length": LENGTH, "prefix": [], "held_out_fraction": 0.3, "seed": 0}
    context_settings = ContextSettings.model_validate({**values, "shard_contexts": 4, **changes})
    wanted = Wanted(2 * n_contexts * LENGTH, {"train": n_contexts, "held_out": n_contexts})
    options = {"n_embeddings": n_embeddings}
    record = grow_contexts(folder, documents, tiny_tokenizer(), context_settings, wanted, Notes(), **options)
    return ContextStore(folder), record.extents[-1].n_contexts


def pieces(contexts):
    """(document, tokens) of every piece of every context."""
    for ids, positions, documents in zip(*contexts, strict=True):
        starts = (positions == 0).nonzero()[:, 0].tolist() + [len(ids)]
        for start, stop in pairwise(starts):
            assert positions[start:stop].tolist() == list(range(stop - start))
            assert len(set(documents[start:stop].tolist())) == 1
            yield int(documents[start]), ids[start:stop].tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([[], [1], [1, 0], [2, 1, 0]]))
def test_packed_pieces_are_the_documents_in_order(tmp_path_factory, seed, prefix):
    folder = tmp_path_factory.mktemp("contexts")
    documents = random_documents(40, seed)
    tokenizer = tiny_tokenizer()
    store, counts = build(folder, documents, seed=seed, prefix=prefix)
    seen: dict[int, list[int]] = {}
    split_of: dict[int, str] = {}
    for split in SPLITS:
        contexts = store.read(split, 0, counts[split])
        for document, tokens in pieces(contexts):
            assert tokens[: len(prefix)] == prefix[: len(tokens)]
            tokens = tokens[len(prefix) :]
            seen.setdefault(document, []).extend(tokens)
            assert split_of.setdefault(document, split) == split
    for document, tokens in seen.items():
        whole = tokenizer(documents[document], add_special_tokens=False)["input_ids"]
        assert tokens == whole[: len(tokens)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 40), min_size=2, max_size=4, unique=True))
def test_contexts_grow_without_a_change_to_those_before(tmp_path_factory, seed, sizes):
    """In steps, with documents appended between them: what is there stays, and the end is what one step gives."""
    folder = tmp_path_factory.mktemp("contexts")
    documents, shards, extents = random_documents(120, seed), [], []
    parts = [documents[: 60 + 30 * number] for number in range(len(sizes))]
    for part, n_contexts in zip(parts, sorted(sizes), strict=True):
        store, _ = build(folder, part, n_contexts=n_contexts)
        assert store.record.shards[: len(shards)] == shards
        assert store.record.extents[: len(extents)] == extents
        shards, extents = store.record.shards, store.record.extents
    whole, counts = build(tmp_path_factory.mktemp("whole"), parts[-1], n_contexts=max(sizes))
    assert extents[-1].model_copy(update={"n_shards": 0}) == whole.record.extents[0].model_copy(update={"n_shards": 0})
    for split in SPLITS:
        grown, at_once = ContextStore(folder).read(split, 0, counts[split]), whole.read(split, 0, counts[split])
        assert all(torch.equal(one, other) for one, other in zip(grown, at_once, strict=True))


def test_growing_with_another_text_is_refused(tmp_path):
    documents = random_documents(60)
    build(tmp_path, documents, n_contexts=4)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for other in ([*reversed(documents)], documents[:5]):
        with pytest.raises(
            ValueError, match=r"the text is not the one .* was harvested from \(the first \d+ documents"
        ):
            build(tmp_path, other, n_contexts=8)
    with pytest.raises(
        ValueError, match=r"holds activations of 128 tokens and harvest.n_tokens is 32; give one of these"
    ):
        build(tmp_path, documents, n_contexts=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tokens_that_the_model_does_not_have(tmp_path):
    with pytest.raises(
        ValueError, match=r"document \d+ of the corpus holds token \d+, and the model's embedding has 20 rows"
    ):
        build(tmp_path, random_documents(60), n_embeddings=20)
    assert list(tmp_path.iterdir()) == []


def test_flipped_bits_of_contexts_are_found(tmp_path):
    store, counts = build(tmp_path, random_documents(60))
    path = tmp_path / "train.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train.bin was cut off, damaged or replaced.*run dipole harvest again"):
        ContextStore(tmp_path).read("train", 0, counts["train"])
    store.read("held_out", 0, counts["held_out"])


def test_copies_of_a_document_fall_on_one_side(tmp_path):
    documents = random_documents(30, longest=30) * 3
    store, counts = build(tmp_path, documents)
    texts = {split: set() for split in SPLITS}
    for split in SPLITS:
        for document, _ in pieces(store.read(split, 0, counts[split])):
            texts[split].add(documents[document])
    assert texts["train"]
    assert texts["held_out"]
    assert texts["train"].isdisjoint(texts["held_out"])


def test_empty_corpus(tmp_path):
    with pytest.raises(ValueError, match="corpus is empty"):
        build(tmp_path, [])
    assert not (tmp_path / CONTEXTS).exists()


def test_corpus_too_short_for_a_split(tmp_path):
    with pytest.raises(ValueError, match=r"ended after 1 documents before the (train|held_out) split"):
        build(tmp_path, ["w1 w2 w3"])


def test_a_context_too_short_for_the_prefix(tmp_path):
    with pytest.raises(ValueError, match=r"context_length is 2 and every piece starts with the 2 tokens.*raise it"):
        build(tmp_path, ["w1"], context_length=2, prefix=[1, 2])


def test_bos_follows_the_tokenizers_habit():
    plain, habitual, two = tiny_tokenizer(), tiny_tokenizer(), tiny_tokenizer()
    for tokenizer, template in ((habitual, "<s> $A"), (two, "</s> <s> $A </s>")):
        special = [("<s>", 1), ("</s>", 2)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)  # pyright: ignore
    assert bos_token_ids(plain, None) == []
    assert bos_token_ids(plain, True) == [1]
    assert bos_token_ids(habitual, None) == bos_token_ids(habitual, True) == [1]
    assert bos_token_ids(habitual, False) == []
    assert bos_token_ids(two, None) == [2, 1]


def test_bos_without_a_bos_token():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match=r"prepend_bos.*no BOS token"):
        bos_token_ids(tokenizer, True)
    assert bos_token_ids(tokenizer, None) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=30), st.integers(1, 40))
def test_batches_hold_every_token_once(lengths, batch_tokens):
    """Packed or padded: each token of the contexts stands at one place, in its own piece, at its own position."""
    position_ids = torch.cat([torch.arange(length) for length in lengths])
    position_ids = torch.nn.functional.pad(position_ids, (0, -len(position_ids) % 8)).reshape(-1, 8)
    position_ids[:, 0] = 0
    for column in range(1, 8):
        follows = position_ids[:, column] == 0
        position_ids[:, column] = torch.where(follows, 0, position_ids[:, column - 1] + 1)
    input_ids = torch.arange(position_ids.numel()).reshape(position_ids.shape)
    contexts = Contexts(input_ids, position_ids, torch.zeros_like(position_ids).int())
    for batches in (packed_batches(contexts, max(1, batch_tokens // 8)), padded_batches(contexts, batch_tokens)):
        places = []
        for batch in batches:
            is_token = batch.place >= 0
            places.append(batch.place[is_token])
            assert torch.equal(batch.input_ids[is_token], batch.place[is_token])
            expected = position_ids.flatten()[batch.place[is_token]]
            columns = torch.arange(batch.place.shape[1]).expand_as(batch.place)
            at = columns if batch.position_ids is None else batch.position_ids
            assert torch.equal(at[is_token], expected)
            assert batch.place.shape[0] == 1 or batch.place.numel() <= max(batch_tokens, 8)
        assert torch.equal(torch.cat(places).sort().values, torch.arange(input_ids.numel()))
