"""A change of structure changes no result: see `tests.golden`."""

import json

import pytest

from tests.golden import GOLDEN, measure, processor

RECORDED = json.loads(GOLDEN.read_text())
LOOSE = {"relative_gap", "violation", "lower_bound", "gap_minimum_low", "gap_minimum_high"}
"""What rounding moves by more than its size."""


def test_tiny_studies_leave_what_they_always_did():
    found = measure()
    if found["processor"] == RECORDED["processor"]:
        assert found["studies"] == RECORDED["studies"]
        return
    print(f"recorded on {RECORDED['processor']}, this is {processor()}: tables are compared by value")
    for name, study in RECORDED["studies"].items():
        here = found["studies"][name]
        assert here["sha256"].keys() == study["sha256"].keys()
        for file, table in study["tables"].items():
            for column, expected in table.items():
                got = here["tables"][file][column]
                if column in LOOSE or isinstance(expected[0], str | bool):
                    assert len(got) == len(expected)
                else:
                    assert got == pytest.approx(expected, rel=0.05, abs=0.02, nan_ok=True), (name, file, column)
