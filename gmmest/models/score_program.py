"""How the score of a logit is made in machine code: the program behind :func:`.score_sums`.

For choice sets with weights w, lengths v, features X and one chosen row each, it makes

    g = sum_i w_i d_i,    G = sum_i w_i X_i'(diag(s_i) - s_i s_i')X_i,    S = sum_i v_i^2 d_i d_i',

with ``d_i = xbar_i`` less the chosen row, ``xbar_i = sum_j s_ij x_ij``: what :func:`.share_sums` makes for Z = X,
where v = w/sqrt(f) with frequencies f.

Rows are taken a chunk at a time, whole sets, as many as stay in the processor's first cache until they are centred:

1. utilities ``u = x'theta``, four rows at once;
2. utilities less the largest of their set;
3. ``h = exp((u - max u)/2)``, eight rows at once.  The half is the root that step 5 wants, and its square the
   exponential;
4. for each set ``1 / sum h^2``, and the root of w times that;
5. for each set its mean ``xbar = sum h^2 x / sum h^2`` and d, and its rows ``c = sqrt(w s)(xbar - x)``, centred before
   they are multiplied as in :mod:`.shares`;
6. when there is room for no further chunk, the products of all rows that are held: ``G += c'c``, the upper triangle,
   as many entries at a time as there are registers.  Meanwhile the next rows are asked for from memory.  The same makes
   S of d.

Every entry of g, G and S is a sum over rows, or sets, in their order: how many lanes a processor has changes no bit.

Cost for n rows, N sets, K features: n(K + 1) numbers read once; K(K + 1)/2 multiplications and additions for a row
and as many for a set, at more than half of the speed of a large matrix product (docs/speed.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gmmest.models.machine_code import Address, Function, Program, Value, Variable
from gmmest.models.score_kernel import WIDE, Layout

__all__ = ["compiled"]

PIECE = 4
"""Features that are taken together, and rows whose utilities are."""
AHEAD = 32
"""Rows between what is worked on next and what is asked for: nearer ones come by themselves."""
UNITS = 6
"""Pieces of four rows of the matrix that are summed at once: 24 of 32 registers."""
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


class _Score:
    """The functions for one layout, whose sizes are constants of the code."""

    def __init__(self, layout: Layout) -> None:
        self.K, self.stride, self.chunk, self.rows = layout.features, layout.stride, layout.chunk, layout.rows
        self.pieces = [(k, min(PIECE, self.K - k)) for k in range(0, self.K, PIECE)]
        self.program = Program("score")

    def all(self) -> None:
        """The chunks one after another.

        Arguments: ``n_sets``; ``square``, 1 or 0, whether S is wanted; what is read (theta to length); what is
        added to (g, (K,) in whole vectors; G and S, (K, K) in rows of ``stride``, of which the upper triangle
        counts); and room of the program's own.
        """
        utilities, below, exponentials = self._utilities(), self._below_the_largest(), self._exponentials()
        inverses, centred, products = self._inverses(), self._centred(), self._products()
        f = self.program.function(
            "all", "count", "count", "doubles", "integers", *["doubles"] * 13, "integers"
        )
        n_sets, square, theta, offsets, X, chosen, mass, length, g, G, S = f.arguments[:11]
        u, h, inverse, root, c, d, pick = f.arguments[11:]
        last = offsets.load(n_sets) - 1
        begin, filled, held = (Variable(f.integer(0)) for _ in range(3))

        def add(rows: Address, n: Variable, total: Address, ahead: Value) -> None:
            f.call(products, rows, n.get(), total, X.at(ahead * self.K))
            n.set(f.integer(0))

        with f.loop_while(lambda: begin.get() < n_sets):
            first = begin.get()
            row = offsets.load(first)
            end = self._end_of_chunk(f, first, n_sets, offsets)
            sets, n = end - first, offsets.load(end) - row
            with f.when(filled.get() + n > self.rows):
                add(c, filled, G, row)
            with f.when(held.get() + sets > self.rows):
                add(d, held, S, row)
            f.call(utilities, X, theta, row, last, n, u)
            f.call(below, first, end, row, offsets, u, chosen, h, pick)
            f.call(exponentials, n, h)
            f.call(inverses, first, end, row, offsets, h, mass, inverse, root)
            f.call(
                centred,
                *(first, end, row, offsets, X, h, inverse, root, pick, mass, length),
                *(g, c.at(filled.get() * self.stride), d.at(held.get() * self.stride)),
            )
            filled.set(filled.get() + n)
            held.set(held.get() + sets * square)
            begin.set(end)
        add(c, filled, G, last)
        add(d, held, S, last)
        f.end()

    def _end_of_chunk(self, f: Function, first: Value, n_sets: Value, offsets: Address) -> Value:
        """One set, and those after it up to a chunk, in rows."""
        end, row = Variable(first + 1), offsets.load(first)

        def one_more() -> Value:
            after = end.get() + 1
            there = after <= n_sets
            within = offsets.load(there.choose(after, n_sets)) - row <= self.chunk
            return there & within

        with f.loop_while(one_more):
            end.set(end.get() + 1)
        return end.get()

    def _utilities(self) -> Function:
        """``u_r = x_r'theta``, for rows in fours; in the place of one after the last there is the last again."""
        f = self.program.function("utilities", "doubles", "doubles", "count", "count", "count", "doubles")
        X, theta, row, last, n, u = f.arguments
        slopes = [theta.load_first(m, k, PIECE) for k, m in self.pieces]

        def four(r: Value, rows: list[Value]) -> None:
            sums = []
            for at in rows:
                x, total = X.at(at * self.K), f.double(0.0).spread(PIECE)
                for (k, m), slope in zip(self.pieces, slopes, strict=True):
                    total = x.load_first(m, k, PIECE).times_plus(slope, total)
                sums.append(total)
            low, high = (
                a.shuffle(b, (0, 4, 2, 6)) + a.shuffle(b, (1, 5, 3, 7)) for a, b in (sums[:2], sums[2:])
            )
            u.store(low.shuffle(high, (0, 1, 4, 5)) + low.shuffle(high, (2, 3, 6, 7)), r)

        whole = (n / PIECE) * PIECE
        with f.loop(0, whole, PIECE) as r:
            four(r, [row + r + j for j in range(PIECE)])
        with f.loop(whole, n, PIECE) as r:
            four(r, [(row + r + j > last).choose(last, row + r + j) for j in range(PIECE)])
        return f.end()

    def _below_the_largest(self) -> Function:
        """Utilities less the largest of their set, and its chosen row."""
        f = self.program.function(
            "below",
            *("count", "count", "count", "integers", "doubles", "doubles", "doubles", "integers"),
        )
        first, end, row, offsets, u, chosen, below, pick = f.arguments
        with f.loop(first, end) as t:
            a, b = offsets.load(t) - row, offsets.load(t + 1) - row
            largest, place = Variable(u.load(a)), Variable(a)
            with f.loop(a, b) as r:
                utility = u.load(r)
                largest.set((utility > largest.get()).choose(utility, largest.get()))
                place.set((chosen.load(row + r) > 0.0).choose(r, place.get()))
            pick.store(row + place.get(), t - first)
            with f.loop(a, b, PIECE) as r:  # what is written beyond the set, the next one writes anew
                below.store(u.load(r, PIECE) - largest.get(), r)
        return f.end()

    def _exponentials(self) -> Function:
        """``exp(u/2)`` in the place of u <= 0, to 1 unit in the last place; not a number stays so.

        ``u/2 = k log 2 + y`` with k whole and |y| <= log(2)/2, the series of exp at y, and k into the exponent.
        """
        f = self.program.function("exponentials", "count", "doubles")
        n, u = f.arguments
        round_off = 1.5 * 2.0**52  # a double beyond which there are no fractions: its last bits are k
        with f.loop(0, n, WIDE) as r:
            x = u.load(r, WIDE) * 0.5
            x = (x < SMALLEST).choose(f.double(SMALLEST).spread(WIDE), x)
            shifted = x.times_plus(1.0 / math.log(2.0), round_off)
            k = shifted - round_off
            y = k.times_plus(-LOG_2_LOW, k.times_plus(-LOG_2_HIGH, x))
            series = f.double(1.0 / math.factorial(TERMS)).spread(WIDE)
            for power in range(TERMS - 1, -1, -1):
                series = series.times_plus(y, 1.0 / math.factorial(power))
            two_to_k = ((shifted.bits() << 52) + (1023 << 52)).double()
            u.store(series * two_to_k, r)
        return f.end()

    def _inverses(self) -> Function:
        """``1 / sum h^2`` of each set, and ``sqrt(w / sum h^2)``."""
        f = self.program.function(
            "inverses",
            *("count", "count", "count", "integers", "doubles", "doubles", "doubles", "doubles"),
        )
        first, end, row, offsets, h, mass, inverse, root = f.arguments
        with f.loop(first, end) as t:
            total = Variable(f.double(0.0))
            with f.loop(offsets.load(t) - row, offsets.load(t + 1) - row) as r:
                total.set(h.load(r).times_plus(h.load(r), total.get()))
            one = f.double(1.0) / total.get()
            inverse.store(one, t - first)
            root.store((one * mass.load(t)).sqrt(), t - first)
        return f.end()

    def _centred(self) -> Function:
        """``xbar`` of each set, its part of g, ``v d``, and its rows ``sqrt(w s)(xbar - x)``."""
        f = self.program.function(
            "centred",
            *("count", "count", "count", "integers", "doubles", "doubles", "doubles", "doubles", "integers"),
            *("doubles", "doubles", "doubles", "doubles", "doubles"),
        )
        first, end, row, offsets, X, h, inverse, root, pick, mass, length, g, c, d = f.arguments
        with f.loop(first, end) as t:
            a, b = offsets.load(t) - row, offsets.load(t + 1) - row
            # two chains of sums, since each addition waits for the one before
            even, odd = ([Variable(f.double(0.0).spread(PIECE)) for _ in self.pieces] for _ in range(2))

            def add(r: Value, sums: list[Variable]) -> None:
                e, x = h.load(r) * h.load(r), X.at((row + r) * self.K)
                for (k, m), total in zip(self.pieces, sums, strict=True):
                    total.set(x.load_first(m, k, PIECE).times_plus(e, total.get()))

            with f.loop(a, b - 1, 2) as r:
                add(r, even)
                add(r + 1, odd)
            size = b - a
            with f.when(size > (size / 2) * 2):
                add(b - 1, even)
            i = t - first
            chosen, one, weight = X.at(pick.load(i) * self.K), inverse.load(i), mass.load(t)
            means = []
            for (k, m), left, right in zip(self.pieces, even, odd, strict=True):
                mean = (left.get() + right.get()) * one
                difference = mean - chosen.load_first(m, k, PIECE)
                g.store(difference.times_plus(weight, g.load(k, PIECE)), k)
                d.store(difference * length.load(t), i * self.stride + k)
                means.append(mean)
            with f.loop(a, b) as r:
                scale, x = h.load(r) * root.load(i), X.at((row + r) * self.K)
                for (k, m), mean in zip(self.pieces, means, strict=True):
                    c.store((mean - x.load_first(m, k, PIECE)) * scale, r * self.stride + k)
        return f.end()

    def _products(self) -> Function:
        """``total += c'c`` for n rows c, the upper triangle; the rows that come next are asked for meanwhile."""
        f = self.program.function("products", "doubles", "count", "doubles", "doubles")
        rows, n, total, ahead = f.arguments
        sweeps, lines = _sweeps(self.pieces[-1][0] + PIECE), range(0, self.K, WIDE)
        for turn, units in enumerate(sweeps):
            entries = [(a + i, b, lanes) for a, b, lanes in units for i in range(PIECE)]
            sums = [Variable(total.load(a * self.stride + b, lanes)) for a, b, lanes in entries]
            with f.loop(0, n) as r:
                row = rows.at(r * self.stride)
                right = {(b, lanes): row.load(b, lanes) for _, b, lanes in units}
                left = {a: row.load(a) for a, _, _ in entries}
                for (a, b, lanes), entry in zip(entries, sums, strict=True):
                    entry.set(right[b, lanes].times_plus(left[a].spread(lanes), entry.get()))
                for k in lines[turn :: len(sweeps)]:
                    ahead.prefetch((r + AHEAD) * self.K + k)
            for (a, b, _), entry in zip(entries, sums, strict=True):
                total.store(entry.get(), a * self.stride + b)
        return f.end()


def _sweeps(padded: int) -> list[list[tuple[int, int, int]]]:
    """Units (first row, first column, lanes) that cover the upper triangle, in sweeps that registers can hold."""
    units = []
    for a in range(0, padded, PIECE):
        b = a
        while b < padded:
            lanes = WIDE if b % WIDE == 0 and b + WIDE <= padded else PIECE
            units.append((a, b, lanes))
            b += lanes
    return [units[k : k + UNITS] for k in range(0, len(units), UNITS)]
