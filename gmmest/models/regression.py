"""Regressions with instruments: linear, and exponential with additive or multiplicative errors.

Contributions are ``g_i = z_i e_i`` with the residual

* linear: ``e = y - x'b``;
* exponential, additive: ``e = y - exp(x'b)``;
* exponential, multiplicative: ``e = y exp(-x'b) - 1``.

Each residual is written once in plain NumPy; its derivative with respect to the index ``x'b`` stands beside
it, so that ``dg/db' = sum_i z_i (de_i/d(x_i'b)) x_i'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gmmest.data.observations import Observations
from gmmest.data.table import Table
from gmmest.errors import Complaint, ConfigError, not_among, printable
from gmmest.models.absorption import Grouped, grouped
from gmmest.models.identification import check_regression
from gmmest.models.sample import Restriction, Sample, Total, rows_per_block

__all__ = ["ExponentialIV", "LinearIV", "RegressionRows"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RegressionRows:
    """Rows of a regression: dependent y (n,), regressors X (n, P), instruments Z (n, M).

    ``weight`` (n,) multiplies contributions, sampling weight times ``frequency`` (n,); None for ones.
    """

    y: Array
    X: Array
    Z: Array
    weight: Array | None = None
    frequency: Array | None = None

    def entries_at(self, places: NDArray[np.int64], seen: Observations) -> RegressionRows:
        """Rows by their places, in that order, with the weights and frequencies of ``seen``."""
        return RegressionRows(self.y[places], self.X[places], self.Z[places], seen.mass, seen.frequency)

    def weighted(self, values: Array) -> Array:
        """Values (n,) or (n, k) times the weights of the rows."""
        if self.weight is None:
            return values
        result: Array = values * (self.weight if np.ndim(values) == 1 else self.weight[:, None])
        return result

    def squared(self, values: Array) -> Array:
        """Values (n, k) times ``w^2 f``, as in the variance of a contribution."""
        if self.weight is None:
            return values
        share = self.weight if self.frequency is None else self.weight / self.frequency
        result: Array = values * (self.weight * share)[:, None]
        return result

    def instrument_product_sum(self) -> Array:
        """``Z'Z``, weighted, (M, M)."""
        product: Array = self.Z.T @ self.weighted(self.Z)
        return product

    def instrument_products(self, left: Array, right: Array) -> Array:
        """``left' z_i z_i' right`` of each row, weighted; left (M, P), right (M,); (n, P)."""
        return self.weighted((self.Z @ left) * (self.Z @ right)[:, None])


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table play which part.

    Parameters
    ----------
    dependent : str
    exogenous : tuple of str
        Regressors that instrument themselves.
    endogenous : tuple of str
        Regressors that do not.
    instruments : tuple of str
        Excluded instruments.
    constant : bool
        Whether ``const``, a column of ones, comes last among the exogenous regressors.
    absorb : str, optional
        Column of groups whose effects are taken out.
    """

    dependent: str
    exogenous: tuple[str, ...]
    endogenous: tuple[str, ...]
    instruments: tuple[str, ...]
    constant: bool
    absorb: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters: exogenous, endogenous, constant."""
        return (*self.exogenous, *self.endogenous, *(("const",) if self.constant else ()))

    @property
    def moment_names(self) -> tuple[str, ...]:
        """Moments: exogenous, excluded instruments, constant."""
        return (*self.exogenous, *self.instruments, *(("const",) if self.constant else ()))

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """Arrays of the table in blocks, checked for identification of the free parameters."""
        self._refuse_repeated()
        used = tuple(dict.fromkeys((self.dependent, *self.exogenous, *self.endogenous, *self.instruments)))
        groups = None if self.absorb is None else grouped(data, used, self.absorb)
        if groups is not None:
            table = groups.table
        else:
            table = data if isinstance(data, Table) else Table.from_frame(data, used)
        columns = {name: table.column(name) for name in used}
        if self.constant:  # no column has its name: that is refused above
            columns["const"] = np.ones(table.n_rows)
        rows = RegressionRows(
            columns[self.dependent],
            np.column_stack([columns[name] for name in self.names]),
            np.column_stack([columns[name] for name in self.moment_names]),
        )
        seen = table.observations
        rows = replace(rows, weight=seen.mass, frequency=seen.frequency)
        if groups is not None:
            rows = self._within(rows, groups)
        if restriction is None:
            changed = check_regression(rows.X, rows.Z, self.names, self.moment_names)
        else:
            held = restriction(self.names)
            changed = check_regression(rows.X @ held.transform, rows.Z, held.free, self.moment_names)
        notes = table.notes if groups is None else (*table.notes, *groups.notes)
        if changed is not None:
            rows, notes = replace(rows, Z=changed.apply(rows.Z)), (*notes, *changed.notes)
        n, size = table.n_rows, rows_per_block(len(self.names) + len(self.moment_names))
        fingerprint = (table if groups is None else groups).fingerprint()

        def part(begin: int, end: int) -> RegressionRows:
            weight, frequency = (None if a is None else a[begin:end] for a in (rows.weight, rows.frequency))
            return RegressionRows(rows.y[begin:end], rows.X[begin:end], rows.Z[begin:end], weight, frequency)

        def sample(pieces: Sequence[tuple[int, int]]) -> Sample:
            return Sample(
                names=self.names,
                moment_names=self.moment_names,
                blocks=tuple(part(a, b) for a, b in pieces),
                counts=tuple(seen.count(n, a, b) for a, b in pieces),
                n_rows=n,
                start=np.zeros(len(self.names)),
                whole=lambda: sample([(0, n)]),
                notes=notes,
                fingerprint=fingerprint,
                observations=seen,
                absorbed=0 if groups is None else len(groups.labels),
                recombined=None if changed is None else changed.transform,
            )

        return sample([(i, min(i + size, n)) for i in range(0, n, size)])

    def _within(self, rows: RegressionRows, groups: Grouped) -> RegressionRows:
        """Outcome, regressors and instruments less their means within groups.

        All three: with the instruments alone the estimate would be the same, but residuals would contain
        the effects, and every standard error would be theirs.
        """
        names = (*self.names, *self.instruments)
        inside = [self.moment_names.index(name) for name in self.instruments]
        values = np.column_stack([rows.X, rows.Z[:, inside]])
        centred = groups.within(values, rows.weight)
        groups.require_variation(values, centred, names)
        places = [names.index(name) for name in self.moment_names]
        return replace(
            rows,
            y=groups.within(rows.y[:, None], rows.weight)[:, 0],
            X=np.ascontiguousarray(centred[:, : len(self.names)]),
            Z=np.ascontiguousarray(centred[:, places]),
        )

    def _refuse_repeated(self) -> None:
        groups = () if self.absorb is None else (self.absorb,)
        listed = (*self.names, *self.instruments, *groups)
        twice = sorted({name for name in listed if listed.count(name) > 1})
        if twice or self.dependent in listed:
            what = f"{', '.join(twice or [self.dependent])}: each column plays one part in a regression"
            raise ConfigError(Complaint("E102", what, next="name it once; const is made by constant=True"))


@dataclass(frozen=True, slots=True, init=False)
class LinearIV:
    """Linear regression with instruments, ``E z (y - x'b) = 0``.

    Parameters
    ----------
    dependent : str
        Column of y.
    exogenous, endogenous, instruments : sequence of str
        Regressors that instrument themselves, regressors that do not, excluded instruments.
    constant : bool, optional
        Whether to add ``const``; by default yes, but for absorbed effects, which contain it.
    absorb : str, optional
        Column of groups (integers or text, one way) whose effects are taken out: outcome, regressors and
        instruments are used less their (weighted) means within groups.

    Raises
    ------
    ConfigError
        E102: a constant beside absorbed effects, or more than one column of groups.

    Notes
    -----
    ``steps="onestep"`` with the first weight ``(Z'Z/N)^-1`` is two-stage least squares;
    ``weighting="unadjusted"`` means ``S = sigma^2 Z'Z/N`` with ``sigma^2 = e'e/N``.  Without endogenous
    regressors the estimate is ordinary least squares.

    Absorbed effects.  Law: as with dummies of all G groups among the exogenous regressors, in estimates,
    standard errors, Q and J, wherever their moments hold exactly: just identified, ``onestep``, or
    ``unadjusted``.  Overidentified ``twostep`` gives the same estimate, J and ``minimised_weight`` errors; in
    what takes S at the final estimate (sandwich, more steps) dummies give weight to their own moments, which
    absorption holds at zero.  N counts all rows.  ``small_sample`` takes the G effects off as parameters,
    ``N/(N - P - G)``; nothing else does.  A group of one row stays, with the note ``W306``.  Regressors and
    instruments without variation inside any group are refused (``E203``).

    References
    ----------
    Hayashi, F. (2000), *Econometrics*, chapter 3.

    Examples
    --------
    >>> model = LinearIV("rent", exogenous=["pcturban"], endogenous=["hsngval"], instruments=["faminc"])
    >>> model.columns.names
    ('pcturban', 'hsngval', 'const')
    >>> table = Table.from_arrays({"y": [1.0, 3.0, 7.0, 8.0], "x": [1.0, 2.0, 3.0, 4.0], "firm": [0, 0, 1, 1]})
    >>> LinearIV("y", exogenous=["x"], absorb="firm").sample(table).blocks[0].y
    array([-1. ,  1. , -0.5,  0.5])
    """

    columns: Columns

    def __init__(
        self,
        dependent: str,
        exogenous: Sequence[str] = (),
        endogenous: Sequence[str] = (),
        instruments: Sequence[str] = (),
        constant: bool | None = None,
        absorb: str | None = None,
    ) -> None:
        given: object = absorb
        if given is not None and not isinstance(given, str):
            what = f"absorb is {absorb!r}; the name of one column was expected"
            raise ConfigError(Complaint("E102", what, next="effects of more columns: dummies of all but one"))
        if absorb is not None and constant:
            what = f"constant=True beside absorb={printable(absorb)!r}: the effects of all groups contain it"
            raise ConfigError(Complaint("E102", what, next="leave constant out"))
        ones = absorb is None if constant is None else constant
        columns = Columns(dependent, tuple(exogenous), tuple(endogenous), tuple(instruments), ones, absorb)
        object.__setattr__(self, "columns", columns)

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """Arrays of a table or frame."""
        return self.columns.sample(data, restriction)

    def contributions(self, theta: Array, block: RegressionRows) -> Array:
        """``z_i e_i``, (n_b, M)."""
        rows: Array = block.Z * block.weighted(block.y - block.X @ theta)[:, None]
        return rows

    def moment_sum(self, theta: Array, block: RegressionRows) -> Array:
        """``Z'e``, (M,)."""
        total: Array = block.Z.T @ block.weighted(block.y - block.X @ theta)
        return total

    def moment_sum_and_jacobian(self, theta: Array, block: RegressionRows) -> tuple[Array, Array]:
        """``Z'e`` and ``-Z'X``."""
        return self.moment_sum(theta, block), -(block.Z.T @ block.weighted(block.X))

    def moment_sum_and_vjp(
        self, theta: Array, block: RegressionRows
    ) -> tuple[Array, Callable[[Array], Array]]:
        """``Z'e`` and ``v -> -X'Zv``."""
        return self.moment_sum(theta, block), lambda v: -(block.weighted(block.Z @ v) @ block.X)

    def unadjusted_covariance(self, theta: Array, n_obs: int, total: Total) -> Array:
        """``sigma^2 Z'Z/N`` with ``sigma^2 = e'e/N``, (M, M).

        With weights ``sigma^2 sum_i w_i^2 f_i z_i z_i'/N`` and ``sigma^2 = sum_i w_i f_i e_i^2 / sum_i w_i f_i``.
        """

        def squares(block: RegressionRows) -> Array:
            e = block.y - block.X @ theta
            mass = float(len(e)) if block.weight is None else float(block.weight.sum())
            product = block.Z.T @ block.squared(block.Z)
            return np.concatenate(
                [product.ravel(), np.reshape(e @ block.weighted(e), (1,)), np.array([mass])]
            )

        sums = total(squares)
        m = len(self.columns.moment_names)
        covariance: Array = (sums[-2] / sums[-1]) * sums[:-2].reshape(m, m) / n_obs
        return covariance

    def instrument_product_sum(self, block: RegressionRows) -> Array:
        """``Z'Z``, weighted, (M, M)."""
        return block.instrument_product_sum()

    def instrument_products(self, block: RegressionRows, left: Array, right: Array) -> Array:
        """``left' z_i z_i' right`` of each row, weighted; left (M, P), right (M,); (n_b, P)."""
        return block.instrument_products(left, right)


@dataclass(frozen=True, slots=True, init=False)
class ExponentialIV:
    """Exponential-mean regression with instruments, for counts and other non-negative outcomes.

    Parameters
    ----------
    dependent : str
    exogenous, endogenous, instruments : sequence of str
    errors : {"additive", "multiplicative"}
        ``E z (y - exp(x'b)) = 0`` or ``E z (y exp(-x'b) - 1) = 0`` (Mullahy 1997).
    constant : bool

    Notes
    -----
    Additive, with nothing endogenous: the estimate is Poisson pseudo-maximum likelihood with robust
    standard errors.

    References
    ----------
    Mullahy, J. (1997), Review of Economics and Statistics 79, 586-593.
    Cameron, A. C. and P. K. Trivedi (2013), *Regression Analysis of Count Data*, 2nd ed., section 10.4.

    Examples
    --------
    >>> ExponentialIV("visits", exogenous=["age"], errors="multiplicative").columns.names
    ('age', 'const')
    """

    columns: Columns
    errors: Literal["additive", "multiplicative"]

    def __init__(
        self,
        dependent: str,
        exogenous: Sequence[str] = (),
        endogenous: Sequence[str] = (),
        instruments: Sequence[str] = (),
        errors: Literal["additive", "multiplicative"] = "additive",
        constant: bool = True,
    ) -> None:
        if complaints := not_among("errors", errors, ("additive", "multiplicative")):
            raise ConfigError(complaints)
        columns = Columns(dependent, tuple(exogenous), tuple(endogenous), tuple(instruments), constant)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "errors", errors)

    def sample(self, data: Any, restriction: Restriction | None = None) -> Sample:
        """Arrays of a table or frame; the constant starts at the logarithm of the mean."""
        sample = self.columns.sample(data, restriction)
        total = sum(float(block.weighted(block.y).sum()) for block in sample.blocks)
        if not self.columns.constant or total <= 0:
            return sample
        mass = sum(float(block.weighted(np.ones_like(block.y)).sum()) for block in sample.blocks)
        start = np.zeros(len(sample.names))
        start[-1] = np.log(total / mass)
        return _started(sample, start)

    def residual(self, theta: Array, block: RegressionRows) -> Array:
        """``y - exp(x'b)`` or ``y exp(-x'b) - 1``, (n_b,)."""
        index = block.X @ theta
        if self.errors == "additive":
            e: Array = block.y - np.exp(index)
        else:
            e = block.y * np.exp(-index) - 1.0
        return e

    def contributions(self, theta: Array, block: RegressionRows) -> Array:
        """``z_i e_i``, (n_b, M)."""
        rows: Array = block.Z * block.weighted(self.residual(theta, block))[:, None]
        return rows

    def moment_sum(self, theta: Array, block: RegressionRows) -> Array:
        """``Z'e``, (M,)."""
        total: Array = block.Z.T @ block.weighted(self.residual(theta, block))
        return total

    def moment_sum_and_jacobian(self, theta: Array, block: RegressionRows) -> tuple[Array, Array]:
        """``Z'e`` and ``Z' diag(slope) X``, slope ``-exp(x'b)`` or ``-y exp(-x'b)``."""
        e = self.residual(theta, block)
        slope = block.weighted(self._slope(e, block))
        return block.Z.T @ block.weighted(e), block.Z.T @ (slope[:, None] * block.X)

    def moment_sum_and_vjp(
        self, theta: Array, block: RegressionRows
    ) -> tuple[Array, Callable[[Array], Array]]:
        """``Z'e`` and ``v -> X' diag(slope) Zv``."""
        e = self.residual(theta, block)
        slope = block.weighted(self._slope(e, block))
        return block.Z.T @ block.weighted(e), lambda v: ((block.Z @ v) * slope) @ block.X

    def _slope(self, e: Array, block: RegressionRows) -> Array:
        return e - block.y if self.errors == "additive" else -(e + 1.0)

    def instrument_product_sum(self, block: RegressionRows) -> Array:
        """``Z'Z``, weighted, (M, M)."""
        return block.instrument_product_sum()

    def instrument_products(self, block: RegressionRows, left: Array, right: Array) -> Array:
        """``left' z_i z_i' right`` of each row, weighted; left (M, P), right (M,); (n_b, P)."""
        return block.instrument_products(left, right)


def _started(sample: Sample, start: Array) -> Sample:
    """The sample with another start, as one block too."""
    return replace(sample, start=start, whole=lambda: _started(sample.whole(), start))
