"""The table of an experiment: tasks from scratch and pretrained, over seeds."""

import statistics
from typing import Any

from lm.lab.pretraining import STARTS

ABSENT = "absent"  # a metric that the task lacks; an undefined one is None


def _difference(a: float | str | None, b: float | str | None) -> float | str | None:
    known = [value for value in (ABSENT, None) if value in (a, b)]
    return known[0] if known else a - b


def _above_the_floor(record: dict[str, Any]) -> float | str | None:
    """Returns the distance to the floor, with unknown tokens spelled out, as the floor is that of whole texts."""
    nats = record.get("nats_per_example_spelled", record.get("nats_per_example", ABSENT))
    return _difference(nats, record.get("floor_nats_per_example", ABSENT))


ERRORS = {  # functions of a record that are smaller for a better model
    "error": lambda record: _difference(1, record.get("exact_match", ABSENT)),
    "nats above the floor": _above_the_floor,
}


def compared(records: dict[str, dict[str, Any]], tasks: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """Returns the rows of the table: for each task and each of `ERRORS`, the values by seed, mean and standard
    deviation.

    Both are given from scratch and pretrained, with the ratio of the means. A metric that a record lacks has no row.
    """
    rows = []
    for task in tasks:
        for name, error in ERRORS.items():
            unknown = [records[f"{task}-{start}-{seed}"].get("unknown_tokens", 0) for start in STARTS for seed in seeds]
            row: dict[str, Any] = {"task": task, "what": name}
            if name != "error" and any(unknown):
                row["unknown_tokens"] = max(unknown)
            for start in STARTS:
                values = [error(records[f"{task}-{start}-{seed}"]) for seed in seeds]
                if ABSENT not in values:
                    row[start] = {"values": values, "mean": None, "deviation": None}
                    if None not in values:
                        row[start]["mean"] = statistics.mean(values)
                        row[start]["deviation"] = statistics.stdev(values) if len(values) > 1 else None
            if all(start in row for start in STARTS):
                scratch, pretrained = (row[start]["mean"] for start in STARTS)
                known = None not in (scratch, pretrained) and scratch > 0
                rows.append(row | {"ratio": pretrained / scratch if known else None})
    return rows


def markdown(rows: list[dict[str, Any]], split: str, seeds: list[int]) -> list[str]:
    """Returns the lines of the table."""

    def cell(found: dict[str, Any], percent: bool) -> str:
        if found["mean"] is None:
            return "undefined"
        scale, digits, unit = (100, 1, " %") if percent else (1, 2, "")
        spread = "" if found["deviation"] is None else f" ± {scale * found['deviation']:.{digits}f}"
        return f"{scale * found['mean']:.{digits}f}{spread}{unit}"

    lines = [f"| task | {split} | from scratch | pretrained | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [cell(row[start], row["what"] == "error") for start in STARTS]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        mark = " *" * ("unknown_tokens" in row)
        lines.append(f"| {row['task']} | {row['what']}{mark} | {' | '.join(cells)} | {ratio} |")
    lines.append("")
    if marked := [row for row in rows if "unknown_tokens" in row]:
        counts = ", ".join(f"{row['unknown_tokens']:,} of {row['task']}" for row in marked)
        lines.append(f"\\* unknown target tokens are spelled out, each byte and each end log 257 nats: {counts}")
    for name in ERRORS:
        of_it = [row for row in rows if row["what"] == name]
        halved = sum(row["ratio"] is not None and row["ratio"] <= 0.5 for row in of_it)
        lines.append(f"{name}: pretraining at least halves it on {halved} of {len(of_it)} tasks")
    count = f"mean ± standard deviation of seeds {', '.join(map(str, seeds))}"
    count = count if len(seeds) > 1 else f"seed {seeds[0]} alone, which has no standard deviation"
    return [*lines, f"{count}; error is the share of outputs that are not exactly the reference"]
