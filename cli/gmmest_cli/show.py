"""Tables for people on a terminal, progress, and the files of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gmmest.bench.figures import Figure, Report
    from gmmest.gmm.compare import Comparison
    from gmmest.gmm.draws import Bootstrap
    from gmmest.gmm.results import GMMResults

__all__ = [
    "benchmark",
    "bootstrap",
    "check_file",
    "comparison",
    "comparison_json",
    "progress",
    "replications",
    "result",
    "texts",
    "write_bootstrap",
    "write_file",
]

WIDEST = 96
"""Columns that the widest table needs."""

PATIENCE = 1.0
"""Seconds before a progress line appears."""

FIRST_LINE, LAST_LINE = 30.0, 1800.0
"""Seconds before the first line in a log, doubled for each further one up to the second number."""


def result(fitted: GMMResults) -> None:
    """Verdict, facts and the table of estimates."""
    _print(_console(), fitted, fitted.verified, fitted.notes)


def bootstrap(found: Bootstrap) -> None:
    """Verdict, facts, estimates with their intervals, and what was left out."""
    _print(_console(), found, not found.failures, found.all_notes)


def _print(console: Console, found: GMMResults | Bootstrap, good: bool, notes: Sequence[str]) -> None:
    console.print(Text(found.verdict(), style="bold green" if good else "bold red"), soft_wrap=True)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for label, text in found.facts():
        facts.add_row(Text(label, style="dim"), Text(text))
    _print_table(console, facts)
    _print_table(console, _table(*found.table()))
    _print_notes(console, notes)


def _print_table(console: Console, table: Table) -> None:
    """Print a table; in a file or a pipe no line ends in blanks."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def comparison(outcome: Comparison) -> None:
    """One row a backend."""
    console = _console()
    console.print(
        Text(
            f"{outcome.n_obs:,} observations, {outcome.n_rows:,} rows, {outcome.n_moments} moments,"
            f" {outcome.n_params} parameters; one evaluation of the criterion: {outcome.rows[0].value_ms:.3g} ms"
        ),
        soft_wrap=True,
    )
    heading = [
        "grad",
        "f ms",
        "grad. ms",
        "/f",
        "Jac. ms",
        "/f",
        "error",
        "1st s",
        "fit s",
        "passes",
        "digits",
        "ok",
    ]
    rows = [
        [
            row.name,
            f"{row.value_ms:.3g}",
            f"{row.gradient_ms:.3g}",
            f"{row.gradient_ratio:.2f}",
            f"{row.jacobian_ms:.3g}",
            f"{row.jacobian_ratio:.2f}",
            f"{row.error:.0e}",
            f"{row.first_call_s:.2g}",
            f"{row.fit.work.seconds:.2g}",
            f"{row.fit.work.evaluations}",
            f"{row.digits:.1f}",
            "yes" if row.fit.verified else "NO",
        ]
        for row in outcome.rows
    ]
    _print_table(console, _table(heading, rows))
    console.print(
        Text(
            "f: one evaluation of the criterion; grad.: criterion and gradient; Jac.: moments and Jacobian"
            " (minima, one thread, also as multiples of f). error: largest difference of the Jacobian from"
            f" '{outcome.reference}', relative to its column. 1st: first call, with compilation. fit, passes:"
            " the whole estimation. digits: agreement of the estimates."
        ),
        soft_wrap=True,
    )
    for complaint in outcome.complaints:
        console.print(Text(complaint, style="bold red"), soft_wrap=True)


def comparison_json(outcome: Comparison) -> None:
    """The same for programs."""
    rows = [
        {
            "grad": row.name,
            "value_ms": row.value_ms,
            "gradient_ms": row.gradient_ms,
            "gradient_ratio": row.gradient_ratio,
            "jacobian_ms": row.jacobian_ms,
            "jacobian_ratio": row.jacobian_ratio,
            "max_relative_error": row.error,
            "audit": [
                {"at": part.place, "error": part.error, "moment": part.moment, "parameter": part.parameter}
                for part in row.audit
            ],
            "first_call_seconds": row.first_call_s,
            "fit_seconds": row.fit.work.seconds,
            "evaluations": row.fit.work.evaluations,
            "digits": row.digits,
            "verified": row.fit.verified,
        }
        for row in outcome.rows
    ]
    click.echo(json.dumps({"reference": outcome.reference, "backends": rows}, indent=2, allow_nan=False))


def benchmark(report: Report) -> None:
    """One row a figure, and the bars that were missed."""
    console = _console()
    machine = report.machine
    console.print(
        Text(
            f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, {', '.join(machine.packages)};"
            f" load {machine.load:g} at the beginning; {report.seconds:.0f} s"
        ),
        soft_wrap=True,
    )
    heading = ["", "what", "value", "from", "to", "unit", "bar", "held"]
    for part in dict.fromkeys(figure.part for figure in report.figures):
        rows = [_figure(figure) for figure in report.figures if figure.part == part]
        _print_table(console, _table(heading, rows, left=2))
    notes = dict.fromkeys(f"{figure.label}: {figure.note}" for figure in report.figures if figure.note)
    _print_notes(console, notes)
    if report.quick:
        console.print(
            Text("sizes were tiny: the figures say nothing about speed", style="bold"), soft_wrap=True
        )
    for figure in report.missed:
        console.print(
            Text(f"missed: {figure.what}: {figure.value:.3g}, {figure.bar}", style="bold red"), soft_wrap=True
        )


def _figure(figure: Figure) -> list[str]:
    several = len(figure.repetitions) > 1
    return [
        figure.part,
        f"{figure.what}: {figure.label}",
        f"{figure.value:.3g}" if figure.repetitions else "",
        f"{min(figure.repetitions):.3g}" if several else "",
        f"{max(figure.repetitions):.3g}" if several else "",
        figure.unit,
        "" if figure.bar is None else str(figure.bar),
        _held(figure),
    ]


def _held(figure: Figure) -> str:
    if figure.bar is None:
        return ""
    return {True: "yes", False: "NO", None: "not measured"}[figure.held]


def check_file(path: str) -> None:
    """Refuse a file that could not be written later (E501); nothing is left in its place."""
    from tempfile import TemporaryFile

    from gmmest.errors import Complaint, FileError, printable

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=Path(path).parent):  # what is written takes its place by a rename
            pass
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise FileError(Complaint("E501", what, printable(path), "another --out")) from error


def write_file(text: str, path: str) -> None:
    """One file, written whole or not at all; one that is there is replaced."""
    from gmmest.report.export import write_run

    target = Path(path)
    write_run(target.parent, {target.name: text}, force=True)


def texts(fitted: GMMResults) -> dict[str, str]:
    """The files of a result, by name."""
    text = _as_text(fitted, fitted.verified, fitted.notes)
    return {"result.json": fitted.to_json() + "\n", "summary.txt": text}


def write_bootstrap(found: Bootstrap, folder: str, force: bool) -> None:
    """The run folder: bootstrap.json, bootstrap.txt."""
    from gmmest.report.export import write_run

    text = _as_text(found, not found.failures, found.all_notes)
    write_run(Path(folder), {"bootstrap.json": found.to_json() + "\n", "bootstrap.txt": text}, force)


def _as_text(found: GMMResults | Bootstrap, good: bool, notes: Sequence[str]) -> str:
    from io import StringIO

    stream = StringIO()
    _print(Console(file=stream, width=120, force_terminal=False), found, good, notes)
    return stream.getvalue()


class Watch:
    """Says on one line what is going on, once it has gone on for a while."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begin = time.perf_counter()
        self._rows = 0
        self._before: int | None = None

    def converted(self, rows: int, total: int | None) -> None:
        """Tell of rows of files that were converted; of all of them, once they are open."""
        if self._before is None:  # what came before, hashing and imports, says nothing of what comes
            self._before, self._begin = rows, time.perf_counter()
        elapsed = time.perf_counter() - self._begin
        if rows == total:
            self._rows, self._begin = rows, time.perf_counter()
        elif elapsed > PATIENCE:
            rate = (rows - self._before) / elapsed
            of, left = "", ""
            if total is not None:
                of, left = f" of {total:,}", f", {(total - rows) / rate:.0f} s left"
            self._say(f"converting: {rows:,}{of} rows, {rate:,.0f} rows/s{left}")

    def drawn(self, done: int, total: int) -> None:
        """Tell of choice sets that were drawn."""
        elapsed = time.perf_counter() - self._begin
        if elapsed > PATIENCE:
            left = (total - done) * elapsed / done
            rate = f"{done / elapsed:,.0f} sets/s"
            self._say(f"drawing: {done:,} of {total:,} choice sets, {rate}, {left:.0f} s left")

    def passed(self, passes: int) -> None:
        """Tell of passes over the data; how many there will be is not known."""
        elapsed = time.perf_counter() - self._begin
        if elapsed > PATIENCE:
            rate = f", {passes * self._rows / elapsed:,.0f} rows/s" if self._rows else ""
            self._say(f"fitting: {passes} passes over the data, {elapsed:.0f} s{rate}")


class NowAndThen:
    """Prints some of the lines that it is given: for logs of long jobs, that one sees that they live."""

    def __init__(self) -> None:
        self._wait = FIRST_LINE
        self._next = time.perf_counter() + self._wait

    def __call__(self, text: str) -> None:
        """Print it, or not."""
        now = time.perf_counter()
        if now >= self._next:
            click.echo(text, err=True)
            self._wait = min(2 * self._wait, LAST_LINE)
            self._next = now + self._wait


@contextmanager
def progress() -> Iterator[Watch]:
    """A line on standard error for work that takes a while; where that is no terminal, a new one now and then."""
    if not sys.stderr.isatty():
        yield Watch(NowAndThen())
        return
    with Console(stderr=True).status("reading") as status:
        yield Watch(status.update)


@contextmanager
def replications() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; where that is no terminal, a line now and then."""
    if not sys.stderr.isatty():
        say = NowAndThen()
        yield lambda done, total: say(f"replications: {done:,} of {total:,}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("replications", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _console() -> Console:
    # cut cells would lose digits: on a narrow terminal lines wrap, and a pipe has no width at all
    return Console(width=max(Console().width, WIDEST) if sys.stdout.isatty() else 160)


def _table(heading: list[str], rows: list[list[str]], left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(heading):
        table.add_column(Text(name), justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
