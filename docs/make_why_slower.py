"""Write docs/why_slower.md and its figure from a run of the benchmarks.

    python -m pytest tests/benchmarks/bench_derivatives.py --benchmark-json=run.json
    python docs/make_why_slower.py run.json

The page's numbers are those of the run; nothing is typed in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DOCS = Path(__file__).parent
FIGURE = DOCS / "figures" / "why_slower.svg"
FIGURES = DOCS / "figures" / "why_slower.json"


def main(path: str) -> None:
    """Read the benchmark's JSON; write the page, its figure, and the numbers that both show."""
    run = json.loads(Path(path).read_text(encoding="utf-8"))
    numbers = collect(run)
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    draw(numbers["seed"])
    (DOCS / "why_slower.md").write_text(page(numbers), encoding="utf-8")


def collect(run: dict) -> dict:
    """The ratios of a run, and on what it was made."""
    seed, small, product = {}, {}, []
    for bench in run["benchmarks"]:
        extra = bench["extra_info"]
        if "rows" in extra:
            small = {name: row["ratio"] for name, row in extra["rows"].items()}
        elif "gain" in extra:
            rows, moments, partials, _ = bench["name"].split("[")[1].rstrip("]").split("-")
            product.append({"rows": int(rows), "moments": int(moments), "partials": int(partials), **extra})
        else:
            seed[bench["params"]["name"]] = {key: extra[key] for key in ("ratio", "seconds", "bar")}
    cpu = run["machine_info"].get("cpu", {}).get("brand_raw", "")
    return {"seed": seed, "small": small, "product": product, "cpu": cpu, "date": run["datetime"][:10]}


def draw(seed: dict) -> None:
    """Bars of the seed's objective, in evaluations of f."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "gmmest"
    from matplotlib import pyplot as plt

    names = sorted(seed, key=lambda name: seed[name]["ratio"], reverse=True)
    ratios = [seed[name]["ratio"] for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(names) + 1))
    exact = [
        "0.6" if name in ("f", "model's own evaluation", "one-sided differences") else "tab:blue"
        for name in names
    ]
    bars = axes.barh(names, ratios, color=exact)
    axes.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=3)
    axes.axvline(seed["one-sided differences"]["ratio"], color="tab:red", linewidth=1, linestyle="--")
    axes.set_xlabel("evaluations of f (dashed: one-sided differences)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)


def page(numbers: dict) -> str:
    """The page's text."""
    seed, small = numbers["seed"], numbers["small"]

    def ratio(name: str) -> str:
        return f"{seed[name]['ratio']:.1f}"

    rows = "\n".join(
        f"| {name} | {row['ratio']:.2f} | {'' if row['bar'] is None else format(row['bar'], 'g')} |"
        for name, row in seed.items()
    )
    little = "\n".join(f"| {name} | {value:.2f} |" for name, value in small.items())
    products = "\n".join(
        f"| {p['rows']:,} x {p['moments']} | {p['partials']} | {1e3 * p['values only']:.2f} |"
        f" {1e3 * p['no BLAS']:.2f} | {1e3 * p['one product']:.2f} | {p['gain']:.1f} |"
        for p in numbers["product"]
    )
    f_ms = 1e3 * seed["f"]["seconds"]
    return f"""# Why was automatic differentiation slower than finite differences?

Two people asked this. One estimated a logit model by GMM, 1,000 choice sets of 30 alternatives, 20 parameters,
40 moments: finite differences cost 20 evaluations of the objective, forward mode 25 to 121, a compiled reverse
tape 370. The other differentiated a function of 21 numbers with respect to one scalar: reverse mode was fifty
times slower than a difference.

This page repeats every row of both, with the engines of gmmest. All figures are multiples of one evaluation
`f` of the function itself, written in plain NumPy: minima of interleaved rounds, one thread, one core
({numbers["cpu"] or "CPU unknown"}, {numbers["date"]}). The command is

```console
$ python -m pytest tests/benchmarks/bench_derivatives.py --benchmark-json=run.json
$ python docs/make_why_slower.py run.json
```

## The logit GMM objective

`u = X b`; within each choice set `s = softmax(u)`; `g = D's / N`; the objective is `g'g`. X is 30,000 x 20, D is
30,000 x 40; one evaluation took {f_ms:.2f} ms.

![Bars: evaluations of f that each way to the derivative costs](figures/why_slower.svg)

| | evaluations of f | bar |
|---|---|---|
{rows}

The gradient rows give the objective and its gradient, the Jacobian and forward rows the 40 moments and their 40 x 20
Jacobian, from which the gradient is one small product, and the standard errors another.

### What was wrong

Most of f is two products with tall matrices, `X b` and `D's`, and BLAS runs them at the speed at which
memory can be read. Dual numbers took that away: a vector of (value, partials) records is no vector of floats, so
`D's` fell back to a loop that multiplies record by record. That is the row *forward, no product rule*:
{ratio("forward, no product rule")} evaluations, worse than the {ratio("one-sided differences")} of differences. The
derivatives were not expensive; the product had become slow.

### What to do

Keep value and partials in one array of shape (K + 1, n), partials in front. `D's` is linear, so value and partials
need the same product, and a product of D with K + 1 vectors is one matrix product:

| D | partials | values only, ms | entry by entry, ms | one product, ms | gain |
|---|---|---|---|---|---|
{products}

With that, forward mode gives value and Jacobian in {ratio("forward, default")} evaluations,
{seed["forward, default"]["ratio"] / seed["one-sided differences"]["ratio"]:.0%} of the time of one-sided differences,
and every digit is right. Chunks of one partial ({ratio("forward, chunk 1")} evaluations) repeat the evaluation 20
times, which is what a difference does too; a chunk of all 20 reads D once.

Reverse mode suits a scalar of many parameters: JAX, from the same plain-NumPy function, needs
{ratio("JAX reverse gradient")} evaluations. It is the tape that made it slow, an entry for every number of every
set; here the ragged softmax is one operation with one rule, and the moment matrix is stored the way that XLA reads
it fast. What a person would write by hand, two more products with the same matrices, costs
{ratio("hand-written gradient")}.

## A small function, and only some of its arguments

`rs(d, xs)` projects a vector of 21 numbers on a bump at `xs`. Its derivative with respect to the scalar alone is
wanted; `d` is constant.

| | evaluations of f |
|---|---|
{little}

At this size arithmetic is free and overhead is everything. What is not in `wrt=` stays a plain array and costs
nothing. A prepared derivative follows the function once and then runs straight-line NumPy into arrays that exist
already: {small["rs, the scalar only: forward, prepared"]:.2f} evaluations, where a difference written by hand needs
{small["rs, the scalar only: differences by hand"]:.2f}. Reverse mode, the right tool for one output of many
inputs, is the wrong one here: 21 outputs, one input.

## In short

- An automatic derivative is as fast as the functions that it is made of. Look for the one that stopped being BLAS.
- Forward mode for Jacobians with few columns, reverse mode for scalars of many parameters.
- Say what is active. A constant should cost nothing.
- Measure in evaluations of the function, in one run.
"""


if __name__ == "__main__":
    main(*sys.argv[1:])
