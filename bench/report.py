"""Medians of the runs, as one table for people and as JSON for everything else."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

BASELINE = "pgbouncer"
NOTHING = "–"
PROBLEM_WIDTH = 120


@dataclass
class Measurement:
    """What one run showed for one target under one load."""

    case: str
    clients: int
    target: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Median:
    """The medians of all runs of one target under one load."""

    case: str
    clients: int
    target: str
    runs: int
    figures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A column of the table; `has_ratio` puts the ratio to PgBouncer beside the figure."""

    heading: str
    figure: str
    form: str
    has_ratio: bool = False


COLUMNS = (
    Column("tps", "tps", "{:,.0f}", has_ratio=True),
    Column("avg ms", "average_ms", "{:.3f}"),
    Column("p50 ms", "p50_ms", "{:.3f}"),
    Column("p99 ms", "p99_ms", "{:.3f}"),
    Column("p99.9 ms", "p999_ms", "{:.3f}", has_ratio=True),
    Column("CPU µs/tx", "cpu_us", "{:.1f}", has_ratio=True),
    Column("user", "cpu_user_us", "{:.1f}"),
    Column("sys", "cpu_system_us", "{:.1f}"),
)
# Figures of single cases; they stand at the end of the line instead of in a column.
NOTES = (
    ("mb_per_s", "{:,.0f} MB/s"),
    ("cpu_us_per_mb", "{:,.0f} CPU µs/MB"),
    ("bytes_per_client", "{:,.0f} bytes/client"),
    ("scrapes", "{:,.0f} scrapes"),
)


def medians(runs: list[Measurement]) -> list[Median]:
    """Takes the median of each figure over the rounds, and gathers the problems."""
    groups: dict[tuple, list[Measurement]] = {}
    for run in runs:
        groups.setdefault((run.case, run.clients, run.target), []).append(run)
    rows = []
    for (case, clients, target), group in groups.items():
        names = dict.fromkeys(name for run in group for name in run.figures)
        figures = {
            name: statistics.median(run.figures[name] for run in group if name in run.figures)
            for name in names
        }
        problems = [f"round {run.round}: {run.problem}" for run in group if run.problem]
        rows.append(Median(case, clients, target, len(group), figures, problems))
    return rows


def table(rows: list[Median], loads: list[tuple[str, int]], targets: list[str]) -> str:
    """Lays out the medians: one block for each of `loads`, one line for each of `targets`."""
    by_key = {(row.case, row.clients, row.target): row for row in rows}
    heading = ["case", "clients", "target"]
    for column in COLUMNS:
        heading += [column.heading, "×PgB"] if column.has_ratio else [column.heading]
    lines: list[list[str]] = [heading]
    # After which lines a block ends, and what is said at the end of each.
    ends: set[int] = set()
    remarks: dict[int, str] = {}
    for case, clients in loads:
        baseline = by_key.get((case, clients, BASELINE))
        for target in targets:
            row = by_key.get((case, clients, target), Median(case, clients, target, 0))
            remarks[len(lines)] = _remark(row, baseline)
            lines.append([case, str(clients), target, *_cells(row, baseline)])
        ends.add(len(lines))
    widths = [max(map(len, column)) for column in zip(*lines)]
    out = []
    for index, line in enumerate(lines):
        if index == 1 or index in ends:
            out.append("─" * (sum(widths) + 2 * len(widths) - 2))
        cells = [
            cell.ljust(width) if position in (0, 2) else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(line, widths))
        ]
        out.append("  ".join([*cells, remarks.get(index, "")]).rstrip())
    return "\n".join(out)


def comparison(rows: list[Median]) -> str:
    """Lays out the medians by case, each with its ratio to the first target of the case."""
    first: dict[str, Median] = {}
    lines = [["case", "target", "figures"]]
    for row in rows:
        base = first.setdefault(row.case, row)
        parts = []
        for name, value in row.figures.items():
            theirs = base.figures.get(name)
            ratio = f" (×{value / theirs:.2f})" if row is not base and theirs else ""
            parts.append(f"{name} {value:,.{0 if value >= 1000 else 2}f}{ratio}")
        lines.append([row.case, row.target, "  ".join(parts)])
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(
        f"{case.ljust(widths[0])}  {target.ljust(widths[1])}  {figures}"
        for case, target, figures in lines
    )


def _cells(row: Median, baseline: Median | None) -> list[str]:
    cells = []
    for column in COLUMNS:
        figure = row.figures.get(column.figure)
        cells.append(NOTHING if figure is None else column.form.format(figure))
        if column.has_ratio:
            cells.append(_ratio(row, baseline, column.figure))
    return cells


def _ratio(row: Median, baseline: Median | None, figure: str) -> str:
    ours = row.figures.get(figure)
    theirs = baseline.figures.get(figure) if baseline else None
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


def _remark(row: Median, baseline: Median | None) -> str:
    parts = []
    for figure, form in NOTES:
        if figure in row.figures:
            ratio = _ratio(row, baseline, figure)
            parts.append(form.format(row.figures[figure]) + (f" (×{ratio})" if ratio else ""))
    if row.problems:
        shown = row.problems[0][:PROBLEM_WIDTH]
        more = f" (+{len(row.problems) - 1} more)" if len(row.problems) > 1 else ""
        parts.append(f"!! {shown}{more}")
    return "  ".join(parts)


def write_json(path: Path, context: dict, runs: list[Measurement], rows: list[Median]) -> None:
    """Writes context, every run and the medians to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **context,
        "medians": [asdict(row) for row in rows],
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
