"""Grouping an evaluation table into families (one curve each) and their sweeps."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.saes.pareto import Sweep

FAMILY_COLUMNS = ["architecture", "d_sae", "tying", "one_sided", "auxiliary_loss", "threshold_init"]
_ARCHITECTURE_NAMES = {"gated": "Gated", "sa_gated": "SA-GSAE"}


class Family(NamedTuple):
    """SAEs of one hookpoint that differ only in lambda and seed."""

    hook_name: str
    architecture: str
    label: str
    """For people: architecture and width, and what else sets it apart."""
    n_params: int
    rows: pd.DataFrame
    """Their rows of the evaluation table, by lambda and seed."""

    @property
    def sweep(self) -> Sweep:
        """Arrays over (seed, lambda), of the lambdas that every seed has."""
        pivots = [
            self.rows.pivot_table(index="seed", columns="sparsity_coefficient", values=value).dropna(axis="columns")
            for value in ("l0", "r_squared", "dead_fraction")
        ]
        l0, r_squared, dead = (pivot.to_numpy(dtype=np.float64) for pivot in pivots)
        return Sweep(l0, r_squared, dead, int(self.rows["d_sae"].iloc[0]))


def families(table: pd.DataFrame) -> list[Family]:
    """The curves of an evaluation table, by hookpoint in the order of the table."""
    found: list[Family] = []
    for hook_name, of_hook in table.groupby("hook_name", sort=False):
        for _, rows in of_hook.groupby(FAMILY_COLUMNS, sort=False, dropna=False):
            first: dict[str, Any] = {str(name): value for name, value in rows.iloc[0].items()}
            label = family_label(first, of_hook)
            ordered = rows.sort_values(["sparsity_coefficient", "seed"])
            found.append(Family(str(hook_name), str(first["architecture"]), label, int(first["n_params"]), ordered))
    return found


def family_label(row: dict[str, Any], table: pd.DataFrame) -> str:
    """``SA-GSAE 1152``, with tying and ablations where the study varies them or they are not the default."""
    parts = [_ARCHITECTURE_NAMES[row["architecture"]], str(int(row["d_sae"]))]
    if row["architecture"] == "sa_gated":
        tyings = table.loc[table["architecture"] == "sa_gated", "tying"].unique()
        if len(tyings) > 1 or row["tying"] != "full":
            parts.append(f"tying {row['tying']}")
        if row["one_sided"]:
            parts.append("one-sided")
    if not row["auxiliary_loss"]:
        parts.append("no auxiliary loss")
    if row["threshold_init"] != "calibrated":
        parts.append(f"{row['threshold_init']} init")
    return " ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])
