"""Choices drawn from a planted logit: in memory, or into files of any size."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.choice_data import ChoiceData
from gmmest.data.memory import in_words
from gmmest.data.on_disk import remedy, workplace
from gmmest.derivatives import ops
from gmmest.errors import Complaint, ConfigError, FileError, printable

__all__ = ["SimulatedLogit", "simulate_files", "simulate_logit"]

Array = NDArray[np.float64]

PIECE = 1 << 22
"""Numbers that are drawn together, and lie in one row group."""
FILE = 1 << 25
"""Numbers in one file, about."""


@dataclass(frozen=True, slots=True)
class SimulatedLogit:
    """Simulated choice sets and the parameters that made them.

    Parameters
    ----------
    data : ChoiceData
        Features X and moment differences D, the instruments minus their chosen row.
    theta : array (P,)
        The planted parameters.
    """

    data: ChoiceData
    theta: Array


def simulate_logit(
    *, sets: int, alternatives: int | tuple[int, int], features: int, moments: int, seed: int
) -> SimulatedLogit:
    """Draw features, instruments and choices of a conditional logit.

    Features are standard normal.  The first ``features`` instruments are the features, the others
    are exogenous mixtures of a feature and noise.  In each set the alternative with the largest
    ``x'theta`` plus a Gumbel draw is chosen, so that shares are logit, and the moments
    ``(1/N) sum_i D_i's_i`` have mean zero at the planted theta, which has length about one.

    Parameters
    ----------
    sets : int
        Choice sets N.
    alternatives : int or (int, int)
        Rows in each set; a pair draws a number for each set between them.
    features, moments : int
        P and M, M at least P.
    seed : int
        Same seed, same data, whatever was drawn before.

    Returns
    -------
    SimulatedLogit

    Examples
    --------
    >>> drawn = simulate_logit(sets=5, alternatives=(2, 4), features=2, moments=3, seed=1)
    >>> drawn.data.n_sets, drawn.theta.shape
    (5, (2,))
    """
    _require_moments(features, moments)
    rng = np.random.default_rng(seed)
    low, high = _pair(alternatives)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(low, high + 1, size=sets))])
    theta = rng.normal(size=features) / np.sqrt(features)
    X, mixed, chosen = _draw(rng, theta, offsets, moments - features)
    Z = np.concatenate([X, mixed], axis=1)
    differences = Z - np.repeat(Z[chosen], np.diff(offsets), axis=0)
    return SimulatedLogit(
        ChoiceData.from_arrays(features=X, moment_differences=differences, offsets=offsets), theta
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What decides the bits of simulated files."""

    sets: int
    alternatives: tuple[int, int]
    features: int
    moments: int
    seed: int

    @property
    def rows_per_set(self) -> float:
        """On average."""
        return sum(self.alternatives) / 2

    def sets_in(self, numbers: int) -> int:
        """Sets that hold about so many numbers, as many in a row as there are moments."""
        return max(1, int(numbers / (self.moments * self.rows_per_set)))

    def theta(self) -> Array:
        """The planted parameters."""
        drawn: Array = np.random.default_rng([self.seed, 0]).normal(size=self.features)
        return np.asarray(drawn / np.sqrt(self.features))


def simulate_files(
    folder: str | os.PathLike[str],
    *,
    sets: int,
    alternatives: int | tuple[int, int],
    features: int,
    moments: int,
    seed: int,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Draw choices into a folder of Parquet files, in bounded memory, with a configuration that fits them.

    The folder gets ``data/part-00000.parquet`` and so on, with page checksums; ``job.yaml``; and
    ``simulated.json`` with the arguments and theta.  The design is that of :func:`simulate_logit`: columns
    ``set``, ``alternative``, ``chosen``, ``x0 ...`` and, where there are more moments than features, ``z0 ...``.

    Parameters
    ----------
    folder : path
    sets, alternatives, features, moments, seed
        As in :func:`simulate_logit`; the numbers are others, since every piece has random numbers of its own.
    force : bool
        Whether a folder of simulated choices that is there may be replaced.
    progress : callable, optional
        Called with the sets drawn and the sets in all.

    Returns
    -------
    array (P,)
        The planted theta.

    Raises
    ------
    ConfigError
        E102: fewer moments than features.
    FileError
        E501: no room (how much it takes is said), no permission; nothing is left then.  E508: the folder is there.

    Notes
    -----
    Law: a function of its arguments; the first sets of a longer draw are those of a shorter one.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = pathlib.Path(place, "drawn")
    ...     theta = simulate_files(folder, sets=100, alternatives=3, features=2, moments=2, seed=1)
    ...     sorted(path.name for path in folder.iterdir())
    ['data', 'job.yaml', 'simulated.json']
    """
    _require_moments(features, moments)
    sizes, target = _Sizes(sets, _pair(alternatives), features, moments, seed), Path(folder)
    if target.exists():
        _refuse_replacing(target, force)
    _write(target, sizes, progress)
    return sizes.theta()


def _require_moments(features: int, moments: int) -> None:
    if moments < features:
        raise ConfigError(
            Complaint("E102", f"{moments} moments for {features} features; at least as many expected")
        )


def _pair(alternatives: int | tuple[int, int]) -> tuple[int, int]:
    return (alternatives, alternatives) if isinstance(alternatives, int) else alternatives


def _write(target: Path, sizes: _Sizes, progress: Callable[[int, int], None] | None) -> None:
    """The folder, whole or not at all."""
    needed = int(8 * sizes.sets * sizes.rows_per_set * (sizes.moments + 0.5))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with workplace(target, f".{glob.escape(target.name)}.*.tmp") as scratch:
            free = shutil.disk_usage(scratch).free
            if free < needed:
                raise OSError(0, f"{in_words(free)} are free")
            _write_parts(scratch / "data", sizes, progress)
            (scratch / "job.yaml").write_text(_job(sizes), encoding="utf-8")
            said = {**asdict(sizes), "theta": sizes.theta().tolist()}
            (scratch / "simulated.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            scratch.rename(target)
    except OSError as error:
        what = f"cannot write: {error.strerror or error}; the files take about {in_words(needed)}"
        raise FileError(Complaint("E501", what, printable(target), remedy(error, "another --out"))) from error


def _refuse_replacing(target: Path, force: bool) -> None:
    """Refuse to replace a folder without being told to, and one that was not drawn here in any case."""
    if not force:
        what = f"{printable(target.name)} is there already"
        raise FileError(Complaint("E508", what, printable(target), "another --out folder, or --force"))
    if not target.is_dir() or (any(target.iterdir()) and not (target / "simulated.json").is_file()):
        what = f"{printable(target.name)} is there already, and is no folder of simulated choices"
        raise FileError(Complaint("E508", what, printable(target), "another --out folder"))


def _write_parts(folder: Path, sizes: _Sizes, progress: Callable[[int, int], None] | None) -> None:
    import pyarrow.parquet as pq

    folder.mkdir()
    per_file, done = sizes.sets_in(FILE), 0
    writer: Any = None
    for table, n_sets in _pieces(sizes):
        if writer is None:
            path = folder / f"part-{done // per_file:05d}.parquet"
            writer = pq.ParquetWriter(
                path, table.schema, write_page_checksum=True, use_dictionary=["alternative"]
            )
        writer.write_table(table, row_group_size=table.num_rows)
        # A file ends where the number of sets passes a multiple, whatever the pieces are.
        ended = (done + n_sets) // per_file > done // per_file
        done += n_sets
        if ended or done == sizes.sets:
            writer.close()
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            writer = None
        if progress is not None:
            progress(done, sizes.sets)


def _pieces(sizes: _Sizes) -> Iterator[tuple[Any, int]]:
    """Tables of whole choice sets, each from random numbers of its own."""
    import pyarrow as pa

    theta, step = sizes.theta(), sizes.sets_in(PIECE)
    low, high = sizes.alternatives
    for start in range(0, sizes.sets, step):
        rng = np.random.default_rng([sizes.seed, 1 + start // step])
        # The last piece is drawn in full and cut: what is drawn does not depend on how many sets are wanted.
        offsets = np.concatenate([[0], np.cumsum(rng.integers(low, high + 1, size=step))])
        X, extra, chosen = _draw(rng, theta, offsets, sizes.moments - sizes.features)
        n_sets = min(step, sizes.sets - start)
        n, lengths = int(offsets[n_sets]), np.diff(offsets[: n_sets + 1])
        took = np.zeros(n, dtype=np.bool_)
        took[chosen[:n_sets]] = True
        columns: dict[str, NDArray[Any]] = {
            "set": np.repeat(np.arange(start, start + n_sets), lengths),
            "alternative": np.arange(n) - np.repeat(offsets[:n_sets], lengths) + 1,
            "chosen": took,
        }
        columns |= {f"x{j}": X[:n, j] for j in range(sizes.features)}
        columns |= {f"z{j}": extra[:n, j] for j in range(extra.shape[1])}
        yield pa.table(columns), n_sets


def _job(sizes: _Sizes) -> str:
    """A configuration that fits the files."""
    lines = ["# Choices drawn by gmmest simulate; what was planted stands in simulated.json."]
    lines += ["data:", "  path: data", "  case: set", "  alternative: alternative", "  chosen: chosen"]
    lines += ["model:", "  kind: logit", "  utility:"]
    lines += [f"    - column: x{j}" for j in range(sizes.features)]
    extra = sizes.moments - sizes.features
    if extra:
        lines += ["  instruments:", "    add:", *(f"      - column: z{j}" for j in range(extra))]
    return "\n".join(lines) + "\n"


def _draw(
    rng: np.random.Generator, theta: Array, offsets: NDArray[np.int64], extra: int
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Features, further instruments, and the rows that were chosen."""
    n = int(offsets[-1])
    X = rng.normal(size=(n, theta.size))
    mixed = 0.5 * X[:, np.arange(extra) % theta.size] + rng.normal(size=(n, extra))
    return X, mixed, _first_of_largest(X @ theta + rng.gumbel(size=n), offsets)


def _first_of_largest(values: Array, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    largest = ops.segment_repeat(ops.segment_max(values, offsets), offsets)
    hits = np.flatnonzero(values == largest)
    first: NDArray[np.int64] = hits[np.searchsorted(hits, offsets[:-1])]
    return first
