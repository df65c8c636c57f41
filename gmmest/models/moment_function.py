"""Moments of one's own: a plain NumPy function of parameters and rows, or residuals of one times instruments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import Observations
from gmmest.data.table import Rows, Table
from gmmest.derivatives.analytic import DifferentiableFunction
from gmmest.errors import (
    Complaint,
    ConfigError,
    DataError,
    EstimationError,
    IdentificationError,
    printable,
    some,
)
from gmmest.models.identification import check_columns, too_few_moments
from gmmest.models.raised import called
from gmmest.models.sample import Restriction, Sample, Start, rows_per_block, starting_point

__all__ = ["InstrumentedRows", "MomentFunction"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class InstrumentedRows:
    """Rows of a table with their instruments Z (n, K), which multiply the residuals of R equations each."""

    rows: Rows
    Z: Array
    equations: int

    @property
    def observation_weight(self) -> Any:
        """What a row's contribution is multiplied by, (n,); None for ones."""
        return self.rows.observation_weight

    def entries_at(self, places: NDArray[np.int64], seen: Observations) -> InstrumentedRows:
        """Rows by their places, in that order, with the weights of ``seen`` instead of their own."""
        return InstrumentedRows(self.rows.entries_at(places, seen), self.Z[places], self.equations)


@dataclass(frozen=True, slots=True, init=False)
class MomentFunction:
    """Any moment conditions ``E g(theta, row) = 0``, or ``E e(theta, row) z = 0`` with instruments z.

    Parameters
    ----------
    function : callable
        ``function(theta, rows) -> (n, M)``, one row of contributions for each row of the table,
        in plain NumPy and ``gmmest.ops``; ``rows["y"]`` is a column.  The rows come in blocks, so
        a row's contributions may depend on that row alone.  With ``gmmest.with_derivative(function,
        jacobian=...)``, the Jacobian of shape (n, M, P), the ``analytic`` backend can be used.
        With ``instruments`` it returns residuals e instead, (n,), or (n, R) of R equations.
    names : sequence of str
        Parameters.
    moment_names : sequence of str, optional
        By default ``m0, m1, ...``; with instruments their names, of several equations
        ``residual0*z1, ...``, all of one equation before the next.
    start : mapping or sequence of float, optional
        Where to start, by name or in the order of ``names``; zero where nothing is said.
    instruments : sequence of str, optional
        Columns z that multiply the residuals of every equation.
    constant : bool, optional
        Whether ``const``, a column of ones, comes last among the instruments; by default yes.

    Raises
    ------
    ConfigError
        E102: names that do not fit each other, an option that is given and not used.

    Notes
    -----
    Contributions are ``e_i (x) z_i``, (n, R K), and the first weight ``(I (x) Z'Z/N)^-1``: ``steps="onestep"``
    is nonlinear two-stage least squares, equation by equation (Amemiya 1974).  Law: contributions are, to the
    last bit, those of the function that multiplies by the instruments itself; sums over rows are matrix
    products, R K P numbers a row fewer than those take.  Instruments that repeat each other are refused, and
    those that nearly do are taken as what they differ in (``W211``), as in a regression.

    References
    ----------
    Amemiya, T. (1974), "The nonlinear two-stage least-squares estimator", Journal of Econometrics 2, 105-110.

    Examples
    --------
    >>> import numpy as np
    >>> def mean_and_variance(theta, rows):
    ...     e = rows["y"] - theta[0]
    ...     return np.stack([e, e**2 - theta[1]], axis=1)
    >>> model = MomentFunction(mean_and_variance, names=["mu", "sigma2"], start={"sigma2": 1.0})
    >>> model.sample(Table.from_arrays({"y": np.array([1.0, 2.0, 6.0])})).moment_names
    ('m0', 'm1')
    >>> def residual(theta, rows):
    ...     return rows["y"] - np.exp(theta[0] + theta[1] * rows["x"])
    >>> model = MomentFunction(residual, names=["a", "b"], instruments=["x", "z"])
    >>> table = Table.from_arrays({"y": [1.0, 2.0, 6.0], "x": [0.0, 1.0, 2.0], "z": [1.0, 0.0, 3.0]})
    >>> model.sample(table).moment_names
    ('x', 'z', 'const')
    """

    function: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    moment_names: tuple[str, ...] | None
    start: tuple[float, ...]
    instruments: tuple[str, ...] | None
    constant: bool

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        names: Sequence[str],
        moment_names: Sequence[str] | None = None,
        start: Start = None,
        instruments: Sequence[str] | None = None,
        constant: bool | None = None,
    ) -> None:
        for option, given in (("names", names), ("instruments", instruments or ())):
            if isinstance(given, str) or not all(isinstance(name, str) for name in given):
                raise ConfigError(Complaint("E102", f"{option} is {given!r}; a list of names was expected"))
        ones = instruments is not None if constant is None else constant
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "moment_names", None if moment_names is None else tuple(moment_names))
        first = starting_point(start, self.names, np.zeros(len(self.names)))
        object.__setattr__(self, "start", tuple(first.tolist()))
        object.__setattr__(self, "instruments", None if instruments is None else tuple(instruments))
        object.__setattr__(self, "constant", ones)
        _check_instruments(self.instruments, constant, ones)

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """The table's rows in blocks; the function is called once to count its moments.

        Raises
        ------
        ConfigError
            E111: the function raised an exception.
        EstimationError
            E410: the function returned another shape than was expected.
        IdentificationError
            E211: instruments that repeat each other.  E212: fewer moments than parameters.
        DataError
            E307, E315: instruments that are no single columns of the table.
        """
        table = data if isinstance(data, Table) else Table.from_frame(data)
        start = np.asarray(self.start)
        width = self._width(table, start)
        Z = None if self.instruments is None else self._instrument_matrix(table)
        by_default = tuple(f"m{j}" for j in range(width)) if Z is None else self._products(width)
        moment_names = self.moment_names or by_default
        free = self.names if restriction is None else restriction(self.names).free
        _check_counts(len(by_default), moment_names, free)
        changed = None if Z is None else check_columns(Z, self._instrument_names)
        transform: Array | None = None
        if Z is not None and changed is not None:
            Z, transform = changed.apply(Z), np.kron(np.eye(width), changed.transform).astype(np.float64)
        size = rows_per_block(len(self.names) + len(moment_names))
        pieces = tuple((i, min(i + size, table.n_rows)) for i in range(0, table.n_rows, size))

        def block(a: int, b: int) -> Rows | InstrumentedRows:
            rows = table.rows(a, b)
            return rows if Z is None else InstrumentedRows(rows, Z[a:b], width)

        def sample(ranges: tuple[tuple[int, int], ...]) -> Sample:
            return Sample(
                names=self.names,
                moment_names=moment_names,
                blocks=tuple(block(a, b) for a, b in ranges),
                counts=tuple(table.observations.count(table.n_rows, a, b) for a, b in ranges),
                n_rows=table.n_rows,
                start=start,
                whole=lambda: sample(((0, table.n_rows),)),
                notes=table.notes if changed is None else (*table.notes, *changed.notes),
                fingerprint=table.fingerprint(),
                observations=table.observations,
                recombined=transform,
            )

        return sample(pieces)

    def contributions(self, theta: Array, block: Any) -> Array:
        """What the function returns, (n_b, M), or ``e_i (x) z_i``, times the weights of the rows."""
        rows = block.rows if isinstance(block, InstrumentedRows) else block
        result = self._checked(self._called(theta, rows), rows.n_rows)
        if isinstance(block, InstrumentedRows):
            result = _products(result, block)
        weighted: Array = _weighted(result, block)
        return weighted

    @property
    def moment_sum(self) -> Callable[[Array, Any], Array] | None:
        """Sum of ``e_i (x) z_i`` as one matrix product; None without instruments."""
        if self.instruments is None:
            return None

        def residuals_times_instruments(theta: Array, block: InstrumentedRows) -> Array:
            residuals = self._checked(self._called(theta, block.rows), block.rows.n_rows)
            total: Array = _sum_of_products(_weighted(residuals, block), block)
            return total

        return residuals_times_instruments

    @property
    def moment_sum_and_jacobian(self) -> Callable[[Array, Any], tuple[Array, Array]] | None:
        """Sum and its Jacobian by the derivative that the function was given; None without one."""
        own = self.function
        if not isinstance(own, DifferentiableFunction) or not own.has_jacobian:
            return None

        def summed(theta: Array, block: Any) -> tuple[Array, Array]:
            rows = block.rows if isinstance(block, InstrumentedRows) else block
            value, jacobian = called(own.value_and_jacobian, f"derivative of the {self._kind}", theta, rows)
            shape = self._checked(value, rows.n_rows).shape
            if np.shape(jacobian) != (*shape, len(self.names)):
                found = f"a Jacobian of shape {np.shape(jacobian)}"
                raise self._misshapen(found, rows.n_rows, ", parameters")
            value, jacobian = _weighted(value, block), _weighted(jacobian, block)
            if not isinstance(block, InstrumentedRows):
                return np.sum(value, axis=0), np.sum(jacobian, axis=0)
            slopes = block.Z.T @ (jacobian if len(shape) == 1 else np.swapaxes(jacobian, 0, 1))
            return _sum_of_products(value, block), np.reshape(slopes, (-1, len(self.names)))

        return summed

    @property
    def instrument_product_sum(self) -> Callable[[Any], Array] | None:
        """``I (x) Z'Z``, weighted, (M, M); None without instruments."""
        if self.instruments is None:
            return None

        def products(block: InstrumentedRows) -> Array:
            return np.kron(np.eye(block.equations), block.Z.T @ _weighted(block.Z, block))

        return products

    def instrument_products(self, block: InstrumentedRows, left: Array, right: Array) -> Array:
        """``left'(I (x) z_i z_i')right`` of each row, weighted; left (M, P), right (M,); (n_b, P)."""
        k = block.Z.shape[1]
        pieces = [slice(r * k, (r + 1) * k) for r in range(block.equations)]
        total = sum((block.Z @ left[piece]) * (block.Z @ right[piece])[:, None] for piece in pieces)
        weighted: Array = _weighted(total, block)
        return weighted

    @property
    def _instrument_names(self) -> tuple[str, ...]:
        return (*(self.instruments or ()), *(("const",) if self.constant else ()))

    def _products(self, equations: int) -> tuple[str, ...]:
        if equations == 1:
            return self._instrument_names
        return tuple(f"residual{r}*{name}" for r in range(equations) for name in self._instrument_names)

    def _instrument_matrix(self, table: Table) -> Array:
        columns = {name: table.column(name) for name in self.instruments or ()}
        wide = {name: column.shape for name, column in columns.items() if column.ndim != 1}
        if wide:
            shapes = some(f"{printable(name)} has shape {shape}" for name, shape in wide.items())
            raise DataError(
                Complaint("E307", f"{shapes}; an instrument is one column", next="name each alone")
            )
        ones = (np.ones(table.n_rows),) if self.constant else ()
        return np.column_stack([*columns.values(), *ones])

    def _called(self, theta: Any, rows: Rows) -> Any:
        return called(self.function, self._kind, theta, rows)

    @property
    def _kind(self) -> str:
        return "moment function" if self.instruments is None else "residual function"

    def _width(self, table: Table, start: Array) -> int:
        """Moments, or equations, that the function makes of a row."""
        n = min(table.n_rows, 2)
        first = self._checked(self._called(start, table.rows(0, n)), n)
        if np.asarray(first).dtype.kind not in "fiub":
            raise self._misshapen(f"{np.asarray(first).dtype} of shape {first.shape}", n)
        return 1 if first.ndim == 1 else int(first.shape[1])

    def _checked(self, result: Any, n: int) -> Any:
        """What the function returned, refused where its shape cannot be that of n rows."""
        shape = getattr(result, "shape", None)
        if shape is None:
            raise self._misshapen(type(result).__name__, n)
        if shape[:1] != (n,) or len(shape) > 2 or (len(shape) == 1 and self.instruments is None):
            raise self._misshapen(f"shape {tuple(shape)}", n)
        return result

    def _misshapen(self, returned: str, n: int, more: str = "") -> EstimationError:
        inner = self.function.function if isinstance(self.function, DifferentiableFunction) else self.function
        name = printable(getattr(inner, "__name__", type(inner).__name__))
        what, expected, hint = "moment", f"(rows, moments{more})", "np.stack([...], axis=1)"
        if self.instruments is not None:
            what, expected = "residual", f"(rows{more}) or (rows, equations{more})"
            hint = 'rows["y"] - f(rows["x"], theta), which the instruments multiply'
        return EstimationError(
            Complaint(
                "E410",
                f"the {what} function {name} returned {returned} for {n:,} rows; {expected} was expected",
                next=hint,
            )
        )


def _products(residuals: Any, block: InstrumentedRows) -> Any:
    """``e_i (x) z_i``, (n, R K)."""
    if residuals.ndim == 1:
        return residuals[:, None] * block.Z
    n, width = block.Z.shape
    return np.reshape(residuals[:, :, None] * block.Z[:, None, :], (n, block.equations * width))


def _sum_of_products(residuals: Any, block: InstrumentedRows) -> Any:
    """``sum_i e_i (x) z_i``, (R K,)."""
    sums = block.Z.T @ residuals
    return sums if residuals.ndim == 1 else np.reshape(sums.T, -1)


def _weighted(values: Any, block: Any) -> Any:
    """Values (n, ...) times the weights of the rows where they have some."""
    weight = getattr(block, "observation_weight", None)
    return values if weight is None else values * np.reshape(weight, (-1, *(1,) * (values.ndim - 1)))


def _check_instruments(instruments: tuple[str, ...] | None, given: bool | None, constant: bool) -> None:
    if instruments is None:
        if given is not None:
            what = "constant without instruments: it is one of them"
            raise ConfigError(Complaint("E102", what, next="instruments=[...], and a function of residuals"))
        return
    listed = (*instruments, *(("const",) if constant else ()))
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        what = f"instruments name {some(twice)} twice"
        raise ConfigError(Complaint("E102", what, next="name it once; const is made by constant=True"))
    if not instruments:
        what = "instruments is empty"
        raise ConfigError(Complaint("E102", what, next="leave it out, for a function of contributions"))


def _check_counts(found: int, moment_names: tuple[str, ...], names: tuple[str, ...]) -> None:
    if len(moment_names) != found:
        raise ConfigError(Complaint("E102", f"{len(moment_names)} moment names for {found} moments"))
    if few := too_few_moments(found, len(names), "add moments to the function or drop parameters"):
        raise IdentificationError(few)
