import bz2
import gzip
import io
import json
import lzma
import os
import re
from itertools import islice

import pyarrow as pa
import pytest
from pyarrow import parquet

from hookpoints.corpus import EmbeddedCorpus, FilesCorpus, HubCorpus
from hookpoints.corpus import documents as read_documents
from hookpoints.text import Notes, tokenised
from tests.models import random_documents, tiny_tokenizer


def documents(config, notes=None):
    return read_documents(config, tiny_tokenizer(), notes or Notes())


def test_python_docs_are_real_english_and_always_the_same():
    first = list(documents(EmbeddedCorpus(embedded="python-docs")))
    assert len(first) > 400
    assert sum(map(len, first)) > 1_500_000
    assert any('The "with" statement is used to wrap the execution' in text for text in first)
    assert first[:150] == list(islice(documents(EmbeddedCorpus(embedded="python-docs")), 150))


def read(tmp_path, **files) -> tuple[list, list[str]]:
    """Documents of a folder with these files, and what was said; ``options`` are the corpus'."""
    options = files.pop("options", {})
    for name, content in files.pop("contents").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes = Notes()
    found = list(documents(FilesCorpus.model_validate({"files": [str(tmp_path)], **options}), notes))
    return found, notes.lines()


def rows(*texts) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def test_every_file_type(tmp_path):
    table = io.BytesIO()
    parquet.write_table(pa.table({"text": ["five", None, "six"], "other": [1, 2, 3]}), table)
    contents = {
        "b.jsonl": rows("three") + "\n" + rows("four"),
        "c.parquet": table.getvalue(),
        "d.json": json.dumps([{"text": "seven"}, {"text": "eight"}]),
        "e.json": json.dumps({"text": "nine"}),
        "f.ndjson": rows("ten"),
        "g.jsonl.gz": gzip.compress(rows("eleven").encode()),
        "h.jsonl.zst": pa.compress(rows("twelve").encode(), "zstd", asbytes=True),
        "i.JSONL.BZ2": bz2.compress(rows("thirteen").encode()),
        "j.jsonl.xz": lzma.compress(rows("fourteen").encode()),
    }
    expected = [
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
    ]
    assert read(tmp_path, contents=contents)[0] == expected


def test_texts_of_a_folder(tmp_path):
    contents = {
        "a.txt": "one\n\ntwo",
        "b.md": "# three",
        "c.txt.gz": gzip.compress(b"four"),
        "LICENSE.txt": "no document",
    }
    found, said = read(tmp_path, contents=contents)
    assert found == ["one\n\ntwo", "# three", "four"]
    assert said == [f"1 .txt files of a folder were not read (the first: {tmp_path})"]


def test_texts_beside_rows_describe_them_and_are_not_read(tmp_path):
    contents = {"a.jsonl": rows("one"), "README.md": "x", "b.txt": "x", "c.png": "x", ".git/config.json": "x"}
    found, said = read(tmp_path, contents=contents)
    assert found == ["one"]
    assert [line.split(" of a folder")[0] for line in said] == ["1 .md files", "1 .txt files", "1 .png files"]


def test_patterns(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.jsonl.gz"):
        (tmp_path / name).write_text(rows(name))
    assert list(documents(FilesCorpus(files=[str(tmp_path / "*.jsonl")]))) == ["a.jsonl", "b.jsonl"]
    with pytest.raises(ValueError, match=r"x\*' matches nothing"):
        list(documents(FilesCorpus(files=[str(tmp_path / "x*")])))


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        (
            rows("a", None, "", "  ", "b"),
            ["a", "b"],
            r"3 rows without 'text' were skipped \(the first: .*a.jsonl, line 2\)",
        ),
        (rows("a", 7, ["b"], {"c": 1}), ["a"], r"1 rows whose 'text' is no text \(int\) were skipped .*line 2"),
        ('{"text": "a"}\n{"other": "b"}\n[1]\n', ["a"], r"2 rows without 'text' were skipped .*line 2"),
        (rows("a\0b"), ["a\ufffdb"], r"1 NUL characters were replaced by"),
        ('{"text": "a\\ud800b"}\n', ["a\ufffdb"], r"1 lone surrogates were replaced by .*line 1"),
        ('{"text": "\\ud83d\\ude00"}\n', ["\U0001f600"], None),
        (b"\xef\xbb\xbf" + rows("a").encode(), ["a"], None),
        ('{"text": "caf\xe9"}\n'.encode("latin-1"), ["caf\ufffd"], r"1 bytes that are not UTF-8 .*Latin-1\? .*line 1"),
        (rows("a").replace("\n", "\r\n"), ["a"], None),
    ],
)
def test_rows_as_they_are(tmp_path, content, expected, said):
    """Nothing stops a harvest of a million rows for one of them, and nothing is lost without a word."""
    found, lines = read(tmp_path, contents={"a.jsonl": content})
    assert found == expected
    assert (lines == []) if said is None else re.match(said, lines[0])
    assert all(isinstance(text, str) and text.encode() for text in found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xef\xbb\xbfone", "one"), (b"caf\xe9 \0", "caf\ufffd \ufffd"), ("na\xefve \ufffd".encode(), "na\xefve \ufffd")],
)
def test_text_files_as_they_are(tmp_path, content, expected):
    assert read(tmp_path, contents={"a.txt": content})[0] == [expected]


def test_conversations_are_written_by_the_chat_template(tmp_path):
    messages = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    content = json.dumps({"messages": messages}) + "\n" + json.dumps({"messages": []}) + "\n"
    (tmp_path / "a.jsonl").write_text(content)
    corpus, tokenizer = FilesCorpus(files=[str(tmp_path)], messages_column="messages"), tiny_tokenizer()
    with pytest.raises(ValueError, match=r"the tokenizer .* has no chat template; use the instruct version"):
        list(read_documents(corpus, tokenizer, Notes()))
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    notes = Notes()
    assert list(read_documents(corpus, tokenizer, notes)) == ["[user] w1 w2\n[assistant] w3\n"]
    assert notes.lines()[0].startswith("1 rows without 'messages' were skipped")
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": 7}))
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: it is no conversation"):
        list(read_documents(corpus, tokenizer, Notes()))


def test_tokens_made_before(tmp_path):
    options = {"tokens_column": "input_ids"}
    content = json.dumps({"input_ids": [3, 4, 5]}) + "\n" + json.dumps({"input_ids": [6]})
    assert read(tmp_path, contents={"a.jsonl": content}, options=options)[0] == [[3, 4, 5], [6]]
    for bad in ("text", [1.5], [-1], [True]):
        with pytest.raises(ValueError, match=r"a.jsonl, line 1: corpus.tokens_column takes lists of token ids"):
            read(tmp_path, contents={"a.jsonl": json.dumps({"input_ids": bad})}, options=options)


def test_text_separator_is_found_across_read_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hookpoints.corpus_files._BLOCK", 3)
    options = {"document_separator": "<end>"}
    assert read(tmp_path, contents={"a.txt": "aaaa<end>bb<end>cccccc"}, options=options)[0] == ["aaaa", "bb", "cccccc"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"title": "x"}\n', r"a.jsonl, line 1: no column 'text'; it has: title. Set corpus.text_column"),
        ("a.jsonl", '{"input_ids": [1]}\n', r"it has: input_ids. Set corpus.tokens_column: input_ids"),
        ("a.jsonl", '{"messages": [1]}\n', r"Set corpus.messages_column: messages"),
        ("a.jsonl", "[1]\n", r"a.jsonl, line 1: no column 'text'; it has: none, since its row is no mapping"),
        ("a.jsonl", "{not json\n", r"a.jsonl, line 1: not valid JSON"),
        ("a.jsonl", "[" * 100_000, r"a.jsonl, line 1: not valid JSON"),
        ("a.csv", "x", r"ends in '.csv'; allowed are .txt, .md, .text, .jsonl, "),
        ("a.jsonl.gz", "no gzip", r"a.jsonl.gz cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99)[:40], r"a.jsonl.gz cannot be read: "),
        ("a.jsonl.zst", "no zstd", r"a.jsonl.zst cannot be read: "),
        ("a.parquet", "no parquet", r"a.parquet is no whole Parquet file"),
        ("a.txt", "x".encode("utf-16"), r"a.txt is UTF-16; convert it \(iconv -f UTF-16 -t UTF-8\)"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(documents(FilesCorpus(files=[str(path)])))


def test_a_line_without_end_and_a_text_without_separator(tmp_path, monkeypatch):
    monkeypatch.setattr("hookpoints.corpus_files.LARGEST_DOCUMENT", 1 << 20)
    for name, message in (
        ("a.jsonl", r"a.jsonl, line 1 has more than 1 MiB"),
        ("a.txt", "set corpus.document_separator"),
    ):
        (tmp_path / name).write_bytes(b"x" * (1 << 21))
        with pytest.raises(ValueError, match=message):
            list(documents(FilesCorpus(files=[str(tmp_path / name)])))


def test_a_pipe_is_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a.jsonl is no regular file"):
        list(documents(FilesCorpus(files=[str(tmp_path / "a.jsonl")])))


def test_parquet_without_the_column(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"title": ["x"]}), path)
    with pytest.raises(ValueError, match=r"a.parquet, row 1: no column 'text'; it has: title"):
        list(documents(FilesCorpus(files=[str(path)])))


def test_a_long_document_has_the_tokens_of_the_whole(monkeypatch):
    """In pieces of at most 200 characters, each cut where the tokens of both sides stay what they are."""
    tokenizer, text = tiny_tokenizer(), " ".join(random_documents(40))
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr("hookpoints.text._LONGEST_PIECE", 200)
    monkeypatch.setattr("hookpoints.text._CHARACTERS_PER_CALL", 500)
    notes = Notes()
    assert [tokens for _, tokens in tokenised([text, [5, 6], "w1"], tokenizer, notes)] == [whole, [5, 6], [4]]
    assert notes.lines() == []
    unbroken = "x" * 1000
    assert len(list(tokenised([unbroken], tokenizer, notes))) == 1
    assert "cuts in long documents may change the tokens beside them" in notes.lines()[0]


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
    with pytest.raises(ValueError, match=r"row 0: no column 'text'; it has: body"):
        next(documents(HubCorpus(hub=str(folder))))
    assert list(documents(HubCorpus(hub=str(folder), text_column="body"))) == ["hello"]
