"""The ``gmmest`` command: options, exit codes, and all printing.

Exit codes: 0 verified, 2 bad input, 3 not verified, 4 environment, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gmmest.config.tree import Option

__all__ = ["cli", "main"]

BAD_INPUT, NOT_VERIFIED, ENVIRONMENT, INTERRUPTED, TERMINATED = 2, 3, 4, 130, 143

GRADS = ("auto", "analytic", "forward", "jax", "jax-forward", "complex", "fd", "fd-central")
EXECUTORS = ("serial", "threads", "dask")
BENCH_PARTS = """\b
The parts:
  a  a whole fit against other programs
  b  one pass against memory and arithmetic
  c  growth with rows, alternatives, features and moments
  d  files larger than memory
  e  two workers, and Dask
  f  the same bits from all
  g  a fit that was killed, resumed"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    from gmmest.errors import ExecutionError, FileError, GmmestError
    from gmmest_cli.runs import Interrupted, Terminated, terminable

    try:
        with terminable():
            code = cli.main(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Interrupted as stop:
        click.echo(str(stop), err=True)
        return stop.code
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Terminated:
        click.echo("terminated", err=True)
        return TERMINATED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except BrokenPipeError:
        # whoever read our output has seen enough; Python would complain once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ENVIRONMENT
    except GmmestError as error:
        click.echo(str(error), err=True)
        no_room = isinstance(error, FileError) and "E501" in error.codes
        return ENVIRONMENT if no_room or isinstance(error, ExecutionError) else BAD_INPUT
    except (ImportError, MemoryError) as error:
        click.echo(f"the environment lacks something: {type(error).__name__}: {error}", err=True)
        return ENVIRONMENT


class _Commands(click.Group):
    """Prints the version without loading what is not needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(self.commands)


def _print_version(ctx: click.Context, _parameter: Any, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"gmmest {version('gmmest')}")
        ctx.exit()


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Version."
)
def cli() -> None:
    """Generalized method of moments with exact, fast gradients."""


class _Folder(click.Path):
    """A folder; an empty name, which an unset variable of a shell gives, is not the current one."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as it is."""
        if not value:
            self.fail("the name of a folder was expected, and it is empty", param, ctx)
        return super().convert(value, param, ctx)


_config = click.argument("config", type=click.Path(dir_okay=False))
_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting, as in --set estimation.optimizer=bfgs, or take it away, as in"
    " --set data.time=null; may be repeated.",
)

_executor = click.option(
    "--executor", type=click.Choice(EXECUTORS), help="Who computes the blocks; overrides the configuration."
)
_workers = click.option(
    "--workers", type=click.IntRange(min=1), help="Threads or processes; by default one a core."
)
_memory = click.option(
    "--memory",
    metavar="SIZE",
    help="Keep data in files, and what this process holds under a limit, as in --memory 2GB.",
)


@cli.command()
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@click.option("--grad", type=click.Choice(GRADS), help="Derivative backend; overrides the configuration.")
@_executor
@_workers
@_set
@_memory
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--out", type=_Folder(), help="Folder for settings, journal of evaluations and results.")
@click.option("--force", is_flag=True, help="Let --out replace files of an earlier run.")
@click.option("--resume", type=_Folder(), help="Go on with the run in this folder.")
def fit(
    config: str | None,
    grad: str | None,
    executor: str | None,
    workers: int | None,
    overrides: tuple[str, ...],
    memory: str | None,
    as_json: bool,
    out: str | None,
    force: bool,
    resume: str | None,
) -> int:
    """Fit the model that CONFIG describes, or go on with a run that was interrupted.

    Exit code 0 means that the estimate is verified, 3 that it is not.
    """
    from contextlib import nullcontext
    from pathlib import Path

    from gmmest_cli import runs, show

    if resume is not None and (out is not None or force):
        raise click.UsageError("--resume goes on in the folder of the run; --out and --force begin another")
    if resume is None and config is None:
        raise click.MissingParameter(param_type="argument", param_hint="'CONFIG'")
    engine = _engine(grad, executor, workers, memory)
    given: tuple[str | Option, ...] = (*overrides, *_typed(engine))
    folder: Any = nullcontext()
    if resume is not None:
        settings = _without_bootstrap(_announced(runs.settings_of(Path(resume), given, config)))
        folder = runs.resumed(Path(resume))
    else:
        settings = _without_bootstrap(_loaded(str(config), given))
        if out is not None:
            folder = runs.begun(Path(out), settings, force)
    with folder as run:
        result = _fitted(settings, run)
        if run is not None:
            run.finish(show.texts(result))
    if resume is not None:
        made = result.work.evaluations - result.work.resumed
        click.echo(
            f"resumed: {result.work.resumed:,} evaluations from the journal, {made:,} made now", err=True
        )
    if as_json:
        click.echo(result.to_json())
    else:
        show.result(result)
    return 0 if result.verified else NOT_VERIFIED


def _fitted(settings: Any, run: Any) -> Any:
    """Result of a configuration; interruptions say where it stood."""
    from gmmest_cli import runs, show

    passes = 0

    with show.progress() as line:

        def watch(number: int) -> None:
            nonlocal passes
            passes = number
            line.passed(number)

        with runs.stoppable(run, lambda: passes):
            from gmmest.config.build import fit as fit_config

            return fit_config(settings, watch, line.converted, None if run is None else run.journal)


@cli.command()
@_config
@click.option(
    "--grad",
    "grads",
    type=click.Choice(GRADS),
    multiple=True,
    help="A backend to compare; may be repeated. By default fd, forward, jax, and analytic if there is one.",
)
@_set
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Rounds of timing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def compare(
    config: str, grads: tuple[str, ...], overrides: tuple[str, ...], rounds: int, as_json: bool
) -> int:
    """Hold derivative backends side by side on the model that CONFIG describes.

    Exit code 3 means that an exact backend disagrees with the reference, or that a fit is not verified.
    """
    from gmmest_cli import show

    settings = _without_bootstrap(_loaded(config, overrides))
    from gmmest.config.build import build
    from gmmest.gmm.compare import comparable
    from gmmest.gmm.compare import compare as compare_backends

    estimator = build(settings)
    outcome = compare_backends(
        estimator, grads or comparable(estimator), rounds, settings.estimation.start or None
    )
    if as_json:
        show.comparison_json(outcome)
    else:
        show.comparison(outcome)
    return 0 if not outcome.complaints else NOT_VERIFIED


@cli.command()
@_config
@click.option("--replications", type=click.IntRange(min=2), help="How many; 999 where nothing is said.")
@click.option(
    "--kind",
    type=click.Choice(("pairs", "cluster", "wild")),
    help="Draw observations, draw clusters (the default where the weighting is cluster), or multiply scores"
    " by random numbers.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws; by default 0.")
@click.option("--cluster", help="Which clusters, where the configuration names more than one.")
@click.option(
    "--multipliers",
    type=click.Choice(("rademacher", "mammen", "webb")),
    help="Random numbers of --kind wild; by default rademacher.",
)
@click.option("--recentre/--no-recentre", default=None, help="Recentred moments; by default they are.")
@_executor
@_workers
@_set
@_memory
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--out", type=_Folder(), help="Folder for bootstrap.json, bootstrap.txt and the draws.")
@click.option("--resume", is_flag=True, help="Go on with the draws that --out has from a run that was ended.")
def bootstrap(
    config: str,
    executor: str | None,
    workers: int | None,
    overrides: tuple[str, ...],
    memory: str | None,
    as_json: bool,
    out: str | None,
    resume: bool,
    **options: Any,
) -> int:
    """Bootstrap the estimate of the model that CONFIG describes, as its section bootstrap says.

    Options go before that section. With --out every finished draw is kept, and --resume goes on from
    there to the same bits. Exit code 3 means that the estimate itself is not verified.
    """
    from contextlib import nullcontext
    from pathlib import Path

    from gmmest_cli import runs, show

    if resume and out is None:
        raise click.UsageError("--resume goes on in a folder: --out FOLDER")
    given = {f"bootstrap.{key}": value for key, value in options.items() if value is not None}
    engine = _engine(None, executor, workers, memory)
    settings = _loaded(config, (*overrides, *_typed({**given, **engine})))
    from gmmest.config.build import bootstrap as bootstrap_config
    from gmmest.config.build import fit as fit_config

    folder: Any = nullcontext() if out is None else runs.drawn(Path(out))
    kept = "the same command with --resume goes on" if out else "nothing was kept, as there is no --out"
    with runs.told(kept), folder as draws:
        with show.progress() as watch:
            result = fit_config(settings, watch.passed, watch.converted)
        if not result.verified:
            click.echo(result.verdict(), err=True)
            return NOT_VERIFIED
        made: list[int] = []
        with show.replications() as watch_draws:

            def watch_all(done: int, total: int) -> None:
                made.append(done)
                if watch_draws is not None:
                    watch_draws(done, total)

            found = bootstrap_config(settings, result, draws, resume, watch_all)
        if resume:
            reused, now = made[0], made[-1] - made[0]
            click.echo(f"resumed: {reused:,} replications from the journal, {now:,} made now", err=True)
        if out is not None:
            show.write_bootstrap(found, out, resume)
    if as_json:
        click.echo(found.to_json())
    else:
        show.bootstrap(found)
    return 0


@cli.command()
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@click.option("--out", type=_Folder(), required=True, help="Folder for the files; new.")
@click.option("--sets", help="Number of choice sets.")
@click.option("--alternatives", help="Alternatives in each set, as 4, or [2, 6] to draw their number.")
@click.option("--features", help="Number of features.")
@click.option("--moments", help="Number of moments; by default as many as features.")
@click.option("--seed", help="The same seed gives the same files.")
@click.option("--force", is_flag=True, help="Let --out replace a folder that is there.")
def simulate(config: str | None, out: str, force: bool, **sizes: str | None) -> int:
    """Draw choices of a planted logit into a folder of Parquet files, of any size.

    Sizes are those of data.simulate in CONFIG, if one is named, and of the options. The folder also gets
    job.yaml, a configuration that fits the files, and simulated.json, with what was planted.
    """
    from gmmest.config import load, loads
    from gmmest_cli import runs, show

    overrides = _typed({f"data.simulate.{key}": value for key, value in sizes.items() if value is not None})
    if config is None:
        text = "data: {simulate: {}}\nmodel: {kind: logit}"
        options = {f"data.simulate.{key}": f"--{key}" for key in sizes}
        settings = loads(text, folder=".", name="gmmest simulate", overrides=overrides, options=options)
    else:
        settings = load(config, overrides)
    wanted = settings.data.simulate
    if wanted is None:
        raise click.UsageError("CONFIG has no data.simulate: give --sets and the other sizes instead")
    from gmmest.simulate import simulate_files

    with runs.told("nothing was kept"), show.progress() as watch:
        simulate_files(out, **dict(wanted), force=force, progress=watch.drawn)
    click.echo(
        f"{wanted.sets:,} choice sets in {out}; fit them with  gmmest fit {os.path.join(out, 'job.yaml')}"
    )
    return 0


@cli.command(epilog=BENCH_PARTS)
@click.option(
    "--part",
    "parts",
    default="",
    metavar="a,b,...",
    help="Some of the parts, by their letters; by default all.",
)
@click.option(
    "--quick", is_flag=True, help="Tiny sizes, to see that everything runs; no figure is to be believed."
)
@click.option("--out", type=click.Path(dir_okay=False), help="File for all figures, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of a table.")
def bench(parts: str, quick: bool, out: str | None, as_json: bool) -> int:
    """Measure speed, memory, digits and bits on this machine, as ratios within one run.

    Exit code 3 means that a bar was missed.  Other programs take part where they are installed:
    pip install 'gmmest[bench]', and R with its package survival.
    """
    from gmmest.bench.suite import run
    from gmmest_cli import show

    letters = [letter.strip() for letter in parts.split(",") if letter.strip()]
    if out is not None:
        show.check_file(out)  # before minutes of measuring
    report = run(letters, quick, lambda question: click.echo(question, err=True))
    if out is not None:
        show.write_file(report.to_json(), out)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        show.benchmark(report)
    return NOT_VERIFIED if report.missed else 0


def _loaded(path: str, overrides: Sequence[str | Option]) -> Any:
    from gmmest.config import load
    from gmmest_cli import runs

    return _announced(load(path, overrides, runs.home_of(path)))


def _without_bootstrap(settings: Any) -> Any:
    if settings.bootstrap is not None:
        click.echo("the section bootstrap is for  gmmest bootstrap,  and plays no part here", err=True)
    return settings


def _announced(settings: Any) -> Any:
    if settings.executes is not None:
        click.echo(f"executes {settings.executes}, named by model.function", err=True)
    return settings


def _engine(
    grad: str | None, executor: str | None, workers: int | None, memory: str | None
) -> dict[str, Any]:
    given = {
        "data.memory": memory,
        "estimation.grad": grad,
        "estimation.executor": executor,
        "estimation.workers": workers,
    }
    return {key: value for key, value in given.items() if value is not None}


def _typed(settings: dict[str, Any]) -> tuple[Option, ...]:
    """Settings that have an option of their own, which is called as the last part of their key."""
    import json

    from gmmest.config.tree import Option

    options = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        typed = f"--{name} {value}"
        if isinstance(value, bool):
            typed = f"--{name}" if value else f"--no-{name}"
        # Sizes are text that is read as YAML; what click has judged is written as JSON.
        text = value if key.startswith("data.") else json.dumps(value)
        options.append(Option(f"{key}={text}", typed))
    return tuple(options)
