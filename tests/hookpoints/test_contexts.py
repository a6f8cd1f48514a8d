from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookpoints.capture import ActivationCapture
from hookpoints.contexts import SPLITS, build_contexts, read_contexts, separating_mask
from hookpoints.sites import Hookpoint
from tests.models import TINY_MODELS, random_documents, tiny_language_model, tiny_tokenizer

LENGTH = 16


def build(folder, documents, **changes):
    settings = {
        "context_length": LENGTH,
        "prepend_bos": False,
        "n_train": 10_000,
        "n_held_out": 10_000,
        "held_out_fraction": 0.3,
        "seed": 0,
    }
    return build_contexts(folder, documents, tiny_tokenizer(), **{**settings, **changes})


def pieces(contexts):
    """(document, tokens) of every piece of every context."""
    for ids, positions, documents in zip(*contexts, strict=True):
        starts = (positions == 0).nonzero()[:, 0].tolist() + [len(ids)]
        for start, stop in pairwise(starts):
            assert positions[start:stop].tolist() == list(range(stop - start))
            assert len(set(documents[start:stop].tolist())) == 1
            yield int(documents[start]), ids[start:stop].tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_packed_pieces_are_the_documents_in_order(tmp_path_factory, seed, prepend_bos):
    folder = tmp_path_factory.mktemp("contexts")
    documents = random_documents(40, seed)
    tokenizer = tiny_tokenizer()
    counts = build(folder, documents, seed=seed, prepend_bos=prepend_bos)
    seen: dict[int, list[int]] = {}
    split_of: dict[int, str] = {}
    for split in SPLITS:
        contexts = read_contexts(folder, split, 0, counts.of(split), LENGTH)
        for document, tokens in pieces(contexts):
            if prepend_bos:
                assert tokens[0] == tokenizer.bos_token_id
                tokens = tokens[1:]
            seen.setdefault(document, []).extend(tokens)
            assert split_of.setdefault(document, split) == split
    for document, tokens in seen.items():
        whole = tokenizer(documents[document], add_special_tokens=False)["input_ids"]
        assert tokens == whole[: len(tokens)]


def test_copies_of_a_document_fall_on_one_side(tmp_path):
    documents = random_documents(30, longest=30) * 3
    counts = build(tmp_path, documents)
    texts = {split: set() for split in SPLITS}
    for split in SPLITS:
        for document, _ in pieces(read_contexts(tmp_path, split, 0, counts.of(split), LENGTH)):
            texts[split].add(documents[document])
    assert texts["train"]
    assert texts["held_out"]
    assert texts["train"].isdisjoint(texts["held_out"])


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_packed_document_is_computed_as_if_it_stood_alone(name, tmp_path):
    language_model = tiny_language_model(name)
    counts = build(tmp_path, random_documents(60, shortest=3, longest=9))
    contexts = read_contexts(tmp_path, "train", 0, counts.train, LENGTH)
    mask = separating_mask(contexts.position_ids, torch.float32)
    assert mask is not None
    hookpoint = Hookpoint("resid_post", 2)
    with ActivationCapture(language_model.model, [hookpoint]) as capture, torch.inference_mode():
        packed = capture.run(contexts.input_ids, mask, contexts.position_ids)[hookpoint.name]
        for context, positions, activations in zip(contexts.input_ids, contexts.position_ids, packed, strict=True):
            starts = (positions == 0).nonzero()[:, 0].tolist() + [LENGTH]
            for start, stop in pairwise(starts):
                alone = capture.run(context[None, start:stop])[hookpoint.name][0]
                torch.testing.assert_close(activations[start:stop], alone, rtol=1e-4, atol=1e-4)


def test_one_document_needs_no_mask():
    assert separating_mask(torch.arange(LENGTH)[None].repeat(3, 1), torch.float32) is None


def test_empty_corpus(tmp_path):
    with pytest.raises(ValueError, match="corpus is empty"):
        build(tmp_path, [])
    assert not (tmp_path / "contexts.json").exists()


def test_corpus_too_short_for_a_split(tmp_path):
    with pytest.raises(ValueError, match=r"ended after 1 documents before the (train|held_out) split"):
        build(tmp_path, ["w1 w2 w3"])


def test_bos_without_a_bos_token(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match=r"prepend_bos.*no BOS token"):
        build_contexts(
            tmp_path,
            ["w1"],
            tokenizer,
            context_length=4,
            prepend_bos=True,
            n_train=1,
            n_held_out=1,
            held_out_fraction=0.5,
            seed=0,
        )
