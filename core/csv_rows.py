"""CSV files that people bring along; pandas is imported where it is used."""

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def read_csv_rows(path: Path, what: str) -> "pd.DataFrame":
    """A CSV file with a header. Raises ValueError, saying ``what`` it is, where it cannot be read or names a column twice."""
    import pandas as pd

    try:
        if not path.is_file():
            raise ValueError("there is no such file" if not path.exists() else "it is no regular file")
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
        table = pd.read_csv(path, encoding="utf-8-sig")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{what} {path} cannot be read ({error}); give a CSV file with a header, UTF-8") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what} {path} names a column twice: {', '.join(twice)}; rename one")
    return table
