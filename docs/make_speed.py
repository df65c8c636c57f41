"""Write docs/speed.md and its plots from a run of the benchmark.

    gmmest bench --out docs/figures/speed.json
    python docs/make_speed.py

The page's numbers are those of the run; nothing is typed in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gmmest.bench.figures import Figure, Report
from gmmest.bench.suite import PARTS

DOCS = Path(__file__).parent
AXES = {"rows": "rows", "alternatives": "alternatives", "features": "features", "moments": "moments"}


def main(folder: Path = DOCS) -> None:
    """Read figures/speed.json; write the page and the plots beside it."""
    report = Report.from_json((folder / "figures" / "speed.json").read_text(encoding="utf-8"))
    draw(report, folder / "figures")
    (folder / "speed.md").write_text(page(report), encoding="utf-8")


# --- plots ----------------------------------------------------------------------------------------------


def draw(report: Report, folder: Path) -> None:
    """The plots for whose parts there are figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "gmmest"
    for name, plot in PLOTS.items():
        figure = plot(report.figures)
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None})


def draw_peers(figures: Sequence[Figure]):
    """Bars: seconds of a whole fit."""
    rows = sorted(measured(figures, "whole fit"), key=lambda figure: -figure.value)
    if not rows:
        return None
    canvas, axes = new_axes(8, 0.45 * len(rows) + 1.2)
    colours = ["tab:blue" if row.label == "gmmest" else "0.6" for row in rows]
    drawn = axes.barh([named(figures, row) for row in rows], [row.value for row in rows], color=colours)
    axes.bar_label(drawn, [short(row.value) for row in rows], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("seconds from arrays to estimates and standard errors (*: not the same answer)")
    return finished(canvas)


def draw_growth(figures: Sequence[Figure]):
    """Log-log: seconds of a pass by what grows."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    curves = {axis: measured(figures, f"seconds of a pass by {axis}") for axis in AXES}
    if not any(curves.values()):
        return None
    canvas, panels = plt.subplots(2, 2, figsize=(8, 6))
    for axes, (axis, points) in zip(panels.flat, curves.items(), strict=True):
        x, y = [point.x for point in points], np.array([point.value for point in points])
        axes.loglog(x, y, "o-", color="tab:blue")
        axes.fill_between(
            x, [min(p.repetitions) for p in points], [max(p.repetitions) for p in points], alpha=0.2
        )
        if axis == "rows":
            axes.loglog(x, y[-1] * np.array(x) / x[-1], ":", color="0.6")
        for one_axis in (axes.xaxis, axes.yaxis):
            one_axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(AXES[axis])
        axes.set_title(f"slope {slope(points):.2f}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("seconds of a pass")
    panels[1, 0].set_ylabel("seconds of a pass")
    return finished(canvas)


def draw_roofline(figures: Sequence[Figure]):
    """Speed against operations a byte, under what memory and arithmetic allow."""
    points = measured(figures, "roofline")
    if not points:
        return None
    bandwidth, peak = one(figures, "memory bandwidth").value, one(figures, "peak of one thread").value
    canvas, axes = new_axes(7, 4.5)
    intensity = np.logspace(-1, 2, 200)
    axes.loglog(intensity, np.minimum(bandwidth * intensity, peak), color="black", linewidth=1)
    for point in points:
        axes.loglog([point.x], [point.value], "o", color="tab:blue")
        axes.annotate(point.label, (point.x, point.value), textcoords="offset points", xytext=(6, -10))
    axes.set_xlabel("operations for each byte of the features")
    axes.set_ylabel("GFLOP/s, one thread")
    return finished(canvas)


PLOTS = {
    "speed_peers.svg": draw_peers,
    "speed_growth.svg": draw_growth,
    "speed_roofline.svg": draw_roofline,
}


def new_axes(width: float, height: float):
    """One plot without a frame."""
    from matplotlib import pyplot as plt

    canvas, axes = plt.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return canvas, axes


def finished(canvas):
    """Laid out, and no longer on the list of open plots."""
    from matplotlib import pyplot as plt

    canvas.tight_layout()
    plt.close(canvas)
    return canvas


# --- the page -------------------------------------------------------------------------------------------


def page(report: Report) -> str:
    """The page's text."""
    machine = report.machine
    barred = [figure for figure in report.figures if figure.bar is not None]
    missed = report.missed
    verdict = (
        "All bars were held." if not missed else f"Missed: {', '.join(figure.what for figure in missed)}."
    )
    parts = {figure.part for figure in report.figures}
    sections = "\n".join(SECTIONS[part.letter](report.figures) for part in PARTS if part.letter in parts)
    return f"""# Speed, memory, digits, bits

What this page says was measured in one run on one machine: {machine.cpu}, {machine.cores} cores, {machine.system},
Python {machine.python}, {", ".join(machine.packages)}; {machine.date}, load {machine.load:g} at the beginning,
{report.seconds:.0f} seconds.{QUICK if report.quick else ""} Repeat it where you are:

```console
$ pip install 'gmmest[bench]'
$ gmmest bench
```

The other programs want an environment of their own, since they hold back versions that gmmest does not; R and its
package survival come from where R comes from. What is not installed is left out, and said.

Times are compared within a run only. What is compared takes turns, so that a neighbour who takes the processor
for a while slows all of it; a figure is the median of its turns, and the range is that of all of them.

## The bars

{verdict}

{table(("", "measured", "from", "to", "bar", "held"), map(bar_row, barred))}

{sections}"""


QUICK = " **Sizes were tiny: nothing here says anything about speed.**"


def section_peers(figures: Sequence[Figure]) -> str:
    """Part a."""
    rows = []
    for row in (figure for figure in figures if figure.part == "a" and figure.what == "whole fit"):
        about = {f.what: f for f in figures if f.part == "a" and f.label == row.label and f.repetitions}
        cells = [short(about[what].value) if what in about else "" for what in PEER_COLUMNS]
        rows.append((row.label, *cells, row.note))
    return f"""## A whole fit against other programs

A conditional logit, from arrays in memory to estimates and robust standard errors. Each program is called as its
documentation says, in a process of its own, with two threads, after it has been warmed up with a smaller fit
that loads and compiles what is wanted: libraries, for gmmest that of LLVM among them
([note 22](decisions/0022-machine-code.md)), are in no program's memory here. Bringing
the arrays into the form that a program takes is not part of its time. *Digits* count the leading digits in which its
worst coefficient agrees with the exact optimum, found by Newton's method in extended precision; those of the
standard errors leave open whether N or N - 1 divides. Memory is what a fit takes at its peak beyond the data, in
multiples of the data. Robust standard errors need the Hessian and the scores: programs whose errors are of another kind
stand in the table, and do not count for the bar.

![Bars: seconds of a whole fit](figures/speed_peers.svg)

{table(("", "s", "first call, s", "times gmmest", "its form, s", "memory", "digits", "of errors", ""), rows)}
"""


PEER_COLUMNS = (
    "whole fit",
    "its first call",
    "whole fit, times gmmest",
    "bringing the arrays into its form",
    "peak memory beyond the data, times the data",
    "digits of the estimates",
    "digits of the standard errors",
)


def section_pass(figures: Sequence[Figure]) -> str:
    """Part b."""
    passes = measured(figures, "a pass, times reading the features once")
    shares = measured(figures, "share of the peak")
    floors = measured(
        figures, "its operations at the speed of a matrix product, times reading the features once"
    )
    bandwidth, peak = one(figures, "memory bandwidth").value, one(figures, "peak of one thread").value
    return f"""## One pass against memory and arithmetic

A pass gives the moments g, their Jacobian G and their covariance S, all that a Newton step and the standard errors
need. One thread; reading the features once, by the fastest of a scalar product, a sum and a maximum, went at
{bandwidth:.1f} GB/s, and a matrix product at {peak:.1f} GFLOP/s.

![Roofline: GFLOP/s against operations a byte](figures/speed_roofline.svg)

{table(("pass", "times reading once", "from", "to"), [(f.label, *values(f)) for f in passes])}

Share of the speed of a matrix product, counting the operations that the formulas need:
{", ".join(f"{share.label}: {share.value:.0%}" for share in shares)}. At that speed itself the operations would take,
in multiples of reading the features once, {", ".join(f"{floor.value:.1f} ({floor.label})" for floor in floors)}.
"""


def section_growth(figures: Sequence[Figure]) -> str:
    """Part c."""
    rows = [
        (axis, f"{slope(points):.2f}", *(f"{short(point.value)} s" for point in (points[0], points[-1])))
        for axis in AXES
        if (points := measured(figures, f"seconds of a pass by {axis}"))
    ]
    cost = one(figures, "cost of a row, dearest over cheapest")
    return f"""## Growth

Seconds of a pass for g, G and S, one thread, when one size grows and the others stay. The slope is that of the
logarithms: 1 is proportional (dotted, for rows). Instruments beyond the features are a matrix of their own.

![Log-log: seconds of a pass by rows, alternatives, features and moments](figures/speed_growth.svg)

{table(("what grows", "slope", "smallest", "largest"), rows)}

The cost of a row: {cost.note}.
"""


def section_files(figures: Sequence[Figure]) -> str:
    """Part d."""
    times = measured(figures, "a pass over files, times the same in memory")
    held = {figure.x: figure for figure in measured(figures, "anonymous memory, times the limit")}
    opened = {figure.x: figure for figure in measured(figures, "conversion and opening")}
    rows = [
        (
            ratio.label,
            opened[ratio.x].note,
            *values(ratio),
            f"{held[ratio.x].value:.2f}" if ratio.x in held else "",
            short(opened[ratio.x].value),
        )
        for ratio in times
    ]
    heading = (
        "data",
        "",
        "a pass, times in memory",
        "from",
        "to",
        "memory, times the limit",
        "conversion, s",
    )
    return f"""## Files larger than memory

Choice sets in Parquet files, converted once into a store that is mapped into memory; then passes for g, G and S,
one thread, against passes over the same data in arrays, in another process. The store lies in the page cache.
*Memory* is what the process held at most that no file backs, conversion included.

{table(heading, rows)}
"""


def section_workers(figures: Sequence[Figure]) -> str:
    """Part e."""
    rows = [(f.label, *values(f, 1e3)) for f in measured(figures, "seconds of a pass")]
    return f"""## Workers

Passes for g, G and S over the same data: two threads over the blocks that the model cuts, one over blocks of other
sizes, two processes of Dask.

{table(("", "ms", "from", "to"), rows)}
"""


def section_bits(figures: Sequence[Figure]) -> str:
    """Part f."""
    found = one(figures, "different answers")
    return f"""## Bits

Estimates and their covariance, byte by byte, {found.label}: {found.value:.0f} different
{"answer" if found.value == 1 else "answers"} ({found.note}).
"""


def section_resumed(figures: Sequence[Figure]) -> str:
    """Part g."""
    found = one(figures, "resumed fits with other bits")
    return f"""## Killed and resumed

{found.label}, each fit resumed from its journal: {found.value:.0f} of them ended with other bits.
{found.note}
"""


SECTIONS = {
    "a": section_peers,
    "b": section_pass,
    "c": section_growth,
    "d": section_files,
    "e": section_workers,
    "f": section_bits,
    "g": section_resumed,
}


# --- words and numbers ----------------------------------------------------------------------------------


def measured(figures: Sequence[Figure], what: str) -> list[Figure]:
    """Figures of a question, where there was something to measure."""
    return [figure for figure in figures if figure.what == what and figure.repetitions]


def one(figures: Sequence[Figure], what: str) -> Figure:
    """The first figure of a question."""
    return next(figure for figure in figures if figure.what == what)


def named(figures: Sequence[Figure], row: Figure) -> str:
    """A program's name, with a mark where its answer is another one and its size where that is."""
    ours = next((each for each in measured(figures, "whole fit") if each.label == "gmmest"), row)
    size, same = row.note.split(";")[0], ours.note.split(";")[0]
    other = any("not the same" in figure.note for figure in figures if figure.label == row.label)
    return f"{row.label}{' *' if other else ''}{'' if size == same else f' ({size})'}"


def slope(points: Sequence[Figure]) -> float:
    """Of the logarithms, by least squares."""
    logs = np.log([(point.x, point.value) for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def bar_row(figure: Figure) -> tuple[str, ...]:
    """A line of the table of bars."""
    held = {True: "yes", False: "**no**", None: "not measured"}[figure.held]
    return (f"{figure.what}: {figure.label}", *values(figure), f"{figure.bar} {figure.unit}", held)


def values(figure: Figure, scale: float = 1.0) -> tuple[str, str, str]:
    """Median and range."""
    if not figure.repetitions:
        return "", "", ""
    ends = (min(figure.repetitions), max(figure.repetitions))
    low, high = (short(scale * end) if len(figure.repetitions) > 1 else "" for end in ends)
    return short(scale * figure.value), low, high


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
