"""Token-level labels: what each marks, how two combine, and how a user's own table is read."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from hookpoints.config import TOKEN_LABELS, HarvestConfig, LabelConfig, LocalModel
from hookpoints.contexts import ContextStore, Split
from hookpoints.corpus import FilesCorpus
from hookpoints.described import Described
from hookpoints.harvest import harvest
from hookpoints.labels import context_labels, row_strata, token_texts
from hookpoints.shards import ActivationDataset
from hookpoints.sites import HookpointConfig
from tests.models import VOCABULARY, tiny_language_model

TEXTS = ["\n", ">>>", " Path", "(", "x", ")", "\n", "The", " 2", "nd", " é", "..", "\n", "", " y", " =", " Z9"]


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("starts_with_capital", [" Path", "The", " Z9"]),
        ("starts_word", ["\n", " Path", "\n", " 2", " é", "\n", " y", " =", " Z9"]),
        ("has_digit", [" 2", " Z9"]),
        ("is_punctuation", [">>>", "(", ")", "..", " ="]),
        ("in_code_line", [">>>", " Path", "(", "x", ")", "\n", "", " y", " =", " Z9"]),
    ],
)
def test_each_label_marks_its_tokens(name, marked):
    marks = context_labels(name, [TEXTS, TEXTS[::-1]])
    assert marks.dtype == torch.bool
    assert [text for text, mark in zip(TEXTS, marks[0].tolist(), strict=True) if mark] == marked


@pytest.mark.parametrize(
    ("line", "is_code"),
    [
        ("  return x", True),
        ("import os", True),
        ("from os import path", True),
        ("@property", True),
        ("class A:", True),
        ("def f(x):", True),
        ("name = 3", True),
        ("print(name)", True),
        ("...     pass", True),
        ("From here on it returns (see above).", False),
        ("classes and imports are words", False),
        ("a == b is a comparison, and so not a line of code here", False),
    ],
)
def test_lines_of_code(line, is_code):
    words = line.replace(" ", "\0 ").split("\0")
    assert context_labels("in_code_line", [["Text.\n", *words, "\n", "Text."]])[0].tolist() == [
        False,
        *[is_code] * len(words),
        is_code,
        False,
    ]


def test_a_line_break_with_the_next_word_in_one_token_belongs_to_the_new_line():
    assert context_labels("in_code_line", [["Text.", "\n\nimport", " os"]]).tolist() == [[False, True, True]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, corpus_file) -> ActivationDataset:
    folder = tmp_path_factory.mktemp("activations")
    config = HarvestConfig(
        hookpoints=[HookpointConfig(site="mlp_out", layer=1)],
        n_tokens=2048,
        context_length=32,
        batch_tokens=128,
        shard_tokens=512,
        held_out_fraction=0.25,
    )
    study = Described(LocalModel(local="tiny"), FilesCorpus(files=[str(corpus_file)]), config)
    for _ in harvest(tiny_language_model(), study, folder, {}):
        pass
    return ActivationDataset(folder)


def tokenizer_of_many_kinds() -> PreTrainedTokenizerFast:
    """Its tokens are capitalised or not, with a digit or not, a line break, or the start of a line of code."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    kinds = ("W", "w", "W1", "w1", "\n", "import ")
    texts = [kinds[token % len(kinds)] + "x" * (token // len(kinds)) for token in range(VOCABULARY)]
    model = WordLevel({text: token for token, text in enumerate(texts)}, unk_token="W")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="W")


def stored_tokens(dataset: ActivationDataset, split: Split = "train"):
    return dataset.read_tokens(dataset.shards(split)[0])


def test_rows_get_the_label_of_their_own_token(dataset):
    """By decoding each row's token id, without the contexts that `row_strata` reads."""
    tokens, tokenizer = stored_tokens(dataset), tokenizer_of_many_kinds()
    strata = row_strata(LabelConfig(token="has_digit"), dataset, tokenizer, "train", tokens)
    expected = [any(c.isdigit() for c in tokenizer.decode([token])) for token in tokens["token_ids"].tolist()]
    assert strata.tolist() == [int(mark) for mark in expected]
    assert set(strata.tolist()) == {0, 1}


def test_code_lines_of_rows_are_those_of_their_contexts(dataset):
    tokens, tokenizer = stored_tokens(dataset), tokenizer_of_many_kinds()
    first, last = int(tokens["sequence"].min()), int(tokens["sequence"].max()) + 1
    contexts = ContextStore(dataset.folder / "contexts").read("train", first, last)
    texts = token_texts(contexts.input_ids, tokenizer)
    for label in TOKEN_LABELS:
        strata = row_strata(LabelConfig(token=label), dataset, tokenizer, "train", tokens)
        marks = context_labels(label, texts)
        where = {
            (sequence, int(document), int(position)): bool(mark)
            for sequence, rows in enumerate(zip(contexts.documents, contexts.position_ids, marks, strict=True), first)
            for document, position, mark in zip(*rows, strict=True)
        }
        keys = zip(*(tokens[name].tolist() for name in ("sequence", "document", "position")), strict=True)
        assert strata.tolist() == [int(where[key]) for key in keys]
        assert label == "is_punctuation" or set(strata.tolist()) == {0, 1}


def test_an_exclusive_or_keeps_all_four_combinations_apart(dataset):
    tokens, tokenizer = stored_tokens(dataset), tokenizer_of_many_kinds()
    label = LabelConfig(xor=["has_digit", "starts_with_capital"])
    parts = [row_strata(LabelConfig(token=name), dataset, tokenizer, "train", tokens) for name in label.xor or []]
    strata = row_strata(label, dataset, tokenizer, "train", tokens)
    assert torch.equal(strata, 2 * parts[0] + parts[1])
    assert set(strata.tolist()) == {0, 1, 2, 3}
    assert (label.name, label.n_strata, label.positive_strata) == ("has_digit_xor_starts_with_capital", 4, (1, 2))


def table_of(tokens: dict[str, torch.Tensor], label: list[int], split: str = "train") -> pd.DataFrame:
    columns = {name: tokens[name].numpy() for name in ("sequence", "document", "position")}
    return pd.DataFrame({"split": split, **columns, "label": label})


def test_a_table_labels_the_rows_it_names_and_no_others(dataset, tmp_path):
    tokens = stored_tokens(dataset)
    n = len(tokens["sequence"])
    wanted = (torch.arange(n) % 2).tolist()
    path = tmp_path / "mine.csv"
    table_of(tokens, wanted).sample(frac=1, random_state=0).iloc[: n // 2].to_csv(path, index=False)
    label = LabelConfig(csv=str(path))
    assert label.name == "mine"
    strata = row_strata(label, dataset, tokenizer_of_many_kinds(), "train", tokens)
    known = strata >= 0
    assert int(known.sum()) == n // 2
    assert strata[known].tolist() == torch.tensor(wanted)[known].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns=["position", "label"]), r"lacks the columns position, label; it needs split"),
        (lambda table: table.assign(label=2), "holds labels other than 0 and 1"),
        (lambda table: table.assign(split="test"), "has no row of the train split"),
        (lambda table: table.assign(position="first"), "the column position holds values that are not whole numbers"),
        (
            lambda table: table.assign(document=float("nan")),
            "the column document holds values that are not whole numbers",
        ),
    ],
)
def test_bad_tables_are_named(dataset, tmp_path, change, message):
    tokens = stored_tokens(dataset)
    path: Path = tmp_path / "mine.csv"
    change(table_of(tokens, [0] * len(tokens["sequence"]))).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        row_strata(LabelConfig(csv=str(path)), dataset, tokenizer_of_many_kinds(), "train", tokens)


def test_no_table_at_all(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"none.csv cannot be read .*; give a CSV file with a header"):
        row_strata(
            LabelConfig(csv=str(tmp_path / "none.csv")),
            dataset,
            tokenizer_of_many_kinds(),
            "train",
            stored_tokens(dataset),
        )


@pytest.mark.parametrize("fields", [{}, {"token": "has_digit", "csv": "a.csv"}])
def test_a_label_has_one_source(fields):
    with pytest.raises(ValidationError, match="exactly one of token, xor, csv"):
        LabelConfig(**fields)
