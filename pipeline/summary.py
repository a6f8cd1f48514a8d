"""What a finished study prints: its table, the verdicts and where the report is."""

from typing import Any

import pandas as pd

from eval.xor.report import claims, quantile_table
from eval.networks.verdicts import network_sentences
from eval.saes.verdicts import compare_all, sentences
from pipeline.studies.networks.study import AnyStudy
from pipeline.run_dir import RunDirectory

_SAE_COLUMNS = {
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
_NETWORK_COLUMNS = {
    "task": "task",
    "label": "method",
    "beta": "beta",
    "seed": "seed",
    "objective": "objective",
    "relative_gap": "gap",
    "violation": "violation",
    "train_score": "train",
    "test_score": "test",
    "seconds": "seconds",
}
_XOR_COLUMNS = {
    "learning_rate": "rate",
    "step": "step",
    "train_accuracy_median": "train",
    "test_accuracy_q20": "test 20 %",
    "test_accuracy_median": "test",
    "test_accuracy_q80": "test 80 %",
    "own_feature_share_median": "own feature",
    "linear_slope_median": "slope",
}
_FORMATS = {
    "L0": ".1f", "R2": ".4f", "dead": ".3f", "bipolar": ".3f", "objective": ".6g", "gap": ".1e", "violation": ".1e",
    "train": ".3f", "test": ".3f", "test 20 %": ".3f", "test 80 %": ".3f", "own feature": ".3f", "slope": ".3f", "seconds": ".2f",
    "rate": "g",
}  # fmt: skip


def print_summary(study: AnyStudy, run: RunDirectory) -> None:
    """Print the evaluation table, the verdict sentences and the report's path."""
    table = pd.read_csv(run.eval_csv)
    verdicts: dict[str, list[str]] = {}
    match study.kind:
        case "saes":
            _print_table(table, _SAE_COLUMNS)
            for c in compare_all(table):
                verdicts[f"{c.hook_name}: {c.a.label} against {c.b.label}"] = sentences(c)
        case "networks":
            _print_table(table, _NETWORK_COLUMNS)
            verdicts = {str(task): network_sentences(table, str(task)) for task in table["task"].unique()}
        case "xor":
            _print_table(quantile_table(table), _XOR_COLUMNS)
            for rate, rows in table.groupby("learning_rate"):
                verdicts[f"learning rate {rate:g}"] = [claim.sentence() for claim in claims(rows)]
    for title, said in verdicts.items():
        print(f"\n{title}")
        for sentence in said:
            print(f"  {sentence}")
    print(f"\nreport: {(run.path / 'report.html').resolve()}")


def _print_table(table: pd.DataFrame, columns: dict[str, str]) -> None:
    shown = table.loc[:, list(columns)].rename(columns=columns)
    formatters: Any = {name: f"{{:{spec}}}".format for name, spec in _FORMATS.items() if name in shown}
    print(shown.to_string(index=False, formatters=formatters, na_rep="-"))
