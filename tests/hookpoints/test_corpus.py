import json
from itertools import islice

import pyarrow as pa
import pytest
from pyarrow import parquet

from hookpoints.corpus import EmbeddedCorpus, FilesCorpus, HubCorpus, documents


def test_python_docs_are_real_english_and_always_the_same():
    first = list(documents(EmbeddedCorpus(embedded="python-docs")))
    assert len(first) > 400
    assert sum(map(len, first)) > 1_500_000
    assert any('The "with" statement is used to wrap the execution' in text for text in first)
    assert first[:150] == list(islice(documents(EmbeddedCorpus(embedded="python-docs")), 150))


def test_every_file_type(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.jsonl").write_text(json.dumps({"body": "three"}) + "\n\n" + json.dumps({"body": "four"}) + "\n")
    parquet.write_table(pa.table({"body": ["five", None, "six"]}), tmp_path / "c.parquet")
    assert list(documents(FilesCorpus(files=[str(tmp_path)], text_column="body"))) == [
        "one\n\ntwo",
        "three",
        "four",
        "five",
        "six",
    ]


def test_text_separator_is_found_across_read_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hookpoints.corpus._READ_CHARACTERS", 3)
    (tmp_path / "a.txt").write_text("aaaa<end>bb<end>cccccc")
    assert list(documents(FilesCorpus(files=[str(tmp_path / "a.txt")], document_separator="<end>"))) == [
        "aaaa",
        "bb",
        "cccccc",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"title": "x"}\n',
            r"a.jsonl, line 1: no text column 'text'; it has: title. Set corpus.text_column",
        ),
        ("a.jsonl", "{not json\n", r"a.jsonl, line 1: not valid JSON"),
        ("a.csv", "x", r"ends in '.csv'; allowed are .txt, .jsonl, .parquet"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(documents(FilesCorpus(files=[str(path)])))


def test_parquet_without_the_column(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"title": ["x"]}), path)
    with pytest.raises(ValueError, match=r"no text column 'text'; it has: title"):
        list(documents(FilesCorpus(files=[str(path)])))


def test_missing_file():
    with pytest.raises(ValueError, match=r"'nowhere.txt' does not exist"):
        list(documents(FilesCorpus(files=["nowhere.txt"])))


def test_hub_unreachable(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"corpus nobody/nothing.*embedded: python-docs"):
        next(documents(HubCorpus(hub="nobody/nothing")))


def test_hub_dataset_without_the_column(tmp_path):
    """A dataset script-free folder is loaded by the same call as a Hub id."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"body": "hello"}) + "\n")
    with pytest.raises(ValueError, match=r"row 0: no text column 'text'; it has: body"):
        next(documents(HubCorpus(hub=str(folder))))
    assert list(documents(HubCorpus(hub=str(folder), text_column="body"))) == ["hello"]
