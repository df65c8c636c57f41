"""Moments of one's own: a plain NumPy function of parameters and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.table import Table
from gmmest.derivatives.analytic import DifferentiableFunction
from gmmest.errors import Complaint, ConfigError, EstimationError, IdentificationError
from gmmest.models.sample import Restriction, Sample, rows_per_block

__all__ = ["MomentFunction"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, init=False)
class MomentFunction:
    """Any moment conditions ``E g(theta, row) = 0``.

    Parameters
    ----------
    function : callable
        ``function(theta, rows) -> (n, M)``, one row of contributions for each row of the table,
        in plain NumPy and ``gmmest.ops``; ``rows["y"]`` is a column.  The rows come in blocks, so
        a row's contributions may depend on that row alone.  With ``gmmest.with_derivative(function,
        jacobian=...)``, the Jacobian of shape (n, M, P), the ``analytic`` backend can be used.
    names : sequence of str
        Parameters.
    moment_names : sequence of str, optional
        By default ``m0, m1, ...``.
    start : mapping or sequence of float, optional
        Where to start, by name or in the order of ``names``; zero where nothing is said.

    Examples
    --------
    >>> import numpy as np
    >>> def mean_and_variance(theta, rows):
    ...     e = rows["y"] - theta[0]
    ...     return np.stack([e, e**2 - theta[1]], axis=1)
    >>> model = MomentFunction(mean_and_variance, names=["mu", "sigma2"], start={"sigma2": 1.0})
    >>> model.sample(Table.from_arrays({"y": np.array([1.0, 2.0, 6.0])})).moment_names
    ('m0', 'm1')
    """

    function: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    moment_names: tuple[str, ...] | None
    start: tuple[float, ...]

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        names: Sequence[str],
        moment_names: Sequence[str] | None = None,
        start: Mapping[str, float] | Sequence[float] | None = None,
    ) -> None:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ConfigError(Complaint("E102", f"names is {names!r}; a list of names was expected"))
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "moment_names", None if moment_names is None else tuple(moment_names))
        object.__setattr__(self, "start", _start(self.names, start))

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """The table's rows in blocks; the function is called once to count its moments."""
        table = data if isinstance(data, Table) else Table.from_frame(data)
        start = np.asarray(self.start)
        first = np.asarray(self.function(start, table.rows(0, min(table.n_rows, 2))), dtype=np.float64)
        if first.ndim != 2 or first.shape[0] != min(table.n_rows, 2):
            raise EstimationError(
                Complaint(
                    "E410",
                    f"the moment function returned shape {first.shape} for {min(table.n_rows, 2)} rows;"
                    " (rows, moments) was expected",
                    next="np.stack([...], axis=1)",
                )
            )
        moment_names = self.moment_names or tuple(f"m{j}" for j in range(first.shape[1]))
        free = self.names if restriction is None else restriction(self.names).free
        _check_counts(first.shape[1], moment_names, free)
        size = rows_per_block(len(self.names), len(moment_names))
        pieces = tuple((i, min(i + size, table.n_rows)) for i in range(0, table.n_rows, size))

        def sample(ranges: tuple[tuple[int, int], ...]) -> Sample:
            return Sample(
                names=self.names,
                moment_names=moment_names,
                blocks=tuple(table.rows(a, b) for a, b in ranges),
                counts=tuple(table.observations.count(table.n_rows, a, b) for a, b in ranges),
                n_rows=table.n_rows,
                start=start,
                whole=lambda: sample(((0, table.n_rows),)),
                notes=table.notes,
                fingerprint=table.fingerprint(),
                observations=table.observations,
            )

        return sample(pieces)

    def contributions(self, theta: Array, block: Any) -> Array:
        """What the function returns, (n_b, M), times the weights of the rows where they have some."""
        result: Array = self.function(theta, block)
        weight = getattr(block, "observation_weight", None)
        return result if weight is None else result * weight[:, None]

    @property
    def moment_sum_and_jacobian(self) -> Callable[[Array, Any], tuple[Array, Array]] | None:
        """Sum and its Jacobian by the derivative that the function was given; None without one."""
        own = self.function
        if not isinstance(own, DifferentiableFunction) or not own.has_jacobian:
            return None

        def summed(theta: Array, block: Any) -> tuple[Array, Array]:
            value, jacobian = own.value_and_jacobian(theta, block)
            weight = getattr(block, "observation_weight", None)
            if weight is not None:
                value, jacobian = value * weight[:, None], jacobian * weight[:, None, None]
            return np.sum(value, axis=0), np.sum(jacobian, axis=0)

        return summed


def _start(names: tuple[str, ...], start: Mapping[str, float] | Sequence[float] | None) -> tuple[float, ...]:
    if start is None:
        return (0.0,) * len(names)
    if isinstance(start, Mapping):
        unknown = [name for name in start if name not in names]
        if unknown:
            raise ConfigError(
                Complaint("E102", f"start names {unknown[0]!r}; the parameters are {', '.join(names)}")
            )
        return tuple(float(start.get(name, 0.0)) for name in names)
    if len(start) != len(names):
        raise ConfigError(Complaint("E102", f"start has {len(start)} values for {len(names)} parameters"))
    return tuple(float(value) for value in start)


def _check_counts(found: int, moment_names: tuple[str, ...], names: tuple[str, ...]) -> None:
    if len(moment_names) != found:
        raise ConfigError(Complaint("E102", f"{len(moment_names)} moment names for {found} moments"))
    if found < len(names):
        raise IdentificationError(
            Complaint(
                "E212",
                f"{found} moments, {len(names)} parameters: at least as many moments as parameters were expected",
                next="add moments to the function or drop parameters",
            )
        )
