"""How the score of a logit is made in machine code: the program behind :func:`.score_sums`.

For choice sets with weights w, lengths v, features X and one chosen row each, the kernel makes

    g = sum_i w_i d_i,    G = sum_i w_i X_i'(diag(s_i) - s_i s_i')X_i,    S = sum_i v_i^2 d_i d_i',

with ``d_i = xbar_i`` less the chosen row, ``xbar_i = sum_j s_ij x_ij``: what :func:`.share_sums` makes for Z = X,
where v = w/sqrt(f) with frequencies f.

Rows are taken a chunk at a time, whole sets, as many as the processor's first cache holds while all of this is done:

1. utilities ``u = x'theta``, four rows at once;
2. ``h = exp((u - max u)/2)``, eight rows at once.  The half is the root that step 4 wants, and its square the
   exponential;
3. a set's mean ``xbar = sum h^2 x / sum h^2``, and its d;
4. rows ``c = sqrt(w s)(x - xbar)``, centred before they are multiplied as in :mod:`.shares`, written as columns;
5. once there is room for no further chunk, their products: ``G += c'c``, one triangle, 4 x 4 entries at a time in
   registers, eight rows at once.  Meanwhile the next rows are asked for from memory.  The same two steps make S of d.

The order of all sums is fixed by the data's shape.  Cost for n rows, N sets, K features: n(K + 1) numbers read once;
K(K + 1)/2 multiplications and additions for a row and as many for a set, at about three quarters of the processor's
peak (docs/speed.md), 16 to 40 bytes of room for each feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gmmest.models.machine_code import Address, Function, Program, Value, Variable
from gmmest.models.score_kernel import LANES, SIDE, Layout

__all__ = ["compiled"]

LOG_2_HIGH, LOG_2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
"""log 2 as a sum: the first has 32 bits, so that whole multiples of it are exact."""
SMALLEST = -708.0
"""Below it exp is not a normal number; its square is zero anyway."""
TERMS = 13
"""Of the series: the next one, (log(2)/2)^14/14!, is a thirtieth of a unit in the last place."""


def compiled(layout: Layout) -> Callable[..., None]:
    """The program for so many features; its arguments are those of :meth:`_Score.all`."""
    score = _Score(layout)
    score.all()
    return score.program.compile("all")


def _whole(n: Value) -> Value:
    """The next multiple of the lanes."""
    return ((n + (LANES - 1)) / LANES) * LANES


class _Score:
    """The functions for one layout, whose sizes are constants of the code."""

    def __init__(self, layout: Layout) -> None:
        self.K, self.padded, self.width, self.long = (
            layout.features,
            layout.padded,
            layout.width,
            layout.length,
        )
        self.pieces, self.n_tiles = layout.pieces, len(layout.tiles)
        self.program = Program("score")

    def all(self) -> None:
        """The chunks one after another.

        ``n_sets`` and ``square`` (1 or 0: whether S is wanted), what is read (theta to length), what is added to
        (g, and G and S tile by tile, each sum in lanes), and room of the program's own.
        """
        utilities, below, exponentials = self._utilities(), self._below_the_largest(), self._exponentials()
        means, differences, products = self._means(), self._differences(), self._products()
        f = self.program.function(
            "all",
            *("count", "count", "doubles", "integers", *["doubles"] * 14, *["integers"] * 4),
        )
        n_sets, square, theta, offsets, X, chosen, mass, length, g, G, S = f.arguments[:11]
        u, h, scale, xbar, lengths, rows_T, sets_T, row_at, mean_at, set_at, pick_at = f.arguments[11:]
        last = offsets.load(n_sets) - 1
        begin, filled, held = (Variable(f.integer(0)) for _ in range(3))

        def add_rows(row: Value) -> None:
            f.call(products, rows_T, filled.get(), G, X.at(row * self.K))
            filled.set(f.integer(0))

        def add_sets(row: Value) -> None:
            n = held.get()
            with f.loop(n, _whole(n)) as t:  # a vector is filled up with the first set, at length zero
                set_at.store(0, t)
                pick_at.store(pick_at.load(0), t)
                lengths.store(0.0, t)
            f.call(differences, xbar, set_at, X, pick_at, lengths, _whole(n), sets_T)
            f.call(products, sets_T, _whole(n), S, X.at(row * self.K))
            held.set(f.integer(0))

        with f.loop_while(lambda: begin.get() < n_sets):
            first = begin.get()
            row = offsets.load(first)
            end = self._end_of_chunk(f, first, n_sets, offsets)
            sets, n = end - first, offsets.load(end) - row
            with f.when(filled.get() + _whole(n) > self.width):
                add_rows(row)
            with f.when(held.get() + sets > self.width):
                add_sets(row)
            with f.loop(0, _whole(n), LANES) as r:  # beyond the last row of the block is that row again
                at = (row + r).spread(LANES) + f.integers(range(LANES))
                row_at.store((at > last).choose(last, at) * self.K, r)
            f.call(utilities, X, theta, row_at, _whole(n), u)
            offset = held.get()
            f.call(below, first, end, row, offset, offsets, u, chosen, h, pick_at, mean_at)
            with f.loop(n, _whole(n)) as r:
                h.store(0.0, r)
                mean_at.store(0, r)
            f.call(exponentials, _whole(n), h)
            f.call(
                means,
                *(first, end, row, offset, X, offsets, h, mass, length),
                *(g, scale, xbar, lengths, set_at, pick_at),
            )
            with f.loop(n, _whole(n)) as r:
                scale.store(0.0, r)
            f.call(differences, X, row_at, xbar, mean_at, scale, _whole(n), rows_T.at(filled.get()))
            filled.set(filled.get() + _whole(n))
            held.set(offset + sets * square)
            begin.set(end)
        add_rows(last)
        with f.when(held.get() > 0):
            add_sets(last)
        f.end()

    def _end_of_chunk(self, f: Function, first: Value, n_sets: Value, offsets: Address) -> Value:
        """One set, and those after it up to half the room, in rows."""
        end, row = Variable(first + 1), offsets.load(first)

        def one_more() -> Value:
            after = end.get() + 1
            there = after <= n_sets
            within = offsets.load(there.choose(after, n_sets)) - row <= self.width // 2
            return there & within

        with f.loop_while(one_more):
            end.set(end.get() + 1)
        return end.get()

    def _utilities(self) -> Function:
        """``u_r = x_r'theta``, for rows in fours."""
        f = self.program.function("utilities", "doubles", "doubles", "integers", "count", "doubles")
        X, theta, row_at, n, u = f.arguments
        slopes = [theta.load_first(m, k, SIDE) for k, m in self.pieces]
        with f.loop(0, n, SIDE) as r:
            sums = []
            for j in range(SIDE):
                x = X.at(row_at.load(r + j))
                total = f.double(0.0).spread(SIDE)
                for (k, m), slope in zip(self.pieces, slopes, strict=True):
                    total = x.load_first(m, k, SIDE).times_plus(slope, total)
                sums.append(total)
            low, high = (
                a.shuffle(b, (0, 4, 2, 6)) + a.shuffle(b, (1, 5, 3, 7)) for a, b in (sums[:2], sums[2:])
            )
            u.store(low.shuffle(high, (0, 1, 4, 5)) + low.shuffle(high, (2, 3, 6, 7)), r)
        return f.end()

    def _below_the_largest(self) -> Function:
        """Utilities less the largest of their set; where the set's mean will lie, and where its chosen row lies."""
        f = self.program.function(
            "below",
            *("count", "count", "count", "count", "integers", "doubles", "doubles", "doubles"),
            *("integers", "integers"),
        )
        first, end, row, held, offsets, u, chosen, below, pick_at, mean_at = f.arguments
        with f.loop(first, end) as t:
            a, b = offsets.load(t) - row, offsets.load(t + 1) - row
            largest, pick = Variable(u.load(a)), Variable(a)
            with f.loop(a, b) as r:
                utility = u.load(r)
                largest.set((utility > largest.get()).choose(utility, largest.get()))
                pick.set((chosen.load(row + r) > 0.0).choose(r, pick.get()))
            place = held + t - first
            pick_at.store((row + pick.get()) * self.K, place)
            mean = (place * self.padded).spread(SIDE)
            with f.loop(a, b, SIDE) as r:  # what is written beyond the set, the next one writes anew
                below.store(u.load(r, SIDE) - largest.get(), r)
                mean_at.store(mean, r)
        return f.end()

    def _exponentials(self) -> Function:
        """``exp(u/2)`` in the place of u <= 0, to 1 unit in the last place; not a number stays so.

        ``u/2 = k log 2 + y`` with k whole and |y| <= log(2)/2, the series of exp at y, and k into the exponent.
        """
        f = self.program.function("exponentials", "count", "doubles")
        n, u = f.arguments
        round_off = 1.5 * 2.0**52  # a double beyond which there are no fractions: its last bits are k
        with f.loop(0, n, LANES) as r:
            x = u.load(r, LANES) * 0.5
            x = (x < SMALLEST).choose(f.double(SMALLEST).spread(LANES), x)
            shifted = x.times_plus(1.0 / math.log(2.0), round_off)
            k = shifted - round_off
            y = k.times_plus(-LOG_2_LOW, k.times_plus(-LOG_2_HIGH, x))
            series = f.double(1.0 / math.factorial(TERMS)).spread(LANES)
            for power in range(TERMS - 1, -1, -1):
                series = series.times_plus(y, 1.0 / math.factorial(power))
            two_to_k = ((shifted.bits() << 52) + (1023 << 52)).double()
            u.store(series * two_to_k, r)
        return f.end()

    def _means(self) -> Function:
        """``xbar`` of each set, its part of g, and the scales ``sqrt(w s)`` of its rows."""
        f = self.program.function(
            "means",
            *("count", "count", "count", "count", "doubles", "integers", "doubles", "doubles", "doubles"),
            *("doubles", "doubles", "doubles", "doubles", "integers", "integers"),
        )
        first, end, row, held, X, offsets, h, mass, length = f.arguments[:9]
        g, scale, xbar, lengths, set_at, pick_at = f.arguments[9:]
        with f.loop(first, end) as t:
            a, b = offsets.load(t) - row, offsets.load(t + 1) - row
            # two chains of sums, since each addition waits for the one before
            even, odd = (
                [Variable(f.double(0.0).spread(SIDE)) for _ in range(len(self.pieces) + 1)] for _ in range(2)
            )

            def add(r: Value, sums: list[Variable]) -> None:
                root = h.load(r).spread(SIDE)
                e, x = root * root, X.at((row + r) * self.K)
                for (k, m), total in zip(self.pieces, sums[:-1], strict=True):
                    total.set(x.load_first(m, k, SIDE).times_plus(e, total.get()))
                sums[-1].set(sums[-1].get() + e)

            with f.loop(a, b - 1, 2) as r:
                add(r, even)
                add(r + 1, odd)
            size = b - a
            with f.when(size > (size / 2) * 2):
                add(b - 1, even)
            place, weight = held + t - first, mass.load(t)
            inverse = f.double(1.0).spread(SIDE) / (even[-1].get() + odd[-1].get())
            chosen = X.at(pick_at.load(place))
            for (k, m), left, right in zip(self.pieces, even[:-1], odd[:-1], strict=True):
                mean = (left.get() + right.get()) * inverse
                xbar.store(mean, place * self.padded + k)
                difference = mean - chosen.load_first(m, k, SIDE)
                g.store(difference.times_plus(weight, g.load(k, SIDE)), k)
            set_at.store(place * self.padded, place)
            lengths.store(length.load(t), place)
            root = (inverse.lane(0) * weight).sqrt()
            with f.loop(a, b, SIDE) as r:  # as above
                scale.store(h.load(r, SIDE) * root, r)
        return f.end()

    def _differences(self) -> Function:
        """``scale (left - right)`` of rows in fours, written as columns."""
        f = self.program.function(
            "differences", "doubles", "integers", "doubles", "integers", "doubles", "count", "doubles"
        )
        left, left_at, right, right_at, scale, n, columns = f.arguments
        with f.loop(0, n, SIDE) as r:
            pairs = [(left.at(left_at.load(r + j)), right.at(right_at.load(r + j))) for j in range(SIDE)]
            factor = scale.load(r, SIDE)
            for k, m in self.pieces:
                a, b, c, d = (x.load_first(m, k, SIDE) - y.load_first(m, k, SIDE) for x, y in pairs)
                for odd in (0, 1):
                    low = a.shuffle(b, (odd, 4 + odd, 2 + odd, 6 + odd))
                    high = c.shuffle(d, (odd, 4 + odd, 2 + odd, 6 + odd))
                    for j, lanes in ((odd, (0, 1, 4, 5)), (2 + odd, (2, 3, 6, 7))):
                        columns.store(factor * low.shuffle(high, lanes), r + (k + j) * self.long)
        return f.end()

    def _products(self) -> Function:
        """``sums += c'c`` for n columns c held transposed, tile by tile; rows ahead are asked for meanwhile."""
        on_diagonal, off_diagonal = self._tile("on", True), self._tile("off", False)
        f = self.program.function("products", "doubles", "count", "doubles", "doubles")
        columns, n, sums, ahead = f.arguments
        tile, fetched, blocks = Variable(f.integer(0)), Variable(f.integer(0)), len(self.pieces)
        share = (n * self.K) / self.n_tiles  # as many numbers as the columns were made from, in all

        def done() -> None:
            tile.set(tile.get() + SIDE**2 * LANES)
            with f.loop(0, share, 4 * LANES) as k:  # a line of a cache holds 8 numbers
                for line in range(4):
                    ahead.prefetch(fetched.get() + k + line * LANES)
            fetched.set(fetched.get() + share)

        with f.loop(0, blocks) as a:
            left = columns.at(a * (SIDE * self.long))
            f.call(on_diagonal, left, left, n, sums.at(tile.get()))
            done()
            with f.loop(a + 1, blocks) as b:
                f.call(off_diagonal, left, columns.at(b * (SIDE * self.long)), n, sums.at(tile.get()))
                done()
        return f.end()

    def _tile(self, name: str, diagonal: bool) -> Function:
        """Products of four columns with four, each sum in the lanes of one register."""
        f = self.program.function(name, "doubles", "doubles", "count", "doubles")
        left, right, n, sums = f.arguments
        entries = [(i, j) for i in range(SIDE) for j in range(i if diagonal else 0, SIDE)]
        totals = {(i, j): Variable(sums.load((SIDE * i + j) * LANES, LANES)) for i, j in entries}
        with f.loop(0, n, LANES) as r:
            x = [left.load(r + i * self.long, LANES) for i in range(SIDE)]
            y = x if diagonal else [right.load(r + j * self.long, LANES) for j in range(SIDE)]
            for (i, j), total in totals.items():
                total.set(x[i].times_plus(y[j], total.get()))
        for (i, j), total in totals.items():
            sums.store(total.get(), (SIDE * i + j) * LANES)
        return f.end()
