"""Choice sets: a ragged table of alternatives, validated once, cut into blocks for the kernels.

The rows of choice set ``i`` are ``offsets[i]:offsets[i + 1]``, all that the sets share is the
number of columns.  :class:`ChoiceData` is what a user's frame or arrays become at the door;
:class:`Block` is the range of whole choice sets that a kernel sees, without a copy.

Nothing is guessed and nothing is dropped silently: what is done to the rows stands in ``notes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.data.alternatives import Alternatives, alike_note, part_name
from gmmest.data.array_door import Matrices, read_matrices, read_sets, require_one_door, strict_matrix
from gmmest.data.block import Block, taken_rows
from gmmest.data.choice_columns import ChoiceColumns
from gmmest.data.columns import (
    BoolArray,
    FloatArray,
    IntArray,
    absent,
    accept,
    not_finite,
    open_frame,
    place,
    quoted,
    read_numbers,
)
from gmmest.data.content import content_hash
from gmmest.data.drops import Drop
from gmmest.data.frame_door import moved_note, no_sets, read_structure, some_unchosen
from gmmest.data.immutable import frozen, read_only
from gmmest.data.observations import UNWEIGHTED, Names, Observations, read_observations
from gmmest.data.set_roles import read_set_roles
from gmmest.errors import Complaint, ConfigError, DataError, plural, some

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = ["ChoiceData"]


@dataclass(frozen=True, slots=True)
class _Origin:
    """The frame that the rows came from; its columns are read and checked when they are used."""

    frame: nw.DataFrame[Any]
    rows: IntArray  # (n,) row of the frame that each row was
    missing: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChoiceData:
    """Validated choice sets; made by :meth:`from_frame` or :meth:`from_arrays`.

    Every array is read-only.  Rows of one choice set are contiguous.

    Attributes
    ----------
    features : (n, P) float64, or None
        X; None for data from a frame, whose features a model makes of its columns.
    instruments : (n, M) float64, or None
        Z; or the moment differences D if ``has_choices`` is false.
    chosen : (n,) float64
        1.0 in the chosen row of every set; all zero if ``has_choices`` is false.
    offsets : (N + 1,) int64
        Set ``i`` is rows ``offsets[i]:offsets[i + 1]``.
    feature_names, instrument_names : tuple of str
        Names of the columns of X and Z.
    ids : (N,) array
        The case of each set as it was given; for messages and reports.
    alternatives : Alternatives, or None
        The alternative of each row, where alternatives were named.
    has_choices : bool
        Whether choices were observed.
    notes : tuple of str
        What was done to the rows: moved, dropped; empty if nothing was.
    source : str
        File name for messages.
    observations : Observations
        Weights, frequencies and clusters of the choice sets, where they were given.
    """

    features: FloatArray | None
    instruments: FloatArray | None
    chosen: FloatArray
    offsets: IntArray
    feature_names: tuple[str, ...]
    instrument_names: tuple[str, ...]
    ids: NDArray[Any]
    alternatives: Alternatives | None = None
    has_choices: bool = True
    notes: tuple[str, ...] = ()
    source: str = ""
    observations: Observations = UNWEIGHTED
    _origin: _Origin | None = None
    _drops: tuple[Drop, ...] = ()

    @classmethod
    def from_frame(
        cls,
        frame: object,
        *,
        case: str,
        chosen: str,
        alternative: str | None = None,
        on_bad_sets: Literal["error", "drop"] = "error",
        missing: Literal["error", "drop_set"] = "error",
        weight: str | None = None,
        frequency: str | None = None,
        cluster: Names = None,
        time: str | None = None,
        source: str = "",
    ) -> ChoiceData:
        """Choice sets from a frame in long format: one row for each set and alternative.

        Rows that share a value of `case` are one choice set.  Where they do not lie together they are moved
        together, stably, sets in order of first appearance.  Sets with a single alternative carry no information
        (their contribution is zero whatever the parameters) and are dropped.  Both are told in ``notes``.  Other
        columns are checked when they are used.

        Parameters
        ----------
        frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or any eager frame that narwhals reads
        case, chosen : str
            Columns with the id of the choice set (integers or text) and with 0/1 or False/True.
        alternative : str, optional
            Column with the name of the alternative (integers or text).
        on_bad_sets : {"error", "drop"}
            What to do with sets in which not exactly one row is chosen.
        missing : {"error", "drop_set"}
            What :meth:`complete` does with sets in which a used column has a missing value.
        weight, frequency : str, optional
            Columns with sampling weights and with counts, constant within each choice set.  Both multiply
            the moments; only a frequency counts as so many observations.  Where both are given a set
            stands for ``frequency`` observations, each of weight ``weight``.  A set with 0 is dropped.
        cluster : str or sequence of str, optional
            Columns with the ids of groups (integers or text), constant within each choice set.
        time : str, optional
            Column by which choice sets are ordered (numbers or dates), for covariances with lags.
        source : str
            File name for messages.

        Raises
        ------
        ConfigError
            E102: an option that is none of its words, or not a frame.
        DataError
            All at once: E302 sets without exactly one chosen row, E303 chosen not 0/1, E305 an alternative twice
            in a set, E306 no set left, E310 missing ids, E312 ids that are floats, E314 equal column names, E315
            absent columns, E330 weights that are negative, missing or not constant within a set, E331 sets in
            more than one cluster or at several times.

        Notes
        -----
        Cost: a few passes and one stable sort; ids are coded by hashing, never through a float.

        Examples
        --------
        >>> import pyarrow as pa
        >>> frame = pa.table({"who": ["ann", "ann", "bob", "bob"], "mode": ["car", "bus", "car", "bus"],
        ...                   "took": [1, 0, 0, 1], "cost": [3.0, 1.0, 4.0, 1.5]})
        >>> ChoiceData.from_frame(frame, case="who", alternative="mode", chosen="took")
        <ChoiceData: 2 choice sets, 4 rows, alternatives car, bus>
        """
        roles = (weight, frequency, cluster, time)
        columns = ChoiceColumns(case, chosen, alternative, on_bad_sets, missing, *roles)
        return cls.from_part(frame, columns, source, whole=True)

    @classmethod
    def from_part(
        cls, frame: object, columns: ChoiceColumns, source: str = "", *, whole: bool = False
    ) -> ChoiceData:
        """Choice sets of a frame that may hold some of the data only.

        Parameters
        ----------
        frame, source
            As in :meth:`from_frame`.
        columns : ChoiceColumns
            Its other arguments.
        whole : bool
            Whether these are all choice sets; of a part all weights may be zero.
        """
        opened = open_frame(frame, source)
        found, complaints = read_structure(opened, columns, source)
        sets, bad = found.sets, found.bad
        roles, of_roles = read_set_roles(opened, source, columns.roles, sets, whole)
        if complaints or of_roles:
            raise DataError([*complaints, *of_roles])
        data = cls(
            features=None,
            instruments=None,
            chosen=read_only(found.chosen),
            offsets=read_only(sets.offsets),
            feature_names=(),
            instrument_names=(),
            ids=read_only(sets.ids),
            alternatives=found.alternatives,
            notes=(
                *moved_note(sets.order),
                *alike_note(found.alternatives.labels if found.alternatives else ()),
            ),
            source=source,
            observations=roles.observations,
            _origin=_Origin(opened, read_only(sets.order), columns.missing),
        )
        if bad.any():
            listed = some_unchosen(bad, found.chosen, sets.offsets, sets.ids)
            data = data._keep(~bad, Drop("W302", int(bad.sum()), bad.size, listed))
        places = roles.order_of(~bad)
        if places is not None:
            data = replace(data._take(places), notes=(*data.notes, roles.note))
        return data._without_weight_zero()._without_single_alternatives()

    @classmethod
    def from_arrays(
        cls,
        *,
        features: ArrayLike,
        chosen: ArrayLike | None = None,
        instruments: ArrayLike | None = None,
        moment_differences: ArrayLike | None = None,
        offsets: ArrayLike,
        feature_names: Sequence[str] | None = None,
        instrument_names: Sequence[str] | None = None,
        weight: ArrayLike | None = None,
        frequency: ArrayLike | None = None,
        cluster: ArrayLike | Mapping[str, ArrayLike] | None = None,
    ) -> ChoiceData:
        """Choice sets from arrays, with observed choices or with moment differences.

        With choices the moments are ``g = (1/N) sum_i Z_i'(s_i - y_i)``.  With moment differences, where
        nothing is observed, they are ``g = D's / N``.

        Parameters
        ----------
        features : (n, P) array
            X.
        chosen : (n,) array of 0/1 or False/True
            y; one chosen row in every set.  Give this or `moment_differences`.
        instruments : (n, M) array, optional
            Z; the features by default.
        moment_differences : (n, M) array
            D; kept where `instruments` are.
        offsets : (N + 1,) array of integers
            From 0 to n, strictly increasing.
        feature_names, instrument_names : sequence of str, optional
            By default ``x0, x1, ...`` and ``z0, z1, ...``; instruments that are the features have their names.
        weight, frequency : (N,) array, optional
            Sampling weights and counts of the choice sets; see :meth:`from_frame`.
        cluster : (N,) array of integers or text, or mapping of such, optional
            The group of each choice set; a mapping names several ways of grouping.

        Raises
        ------
        ConfigError
            E102: not exactly one of `chosen` and `moment_differences`.
        DataError
            All at once: E302 sets without exactly one chosen row, E303 chosen not 0/1, E306 no set,
            E307 shapes, E308 offsets, E310 missing or infinite values, E311 not real numbers,
            E314 equal names.  Places are given as NumPy counts, from 0.

        Notes
        -----
        Arrays that are read-only, C-contiguous float64 are shared, all others copied.  Features and
        instruments in float32 stay so, and are converted block by block where they are used.  Sets with a
        single alternative are dropped with a note; with moment differences only where their row of
        D is zero, because another row is a constant that belongs to g.

        Examples
        --------
        >>> data = ChoiceData.from_arrays(features=np.eye(4), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
        >>> data.n_sets, data.feature_names, data.instruments is data.features
        (2, ('x0', 'x1', 'x2', 'x3'), True)
        """
        require_one_door(chosen, instruments, moment_differences)
        matrices, complaints = read_matrices(
            features, instruments, moment_differences, feature_names, instrument_names
        )
        sets, of_sets = read_sets(offsets, chosen, None if matrices is None else len(matrices.features))
        observations, of_observations = read_observations(weight, frequency, cluster, sets.n_sets)
        complaints = [*complaints, *of_sets, *of_observations]
        if complaints or matrices is None or sets.offsets is None:
            raise DataError(complaints)
        return cls._of_arrays(matrices, sets.offsets, sets.chosen, observations)

    @classmethod
    def _of_arrays(
        cls, given: Matrices, offsets: IntArray, chosen: FloatArray | None, observations: Observations
    ) -> ChoiceData:
        data = cls(
            features=given.features,
            instruments=given.instruments,
            chosen=frozen(np.zeros(len(given.features))) if chosen is None else chosen,
            offsets=offsets,
            feature_names=given.feature_names,
            instrument_names=given.instrument_names,
            ids=read_only(np.arange(offsets.size - 1)),
            has_choices=chosen is not None,
            observations=observations,
        )
        return data._without_weight_zero()._without_single_alternatives()

    @property
    def n_sets(self) -> int:
        """Number of choice sets, N."""
        return len(self.offsets) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows, n."""
        return len(self.chosen)

    @property
    def labels(self) -> tuple[str, ...]:
        """Alternatives in order of first appearance; empty if none were named."""
        return () if self.alternatives is None else self.alternatives.labels

    def __repr__(self) -> str:
        alternatives = f", alternatives {some(self.labels)}" if self.labels else ""
        return (
            f"<ChoiceData: {plural(self.n_sets, 'choice set')}, {plural(self.n_rows, 'row')}{alternatives}>"
        )

    # --- columns ---

    def complete(self, columns: Sequence[str]) -> ChoiceData:
        """Check the columns that will be used, all together.

        Parameters
        ----------
        columns : sequence of str

        Returns
        -------
        ChoiceData
            These data; with ``missing="drop_set"`` without the sets in which one of the columns has
            a missing value (told in ``notes``).

        Raises
        ------
        DataError
            All at once: E306 no set left, E310 missing or infinite values, E311 not numbers, E315
            absent columns.  Infinite values are never dropped.

        Examples
        --------
        >>> import pyarrow as pa
        >>> frame = pa.table({"id": [1, 1, 2, 2], "y": [1, 0, 0, 1], "price": [1.0, 2.0, None, 3.0]})
        >>> data = ChoiceData.from_frame(frame, case="id", chosen="y", missing="drop_set")
        >>> data.complete(["price"]).notes
        ('W310 dropped 1 of 2 choice sets with missing values: price (1)',)
        """
        complaints: list[Complaint] = []
        holes = np.zeros(self.n_rows, dtype=np.bool_)
        counts: list[tuple[str, int]] = []
        droppable = self._origin is not None and self._origin.missing == "drop_set"
        for name in dict.fromkeys(columns):
            values = accept(self._read(name), complaints)
            if values is None:
                continue
            gaps = np.isnan(values)
            if droppable and not np.isinf(values).any():
                holes |= gaps
                counts.append((name, int(gaps.sum())))
            elif (complaint := self._not_finite(values, name)) is not None:
                complaints.append(complaint)
        if complaints:
            raise DataError(complaints)
        if not holes.any():
            return self
        keep = ~np.logical_or.reduceat(holes, self.offsets[:-1])
        return self._keep(keep, Drop("W310", int((~keep).sum()), self.n_sets, gaps=tuple(counts)))

    def column(self, name: str) -> FloatArray:
        """Read a column of numbers, in the order of the rows here.

        Parameters
        ----------
        name : str
            A column of the frame; for data from arrays the name of a feature or an instrument.

        Returns
        -------
        (n,) float64
            Booleans as 0 and 1.

        Raises
        ------
        DataError
            E310 missing or infinite values, E311 not numbers, E315 absent.
        """
        values = self._read(name)
        if isinstance(values, Complaint):
            raise DataError(values)
        complaint = self._not_finite(values, name)
        if complaint is not None:
            raise DataError(complaint)
        return read_only(values)

    def indicator(self, label: str) -> FloatArray:
        """Mark the rows of one alternative.

        Parameters
        ----------
        label : str
            One of ``labels``.

        Returns
        -------
        (n,) float64
            1.0 in the rows of this alternative, 0.0 elsewhere.

        Raises
        ------
        DataError
            E316: no such alternative, or alternatives were not named.
        """
        if self.alternatives is None:
            what = f"no alternative {quoted(label)}: the data name no column of alternatives"
            raise DataError(Complaint("E316", what, place(self.source), "name the column with  alternative"))
        return self.alternatives.indicator(label, self.source)

    def _read(self, name: str) -> FloatArray | Complaint:
        if self._origin is None:
            for names, matrix in (
                (self.feature_names, self.features),
                (self.instrument_names, self.instruments),
            ):
                if name in names and matrix is not None:
                    return np.ascontiguousarray(matrix[:, names.index(name)])
            return absent(name, (*self.feature_names, *self.instrument_names), self.source)
        return read_numbers(self._origin.frame, name, self.source, self._origin.rows)

    def _not_finite(self, values: FloatArray, name: str) -> Complaint | None:
        rows = np.arange(self.n_rows) if self._origin is None else self._origin.rows
        return not_finite(values, name, self.source, rows, self._id_of_row)

    def _id_of_row(self, row: int) -> object:
        return self.ids[int(np.searchsorted(self.offsets, row, side="right")) - 1]

    # --- what the kernels get ---

    def block(self, features: ArrayLike | None = None, instruments: ArrayLike | None = None) -> Block:
        """Return all choice sets with their arrays; :meth:`Block.part` cuts them.

        Parameters
        ----------
        features : (n, P) array, optional
            X, rows in the order of these data; by default those of :meth:`from_arrays`.  Shared, not
            copied, if it is C-contiguous float64.
        instruments : (n, M) array, optional
            Z; by default those of :meth:`from_arrays`, or the features given.

        Raises
        ------
        DataError
            E307 shapes, E310 infinite or missing values, E311 not real numbers.
        ConfigError
            E102: no features, neither here nor in the data.

        Examples
        --------
        >>> data = ChoiceData.from_arrays(features=np.eye(4), chosen=[1, 0, 0, 1], offsets=[0, 2, 4])
        >>> block = data.block(np.ones((4, 3)))
        >>> block.features.shape, block.instruments is block.features
        ((4, 3), True)
        """
        if features is None and instruments is None:
            if self.features is None or self.instruments is None:
                advice = "give features, an (n, P) array"
                raise ConfigError(
                    Complaint("E102", "data from a frame have columns, no features", next=advice)
                )
            return self._block(self.features, self.instruments)
        if features is None:
            features = self.block().features
        elif instruments is None:
            # Moment differences stand for themselves; instruments were chosen for the old features.
            instruments = features if self.has_choices else self.block().instruments
        complaints: list[Complaint] = []
        X = accept(self._matrix(features, "features"), complaints)
        Z = X
        if instruments is not None and instruments is not features:
            Z = accept(self._matrix(instruments, "instruments"), complaints)
        if complaints or X is None or Z is None:
            raise DataError(complaints)
        return self._block(X, Z)

    def _block(self, X: FloatArray, Z: FloatArray) -> Block:
        mass, frequency = (
            None if of_sets is None else read_only(np.repeat(of_sets, np.diff(self.offsets)))
            for of_sets in (self.observations.mass, self.observations.frequency)
        )
        return Block(X, Z, self.chosen, self.offsets, mass, frequency)

    def _matrix(self, value: ArrayLike, name: str) -> FloatArray | Complaint:
        matrix = strict_matrix(read_only(np.asanyarray(value)), name)  # read-only, and so shared
        if not isinstance(matrix, Complaint) and len(matrix) != self.n_rows:
            what = f"{name} has {plural(len(matrix), 'row')}, the data have {self.n_rows:,}"
            return Complaint("E307", what, name)
        return matrix

    def fingerprint(self, columns: Sequence[str] = ()) -> str:
        """Return the sha256 of the content, for manifests.

        Covers offsets, choices, alternatives, features and instruments, and the named columns, of
        the choice sets that are left when these columns are complete.  Ids, notes and the file name
        are not content.

        Parameters
        ----------
        columns : sequence of str
            Columns of the frame that were used.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        used = self.complete(columns)
        parts: list[tuple[str, NDArray[Any]]] = [("offsets", used.offsets), ("chosen", used.chosen)]
        if used.alternatives is not None:
            appearing = used.alternatives.appearing()
            parts.append((part_name(appearing.labels), appearing.codes))
        if used.features is not None:
            parts.append((f"features {json.dumps(used.feature_names)}", used.features))
        if used.instruments is not None and used.instruments is not used.features:
            parts.append((f"instruments {json.dumps(used.instrument_names)}", used.instruments))
        parts += [(f"column {name}", used.column(name)) for name in dict.fromkeys(columns)]
        parts += used.observations.parts()
        return content_hash(parts)

    # --- data that are a part of others ---

    @property
    def drops(self) -> tuple[Drop, ...]:
        """What was dropped, as counts that add."""
        return self._drops

    @property
    def first_rows(self) -> IntArray:
        """Row of the frame at which each set begins, (N,)."""
        assert self._origin is not None  # noqa: S101  asked for only of data from a frame
        return self._origin.rows[self.offsets[:-1]]

    def with_labels(self, labels: Sequence[str]) -> ChoiceData:
        """The same where alternatives of these labels occur too, in other parts of the data."""
        if self.alternatives is None:
            return self
        every = tuple(dict.fromkeys((*self.labels, *labels)))
        return replace(self, alternatives=replace(self.alternatives, labels=every))

    # --- dropping whole sets ---

    def _without_single_alternatives(self) -> ChoiceData:
        single = np.diff(self.offsets) == 1
        if not self.has_choices and self.instruments is not None:
            single &= ~self.instruments[self.offsets[:-1]].any(axis=1)
        if not single.any():
            return self
        return self._keep(~single, Drop("W301", int(single.sum()), self.n_sets))

    def _without_weight_zero(self) -> ChoiceData:
        zero = self.observations.zero()
        if zero is None:
            return self
        return self._keep(~zero, Drop("W330", int(zero.sum()), self.n_sets))

    def _keep(self, keep: BoolArray, drop: Drop) -> ChoiceData:
        """Select the sets where `keep` holds; why the others are gone goes to the notes."""
        notes, drops = (*self.notes, str(drop)), (*self._drops, drop)
        if not keep.any():
            raise no_sets(self.source, notes, drops)
        return replace(self._take(np.flatnonzero(keep)), notes=notes, _drops=drops)

    def _take(self, places: IntArray) -> ChoiceData:
        """Choice sets by their places, in that order."""
        rows, offsets = taken_rows(self.offsets, places)
        features, instruments = self.features, self.instruments
        if features is not None and instruments is not None:
            same = instruments is features
            features = read_only(features[rows])
            instruments = features if same else read_only(instruments[rows])
        return replace(
            self,
            features=features,
            instruments=instruments,
            chosen=read_only(self.chosen[rows]),
            offsets=read_only(offsets),
            ids=read_only(self.ids[places]),
            alternatives=self.alternatives and self.alternatives.take(rows),
            observations=self.observations.take(places),
            _origin=self._origin and replace(self._origin, rows=read_only(self._origin.rows[rows])),
        )
