"""Columns of a frame and arrays from a user, as strict float64: right or refused.

Every column goes frame -> Arrow -> NumPy.  Arrow keeps what the frames disagree about: a missing
integer stays an integer column with a hole (pandas makes floats of it), missing and NaN are
one thing, and equal ids are found by value and never through a float.  The functions return
either the array or the :class:`~gmmest.errors.Complaint` that says why there is none, so that
a door can collect all complaints and raise them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmmest.data.immutable import frozen, read_only
from gmmest.errors import Complaint, ConfigError, DataError, plural, printable, some

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
Arrow: TypeAlias = Any  # a pyarrow.Array; pyarrow publishes no types

T = TypeVar("T")

# A decimal number and nothing else: no words (nan, inf), no thousands separators, no hexadecimal,
# no digits other than ASCII.  Spaces around it are harmless.  Written for RE2, where $ is the very end.
PLAIN_NUMBER = r"^ *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *$"

LARGEST_EXACT = 2**53  # beyond it float64 skips integers

# --- words -------------------------------------------------------------------------------------


def quoted(name: object) -> str:
    """Show a column name in a message."""
    return f'"{printable(name)}"'


def shown(value: object) -> str:
    """Show a value in a message: quoted if text, cut if long."""
    text = printable(repr(value))
    return text if len(text) <= 50 else f"{text[:47]}..."


def joined(parts: Sequence[str]) -> str:
    """Join words as ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """``; did you mean "price"?`` or nothing."""
    import difflib

    close = difflib.get_close_matches(name, [str(known) for known in names], n=1, cutoff=0.6)
    return f"; did you mean {quoted(close[0])}?" if close else ""


def spans(rows: IntArray) -> list[tuple[int, int]]:
    """Group runs of consecutive numbers as half-open ranges: ``[3, 4, 5, 9]`` is ``[(3, 6), (9, 10)]``."""
    rows = np.unique(rows)
    breaks = np.flatnonzero(np.diff(rows) != 1)
    firsts = rows[np.concatenate(([0], breaks + 1))]
    lasts = rows[np.concatenate((breaks, [rows.size - 1]))]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def row_ranges(rows: IntArray, most: int = 5) -> str:
    """Rows in words, counted from 1.

    Parameters
    ----------
    rows : (k,) int64, k >= 1
        Row numbers counted from 0, in any order.
    most : int
        Ranges to show.

    Examples
    --------
    >>> row_ranges(np.array([16, 17, 18, 19, 32, 33, 34, 35]))
    'rows 17-20 and 33-36'
    """
    found = spans(rows)
    texts = [f"{first + 1}" if last == first + 1 else f"{first + 1}-{last}" for first, last in found]
    word = "row" if rows.size == 1 else "rows"
    if len(texts) <= most:
        return f"{word} {joined(texts)}"
    return f"{word} {', '.join(texts[:most])} ... ({rows.size:,} in all)"


class Source(str):
    """The name of a file of which only a part is seen: messages count rows from where the file begins.

    Parameters
    ----------
    name : str
    first : int
        Row of the file that is row 0 of the part.

    Examples
    --------
    >>> in_file(Source("trips.csv", first=100), 5), in_file("trips.csv", 5)
    (105, 5)
    """

    __slots__ = ("first",)
    first: int

    def __new__(cls, name: str, first: int = 0) -> Source:
        """Make the name, with the first row beside it."""
        source = super().__new__(cls, name)
        source.first = first
        return source


def in_file(source: str, rows: T) -> T:
    """Rows counted from 0 in what is seen of a source, as rows of the file."""
    return rows + source.first if isinstance(source, Source) else rows  # type: ignore[operator, return-value]


def index_ranges(name: str, rows: IntArray, most: int = 5) -> str:
    """Places in an array, as NumPy counts them: ``chosen[16:20] and chosen[32:36]``."""
    found = spans(rows)
    texts = [f"{name}[{first}]" if last == first + 1 else f"{name}[{first}:{last}]" for first, last in found]
    return joined(texts) if len(texts) <= most else f"{', '.join(texts[:most])} ... ({rows.size:,} in all)"


def place(source: str, column: str = "", rows: str = "") -> str:
    """Compose the *where* of a message: file, column, rows, as far as they are known."""
    parts = [printable(source)] if source else []
    if column:
        parts.append(f"column {quoted(column)}")
    if rows:
        parts.append(rows)
    return ", ".join(parts)


def accept(result: T | Complaint, complaints: list[Complaint]) -> T | None:
    """Return the result if it is one; put a complaint with the others."""
    if isinstance(result, Complaint):
        complaints.append(result)
        return None
    return result


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse an option that is not one of its words (E102)."""
    if value not in choices:
        words = " or ".join(f'"{choice}"' for choice in choices)
        hint = did_you_mean(str(value), choices)
        raise ConfigError(Complaint("E102", f"{name}={shown(value)}: expected {words}{hint}"))


# --- frames ------------------------------------------------------------------------------------


def open_frame(frame: object, source: str = "") -> nw.DataFrame[Any]:
    """Wrap a frame so that later writes by its owner cannot change it.

    Parameters
    ----------
    frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or any other eager frame that narwhals reads
    source : str
        File name for messages.

    Raises
    ------
    ConfigError
        E102: not an eager frame.
    DataError
        E314: two columns have one name.
    """
    import narwhals.stable.v2 as nw

    refuse_duplicates(_native_names(frame), source)
    try:
        return nw.from_native(_kept_frame(frame), eager_only=True)
    except TypeError as error:
        what = f"a frame (pandas, polars, pyarrow) was expected, got {type(frame).__name__}"
        advice = "call .collect() first" if hasattr(frame, "collect") else "make a frame of it first"
        raise ConfigError(Complaint("E102", what, place(source), advice)) from error


def _native_names(frame: object) -> list[object]:
    # A pyarrow table keeps its names in column_names; its .columns are the arrays.
    names = getattr(frame, "column_names", None)
    if names is None:
        names = getattr(frame, "columns", ()) if not hasattr(frame, "collect") else ()
    return list(names)


def _kept_frame(frame: Any) -> Any:
    import narwhals.dependencies as known

    if known.is_pandas_dataframe(frame):
        # From pandas 3 on a shallow copy is enough: writes to the original copy it first.
        copy_on_write = int(known.get_pandas().__version__.split(".")[0]) >= 3
        return frame.copy(deep=not copy_on_write)
    return frame.clone() if known.is_polars_dataframe(frame) else frame


def refuse_duplicates(names: Sequence[object], source: str) -> None:
    """Refuse two columns of one name (E314): which of them is meant cannot be known."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        listed = some([quoted(name) for name in twice])
        advice = "rename or remove one of each"
        raise DataError(Complaint("E314", f"column names that occur twice: {listed}", place(source), advice))


def absent(name: str, names: Sequence[str], source: str, role: str = "") -> Complaint:
    """Complain about a column that does not exist (E315)."""
    named = f" (named as {role})" if role else ""
    what = f"no column {quoted(name)}{named}{did_you_mean(name, names)}"
    columns = f"its columns are {some(names, 12)}" if names else "it has no columns"
    return Complaint("E315", what, place(source, rows=columns), "name a column that exists")


def read_column(frame: nw.DataFrame[Any], name: str, source: str) -> Arrow | Complaint:
    """Read a column as one Arrow array with encodings undone; mixed types are refused (E311)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    series = frame[name]
    try:
        column = series.to_arrow()
    except (pa.ArrowException, NotImplementedError, OverflowError, TypeError):
        # A column of Python objects may hold anything, and Arrow says so in many ways.
        return _mixed(series, name, source)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # One kind of text: Arrow compares no string views, and short strings end at 2 GiB.
    return column.cast(pa.large_string()) if is_text(column) else column


def _mixed(series: nw.Series[Any], name: str, source: str) -> Complaint:
    import narwhals.stable.v2 as nw

    numeric = (int, float, np.number, np.bool_)
    for row, value in enumerate(series.to_list() if series.dtype == nw.Object else ()):
        if value is not None and not isinstance(value, numeric):
            number = in_file(source, row) + 1
            what = f"{printable(name)} mixes types: row {number:,} holds {shown(value)}"
            return Complaint("E311", what, place(source, name, f"row {number}"), "give the column one type")
    what = f"{printable(name)} is of type {series.dtype}, which cannot be read exactly"
    return Complaint("E311", what, place(source, name), "convert the column to float64 or int64")


# --- numbers -----------------------------------------------------------------------------------


def is_text(column: Arrow) -> bool:
    """Whether an Arrow array holds text."""
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_numeric(column: Arrow) -> bool:
    """Whether an Arrow array holds numbers or booleans; a column of holes only is neither."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    return bool(
        types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    )


def read_numbers(
    frame: nw.DataFrame[Any], name: str, source: str, rows: IntArray, role: str = ""
) -> FloatArray | Complaint:
    """Read rows of a column of a frame by :func:`as_float64`; E315 if there is no such column."""
    if name not in frame.columns:
        return absent(name, frame.columns, source, role)
    column = read_column(frame, name, source)
    return column if isinstance(column, Complaint) else as_float64(column, name, source, rows)


def as_float64(column: Arrow, name: str, source: str, rows: IntArray) -> FloatArray | Complaint:
    """Read rows of a numeric column as float64, NaN where missing.

    Parameters
    ----------
    column : (n_all,) pyarrow.Array
    name, source : str
        Column and file, for messages.
    rows : (n,) int64
        Rows to read, counted from 0; what lies elsewhere is not looked at.

    Returns
    -------
    (n,) float64, or Complaint
        E311: text, dates and so on; integers that float64 cannot hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (rows.size == len(column) and np.array_equal(rows, np.arange(rows.size))):
        column = column.take(pa.array(rows))
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if not is_numeric(column):
        return _not_numbers(column, name, source, in_file(source, rows))
    rows = in_file(source, rows)
    kind = column.type
    if pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    if pa.types.is_decimal(kind):
        values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        return np.asarray(values, dtype=np.float64)
    whole = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
    integers = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)
    lost = np.flatnonzero(inexact(integers))
    if lost.size:
        what = f"{printable(name)}: row {rows[lost[0]] + 1:,} holds {integers[lost[0]]}"
        what += ", which float64 cannot hold"
        advice = "integers beyond 2**53 are ids, not quantities; subtract a constant, or leave the column out"
        return Complaint("E311", what, place(source, name, row_ranges(rows[lost])), advice)
    values = integers.astype(np.float64)
    if column.null_count:
        values[pc.is_null(column).to_numpy(zero_copy_only=False)] = np.nan
    return np.asarray(values, dtype=np.float64)


def inexact(integers: NDArray[Any]) -> BoolArray:
    """Which integers float64 cannot hold.

    An integer is held exactly iff its odd part is at most 2**53: the powers of two in it go
    into the exponent.  Compared in uint64, so nothing passes through a float.
    """
    if not integers.size or (integers.max() <= LARGEST_EXACT and integers.min() >= -LARGEST_EXACT):
        return np.zeros(integers.shape, dtype=np.bool_)
    unsigned = integers.astype(np.uint64)  # two's complement, so that -x below is right for the least int64
    size = np.where(integers < 0, ~unsigned + np.uint64(1), unsigned)
    lowest_bit = np.maximum(size & (~size + np.uint64(1)), np.uint64(1))
    return np.asarray(size // lowest_bit > LARGEST_EXACT, dtype=np.bool_)


def _not_numbers(column: Arrow, name: str, source: str, rows: IntArray) -> Complaint:
    import pyarrow.compute as pc

    filled = ~pc.is_null(column).to_numpy(zero_copy_only=False)
    if not is_text(column):
        first = int(np.flatnonzero(filled)[0])
        value = printable(column[first])
        what = f"{printable(name)} is {column.type}, not numbers: row {rows[first] + 1:,} holds {value}"
        return Complaint("E311", what, place(source, name), "make a column of numbers of it")
    plain = pc.match_substring_regex(column, PLAIN_NUMBER).fill_null(True).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(~plain)
    first = int(odd[0] if odd.size else np.flatnonzero(filled)[0])
    value = column[first].as_py()
    what = f"{printable(name)} is text, not numbers: row {rows[first] + 1:,} holds {shown(value)}"
    where = place(source, name, row_ranges(rows[odd])) if odd.size else place(source, name)
    return Complaint("E311", what, where, number_hint(value))


def number_hint(value: str) -> str:
    """Advise what to write in place of a cell that is not a plain number."""
    bare = value.strip().casefold()
    if bare in {"", ".", "-", "na", "n/a", "nan", "null", "none", "missing", "#n/a"}:
        return "leave the cell empty where a value is missing"
    if "," in bare:
        return "write it with . as decimal mark and without thousands separators, as 1234.5"
    if bare.lstrip("+-") in {"inf", "infinity"}:
        return "an infinite value cannot be used; correct the cell"
    if bare in {"true", "false", "yes", "no"}:
        return "write 1 and 0"
    return "convert the column to numbers, as 1234.5 or 1.2345e3"


def not_finite(
    values: FloatArray, name: str, source: str, rows: IntArray, set_of: Callable[[int], object] | None = None
) -> Complaint | None:
    """Complain about missing and infinite values (E310), if there are any.

    Parameters
    ----------
    values : (n,) float64
        NaN stands for missing.
    rows : (n,) int64
        Where each value stood, counted from 0.
    set_of : callable, optional
        Position to id of its choice set.
    """
    finite = np.isfinite(values)
    if finite.all():
        return None
    rows = in_file(source, rows)
    parts: list[str] = []
    for word, hit in (("missing", np.isnan(values)), ("infinite", np.isinf(values))):
        found = np.flatnonzero(hit)
        if found.size:
            within = f" (set {printable(set_of(int(found[0])))})" if set_of else ""
            parts.append(f"{found.size:,} {word}, first at row {rows[found[0]] + 1:,}{within}")
    advice = "fill or remove these cells"
    if set_of:
        advice += ", or drop the choice sets that miss a value with  missing: drop_set"
    if np.isinf(values).any():
        advice = "correct the infinite values; only missing values can be dropped"
    where = place(source, name, row_ranges(rows[~finite]))
    return Complaint("E310", f"{printable(name)}: {'; '.join(parts)}", where, advice)


def unusable_columns(
    frame: object, names: Sequence[str], source: str, case: str, droppable: bool = False
) -> list[Complaint]:
    """What is wrong with columns of numbers of a frame whose rows could not be made into sets: E310, E311, E315.

    With `droppable` missing values are no fault.
    """
    opened = open_frame(frame, source)
    rows = np.arange(len(opened), dtype=np.int64)
    complaints: list[Complaint] = []
    for name in dict.fromkeys(names):
        if name not in opened.columns:
            complaints.append(absent(name, opened.columns, source))
            continue
        column = read_column(opened, name, source)
        values = column if isinstance(column, Complaint) else as_float64(column, name, source, rows)
        if isinstance(values, Complaint):
            complaints.append(values)
        elif not droppable or np.isinf(values).any():
            found = not_finite(values, name, source, rows, lambda row: opened[case][row])
            complaints += [] if found is None else [found]
    return complaints


def zero_one(column: Arrow, name: str, source: str) -> FloatArray | Complaint:
    """Read a column of choices as 0.0 and 1.0; anything but 0/1 and False/True is refused (E303)."""
    import pyarrow.compute as pc

    advice = "write 1 in the row that was chosen and 0 in the other rows of its choice set"
    every = np.arange(len(column), dtype=np.int64)
    if not is_numeric(column) and column.null_count < len(column):
        first = int(np.flatnonzero(~pc.is_null(column).to_numpy(zero_copy_only=False))[0])
        kind = "text" if is_text(column) else column.type
        value = f"{kind} {shown(column[first].as_py())}"
        row = in_file(source, first) + 1
        what = f"{printable(name)} must be 0 or 1 (or False or True), found {value} at row {row:,}"
        return Complaint("E303", what, place(source, name, f"row {row}"), advice)
    values = as_float64(column, name, source, every)
    if isinstance(values, Complaint):
        return Complaint("E303", f"{values.what}; it must be 0 or 1", values.where, advice)
    bad = np.flatnonzero((values != 0.0) & (values != 1.0))
    if bad.size == 0:
        return values + 0.0  # -0.0 becomes 0.0, so that equal choices have equal bits
    value = "a missing value" if np.isnan(values[bad[0]]) else f"{column[int(bad[0])].as_py()}"
    what = f"{printable(name)} must be 0 or 1, found {value} at row {in_file(source, bad[0]) + 1:,}"
    count = f"; {bad.size:,} of {plural(values.size, 'row')}"
    return Complaint("E303", what + count, place(source, name, row_ranges(in_file(source, bad))), advice)


# --- ids ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Coded:
    """Ids as small integers: ``values[codes]`` is the column.

    Parameters
    ----------
    codes : (n,) int64
        0, 1, ... in order of first appearance.
    values : (k,) integers or str objects
        The different ids, in order of first appearance.
    """

    codes: IntArray
    values: NDArray[Any]


def code_ids(column: Arrow, name: str, source: str) -> Coded | tuple[Complaint, ...]:
    """Code ids by value; text and integers only.

    Returns
    -------
    Coded, or the complaints
        E310: missing (or empty) ids.  E312: ids of another type.  Floats are refused because
        distinct ids may already have become one: float64 holds neither 2**53 + 1 nor '007'.
    """
    import pyarrow.compute as pc

    complaints: list[Complaint] = []
    holes = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if is_text(column):
        holes = holes | pc.equal(column, "").fill_null(False).to_numpy(zero_copy_only=False)
    elif column.null_count < len(column):
        complaints += not_ids(column.type, name, source)
    missing = in_file(source, np.flatnonzero(holes))
    if missing.size:
        what = f"{printable(name)}: {missing.size:,} missing, first at row {missing[0] + 1:,}"
        where = place(source, name, row_ranges(missing))
        complaints.append(Complaint("E310", what, where, "fill in the id or remove the row"))
    if complaints:
        return tuple(complaints)
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, encoded.dictionary.to_numpy(zero_copy_only=False))


def not_ids(kind: Any, name: str, source: str) -> list[Complaint]:
    """What is wrong with an Arrow type for ids (E312); nothing for integers and text."""
    import pyarrow as pa

    types = pa.types
    if types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind):
        return []
    if not types.is_floating(kind):
        what = f"{printable(name)} holds {kind}; ids must be integers or text"
        return [Complaint("E312", what, place(source, name), "convert the column to text")]
    what = f"{printable(name)} holds floats ({kind}); ids must be integers or text, because "
    what += "floats can merge two of them (9007199254740993 becomes 9007199254740992)"
    advice = (
        "read the column as text or integers (pandas makes floats of integers when one is missing); "
        'if no id was lost:  astype("int64")'
    )
    return [Complaint("E312", what, place(source, name), advice)]


# --- arrays ------------------------------------------------------------------------------------


def strict_array(
    value: ArrayLike, name: str, ndim: int | None = None, keep: type[np.floating[Any]] = np.float64
) -> FloatArray | Complaint:
    """Read an array as finite, C-contiguous, aligned, read-only float64.

    A read-only array that already is all that is shared; a writable one is copied, so that
    later writes by its owner change nothing here.

    Parameters
    ----------
    value : array of real numbers or booleans
    name : str
        For messages.
    ndim : int, optional
        Dimensions it must have; by default at least one.
    keep : type
        A type of float that is kept as it is.

    Returns
    -------
    float64 array, or Complaint
        E307: shape.  E310: NaN, infinite, masked.  E311: text, complex, objects; integers
        that float64 cannot hold.
    """
    if isinstance(value, np.ma.MaskedArray):
        hidden = int(np.ma.getmaskarray(value).sum())
        if hidden:
            what = f"{name}: {plural(hidden, 'value')} masked"
            return Complaint("E310", what, name, "fill or remove the masked values")
        value = value.data
    try:
        array = np.asarray(value)
    except ValueError as error:
        return Complaint("E307", f"{name} is not an array: {error}", name, "give rows of equal length")
    if array.dtype.kind not in "fiub":
        what = f"{name} must hold real numbers, found dtype {array.dtype}"
        return Complaint("E311", what, name, "convert it to float64 first")
    if array.ndim == 0 or (ndim is not None and array.ndim != ndim):
        expected = {1: "(rows,)", 2: "(rows, columns)"}.get(ndim or 0, "(rows, ...)")
        return Complaint("E307", f"{name} has shape {array.shape}, expected {expected}", name)
    if array.dtype.kind in "iu" and inexact(array).any():
        what = f"{name} holds an integer beyond 2**53 that float64 cannot hold"
        return Complaint("E311", what, _first(name, inexact(array)), "rescale it, or leave it out")
    with np.errstate(over="ignore"):  # a longdouble beyond float64 becomes inf and is refused below
        strict = np.require(array, keep if array.dtype == keep else np.float64, ["C", "A"])
    finite = np.isfinite(strict)
    if not finite.all():
        return _array_not_finite(strict, name)
    if strict.flags.writeable and np.may_share_memory(strict, array):
        strict = strict.copy()
    if not np.may_share_memory(strict, array):
        return frozen(strict)
    return read_only(strict)


def _first(name: str, hit: BoolArray) -> str:
    index = np.unravel_index(int(np.argmax(hit)), hit.shape)
    return f"{name}[{', '.join(str(int(i)) for i in index)}]"


def _array_not_finite(array: FloatArray, name: str) -> Complaint:
    parts: list[str] = []
    for word, hit in (("missing (NaN)", np.isnan(array)), ("infinite", np.isinf(array))):
        if hit.any():
            parts.append(f"{int(hit.sum()):,} {word}, first at {_first(name, hit)}")
    where = _first(name, ~np.isfinite(array))
    return Complaint("E310", f"{name}: {'; '.join(parts)}", where, "fill or remove these values")
