"""What a finished study prints: its table and where the report is."""

from typing import Any

import pandas as pd

from eval.verdicts import compare_all, sentences
from pipeline.run_dir import RunDirectory

_COLUMNS = {
    "hook_name": "hookpoint",
    "architecture": "architecture",
    "d_sae": "d_sae",
    "sparsity_coefficient": "lambda",
    "seed": "seed",
    "l0": "L0",
    "r_squared": "R2",
    "dead_fraction": "dead",
    "bipolar_fraction": "bipolar",
}
_DECIMALS = {"L0": 1, "R2": 4, "dead": 3, "bipolar": 3}


def print_summary(run: RunDirectory) -> None:
    """Print the evaluation table, the verdict sentences and the report's path."""
    table = pd.read_csv(run.eval_csv)
    shown = table.loc[:, list(_COLUMNS)].rename(columns=_COLUMNS)
    formatters: Any = {name: f"{{:.{digits}f}}".format for name, digits in _DECIMALS.items()}
    print(shown.to_string(index=False, formatters=formatters))
    for comparison in compare_all(table):
        print(f"\n{comparison.hook_name}: {comparison.a.label} against {comparison.b.label}")
        for sentence in sentences(comparison):
            print(f"  {sentence}")
    print(f"\nreport: {(run.path / 'report.html').resolve()}")
