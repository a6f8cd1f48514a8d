"""Files: whole or absent, and known to be what was written."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.files import (
    DamagedFileError,
    append_line,
    check_checked,
    check_name,
    forget_lines_from,
    read_json,
    read_lines,
    safe_name,
    write_atomically,
    write_checked,
    write_json,
    write_text,
)
from core.tensors import read_tensors, tensor_shapes, write_tensors

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_json_is_read_as_it_was_written_and_is_plain_json(tmp_path_factory, value):
    value.pop("sha256", None)
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    plain = json.loads(path.read_text())
    assert len(plain.pop("sha256")) == 64
    assert plain == value


def test_every_flipped_bit_of_a_json_file_is_found(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1.5, 2], "b": {"c": "text"}})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"a.json .*: start over"):
            read_json(path, "start over")
    for content in (b"", b"{}", b"[1]", b"\xff\xfe", whole[:-1], whole + b" "):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match="start over"):
            read_json(path, "start over")


def test_every_flipped_bit_of_a_log_is_found_or_cuts_its_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    records = [{"step": step, "loss": step / 3} for step in range(3)]
    for record in records:
        append_line(path, record)
    assert read_lines(path) == records
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if bit // 8 == len(whole) - 1:
            assert read_lines(path) == records[:2]
            continue
        with pytest.raises(DamagedFileError, match=r"log.jsonl, line \d: it was changed or damaged"):
            read_lines(path)


def test_a_line_that_a_kill_cut_off_goes_with_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"step": 1})
    whole = path.read_bytes()
    append_line(path, {"step": 2})
    for end in range(len(whole), len(path.read_bytes())):
        path.write_bytes((whole + b'{"step": 2, "crc32": "00000000"}\n')[:end])
        if end < len(whole) + 10:
            assert read_lines(path) == [{"step": 1}]
            append_line(path, {"step": 3})
            assert read_lines(path) == [{"step": 1}, {"step": 3}]


def test_a_log_is_cut_before_a_step(tmp_path):
    path = tmp_path / "log.jsonl"
    forget_lines_from(path, 1)
    for step in (1, 2, 5, 7):
        append_line(path, {"step": step})
    forget_lines_from(path, 5)
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    forget_lines_from(path, 9)
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    forget_lines_from(path, 0)
    assert read_lines(path) == []


@given(st.integers(0, 400), st.integers(0, 400), st.integers(5, 300))
def test_a_log_is_cut_from_its_end_block_by_block(tmp_path_factory, n_lines, step, block):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_bytes(b"")
    for number in range(0, n_lines, 7):
        append_line(path, {"step": number, "text": "x" * (number % 13)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.files._BLOCK", block)
        forget_lines_from(path, step)
    assert [line["step"] for line in read_lines(path)] == [number for number in range(0, n_lines, 7) if number < step]


def test_a_checked_file(tmp_path):
    path = tmp_path / "table.csv"
    write_checked(path, lambda temporary: temporary.write_text("a,b\n1,2\n"))
    check_checked(path, "again")
    done = subprocess.run(["sha256sum", "-c", "table.csv.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    path.write_text("a,b\n1,3\n")
    with pytest.raises(DamagedFileError, match=r"table.csv was changed or damaged"):
        check_checked(path, "again")


def test_tensors_are_what_was_written(tmp_path):
    path = tmp_path / "weights.safetensors"
    digest = write_tensors(path, {"a": torch.arange(6).reshape(2, 3).T})
    assert torch.equal(read_tensors(path, digest, "again")["a"], torch.arange(6).reshape(2, 3).T)
    assert tensor_shapes(path, "again") == {"a": (3, 2)}
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="does not match the checksum"):
        read_tensors(path, digest, "again")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    code = (
        "import os; os.umask(0o027)\n"
        "import sys, torch; from pathlib import Path\n"
        "from core.files import write_text; from core.tensors import write_tensors\n"
        "folder = Path(sys.argv[1]); write_text(folder / 'a', 'x'); write_tensors(folder / 'b', {'a': torch.zeros(1)})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 128 vs 0")])
def test_a_file_that_cannot_be_written_is_named(tmp_path, error):
    def fail(_):
        raise error

    with pytest.raises(
        OSError, match=r"a.bin cannot be written: (No space left|unexpected pos 128 vs 0 \(is the disk full)"
    ):
        write_atomically(tmp_path / "a.bin", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a cannot be written"):
        write_text(tmp_path / "file" / "a", "x")


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_has_a_safe_name_of_its_own(one, other):
    assert check_name(safe_name(one)) == safe_name(one)
    assert len(safe_name(one).encode()) < 200
    assert not safe_name(one).startswith(".")
    assert (safe_name(one) == safe_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc/passwd", "a\\b", "a\0b"])
def test_names_that_lead_elsewhere(name):
    with pytest.raises(ValueError, match="is no name of a file or folder"):
        check_name(name)


def test_a_plain_name_stays():
    assert os.fspath(safe_name("blocks.14.hook_mlp_out-x_1")) == "blocks.14.hook_mlp_out-x_1"
