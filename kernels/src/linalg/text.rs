//! The kernels' text. `@name@` stands for a number, `@in:pointer,index@` for an element read in double precision, `@out:pointer,index,value@` for one
//! written, `@sum:x@`, `@max:x@` and `@min:x@` for what all threads of the block make of a variable, `@fail:reason@` for a code in the status word.

/// The lower triangle, a column at a time.
pub(super) const CHOLESKY: &str = "
    double *const a = work, *const column = work + @n@ * @n@;
    for (i64 e = TID; e < @n@ * @n@; e += @threads@) a[e] = e % @n@ <= e / @n@ ? @in:given,from + e@ : 0;
    bool bad = false;
    for (i64 k = 0; k < @n@; k++) {
        BARRIER();
        const double d = a[k * @n@ + k];
        // Not so for NaN either.
        if (!(d > 0)) { bad = true; break; }
        const double root = m_sqrt(d);
        for (i64 i = k + TID; i < @n@; i += @threads@) column[i] = i == k ? root : a[i * @n@ + k] / root;
        BARRIER();
        for (i64 i = k + TID; i < @n@; i += @threads@) a[i * @n@ + k] = column[i];
        for (i64 i = k + 1 + warp; i < @n@; i += @warps@)
            for (i64 j = k + 1 + lane; j <= i; j += 32) a[i * @n@ + j] -= column[i] * column[j];
    }
    BARRIER();
    if (bad) {
        if (TID == 0) @fail:0@
    } else {
        for (i64 e = TID; e < @n@ * @n@; e += @threads@) @out:y,from + e,a[e]@
    }
";

/// Elimination on a matrix and what stands to its right, then back.
pub(super) const ELIMINATE: &str = "
    SHARED i32 pivot;
    double *const a = work;
    for (i64 e = TID; e < @n@ * @wide@; e += @threads@) {
        const i64 i = e / @wide@, j = e % @wide@;
        a[e] = j < @n@ ? @in:given,from + i * @n@ + j@ : @right@;
    }
    double det = 1;
    bool bad = false;
    for (i64 k = 0; k < @n@; k++) {
        BARRIER();
        if (warp == 0) {
            double best = -1, where = (double)k;
            for (i64 i = k + lane; i < @n@; i += 32) {
                const double v = m_fabs(a[i * @wide@ + k]);
                if (v > best) { best = v; where = (double)i; }
            }
            for (int m = 16; m > 0; m >>= 1) {
                const double b = shuffle_xor(best, m), w = shuffle_xor(where, m);
                if (b > best || (b == best && w < where)) { best = b; where = w; }
            }
            if (lane == 0) pivot = (i32)where;
        }
        BARRIER();
        const i64 p = pivot;
        if (p != k) {
            det = -det;
            for (i64 j = k + TID; j < @wide@; j += @threads@) {
                const double x = a[k * @wide@ + j];
                a[k * @wide@ + j] = a[p * @wide@ + j];
                a[p * @wide@ + j] = x;
            }
        }
        BARRIER();
        const double d = a[k * @wide@ + k];
        det = det * d;
        if (d == 0) { bad = true; break; }
        for (i64 i = k + 1 + warp; i < @n@; i += @warps@) {
            const double f = a[i * @wide@ + k] / d;
            for (i64 j = k + 1 + lane; j < @wide@; j += 32) a[i * @wide@ + j] -= f * a[k * @wide@ + j];
        }
    }
";

/// From the last row up; what stands to the right is the result.
pub(super) const BACK: &str = "
    if (bad) {
        if (TID == 0) @fail:1@
    } else {
        for (i64 k = @n@ - 1; k >= 0; k--) {
            BARRIER();
            const double d = a[k * @wide@ + k];
            for (i64 c = @n@ + TID; c < @wide@; c += @threads@) a[k * @wide@ + c] /= d;
            BARRIER();
            for (i64 e = TID; e < k * @r@; e += @threads@) {
                const i64 i = e / @r@, c = @n@ + e % @r@;
                a[i * @wide@ + c] -= a[i * @wide@ + k] * a[k * @wide@ + c];
            }
        }
        BARRIER();
        for (i64 e = TID; e < @n@ * @r@; e += @threads@) @out:y,entry * (@n@ * @r@) + e,a[e / @r@ * @wide@ + @n@ + e % @r@]@
    }
";

/// What elimination multiplied up.
pub(super) const DET: &str = "
    if (TID == 0) @out:y,entry,(bad ? 0.0 : det)@
";

/// Columns one behind the other; below the diagonal, what reflects.
pub(super) const QR: &str = "
    double *const a = work, *const diagonal = work + @m@ * @n@, *const factor = diagonal + @k@, *const turned = factor + @k@ + warp * @m@;
    for (i64 e = TID; e < @m@ * @n@; e += @threads@) a[e % @n@ * @m@ + e / @n@] = @in:given,from + e@;
    for (i64 j = 0; j < @k@; j++) {
        double *const v = a + j * @m@;
        BARRIER();
        const double alpha = v[j];
        double squares = 0;
        for (i64 i = j + TID; i < @m@; i += @threads@) squares += v[i] * v[i];
        @sum:squares@
        const double norm = m_sqrt(squares), beta = alpha < 0 ? norm : -norm;
        const double by = norm == 0 ? 0.0 : 1.0 / (squares + m_fabs(alpha) * norm);
        BARRIER();
        if (TID == 0) { v[j] = alpha - beta; diagonal[j] = beta; factor[j] = by; }
        BARRIER();
        for (i64 c = j + 1 + warp; c < @n@; c += @warps@) {
            double *const x = a + c * @m@;
            double dot = 0;
            for (i64 i = j + (lane - j % 32 + 32) % 32; i < @m@; i += 32) dot += v[i] * x[i];
            for (int m = 16; m > 0; m >>= 1) dot += shuffle_xor(dot, m);
            for (i64 i = j + (lane - j % 32 + 32) % 32; i < @m@; i += 32) x[i] -= by * dot * v[i];
        }
    }
    BARRIER();
    for (i64 e = TID; e < @k@ * @n@; e += @threads@) {
        const i64 i = e / @n@, j = e % @n@;
        const double x = j < i ? 0.0 : j == i ? diagonal[i] : a[j * @m@ + i];
        @out:r,entry * (@k@ * @n@) + e,(j >= i && diagonal[i] < 0 ? -x : x)@
    }
    // A column of the unit matrix a warp, each lane with elements of its own.
    for (i64 c = warp; c < @k@; c += @warps@) {
        for (i64 i = lane; i < @m@; i += 32) turned[i] = i == c ? 1.0 : 0.0;
        for (i64 j = c; j >= 0; j--) {
            const double *const v = a + j * @m@;
            double dot = 0;
            for (i64 i = j + (lane - j % 32 + 32) % 32; i < @m@; i += 32) dot += v[i] * turned[i];
            for (int m = 16; m > 0; m >>= 1) dot += shuffle_xor(dot, m);
            for (i64 i = j + (lane - j % 32 + 32) % 32; i < @m@; i += 32) turned[i] -= factor[j] * dot * v[i];
        }
        for (i64 i = lane; i < @m@; i += 32) @out:q,entry * (@m@ * @k@) + i * @k@ + c,(diagonal[c] < 0 ? -turned[i] : turned[i])@
    }
";

/// The largest magnitude, whether all are finite, and by what the matrix is divided so that squares neither overflow nor vanish.
pub(super) const LOOK: &str = "
    double largest = 0, odd = 0;
    for (i64 e = TID; e < @m@ * @n@; e += @threads@) {
        const double x = @in:given,from + e@;
        if (x - x != 0) odd = 1;
        largest = f_max(largest, m_fabs(x));
    }
    @max:largest@
    @max:odd@
    const double unit = largest > 1e140 || (largest < 1e-140 && largest > 0) ? largest : 1.0;
    if (odd != 0) {
        if (TID == 0) @fail:3@
        continue;
    }
";

/// The pair `t` of a round of a tournament.
pub(super) const PAIR: &str = "
            i64 i = t == 0 ? @even@ - 1 : (round + t) % (@even@ - 1), j = t == 0 ? round : (round - t + @even@ - 1) % (@even@ - 1);
            if (i > j) { const i64 x = i; i = j; j = x; }
            const bool there = j < @q@;
";

/// `g` has `q` columns of `p >= q`: the matrix, or its transpose where that is taller.
pub(super) const SVD: &str = "
    double *const g = work, *const v = g + @p@ * @q@, *const length = v + @q@ * @q@, *const dots = length + @q@;
    double total = 0;
    for (i64 e = TID; e < @m@ * @n@; e += @threads@) {
        const double x = @in:given,from + e@ / unit;
        g[@place@] = x;
        total += x * x;
    }
    for (i64 e = TID; e < @q@ * @q@; e += @threads@) v[e] = e / @q@ == e % @q@ ? 1.0 : 0.0;
    @sum:total@
    // Columns as short as this are rounding errors.
    const double nothing = m_sqrt(total) * @epsilon@ * 4.0;
    i32 sweep = 0;
    for (; sweep < @sweeps@; sweep++) {
        BARRIER();
        double moved = 0;
        for (i64 round = 0; round < @even@ - 1; round++) {
            for (i64 t = warp; t < @even@ / 2; t += @warps@) {
                @pair@
                if (!there) continue;
                double *const x = g + i * @p@, *const y = g + j * @p@;
                double xx = 0, yy = 0, xy = 0;
                for (i64 k = lane; k < @p@; k += 32) { xx += x[k] * x[k]; yy += y[k] * y[k]; xy += x[k] * y[k]; }
                for (int m = 16; m > 0; m >>= 1) {
                    xx += shuffle_xor(xx, m);
                    yy += shuffle_xor(yy, m);
                    xy += shuffle_xor(xy, m);
                }
                const double lx = m_sqrt(xx), ly = m_sqrt(yy);
                if (lx <= nothing || ly <= nothing || m_fabs(xy) <= @epsilon@ * lx * ly) continue;
                moved = 1;
                const double z = (yy - xx) / (2.0 * xy);
                const double tan = (z < 0 ? -1.0 : 1.0) / (m_fabs(z) + m_sqrt(1.0 + z * z));
                const double c = 1.0 / m_sqrt(1.0 + tan * tan), s = c * tan;
                for (i64 k = lane; k < @p@; k += 32) {
                    const double a0 = x[k], b0 = y[k];
                    x[k] = c * a0 - s * b0;
                    y[k] = s * a0 + c * b0;
                }
                double *const vx = v + i * @q@, *const vy = v + j * @q@;
                for (i64 k = lane; k < @q@; k += 32) {
                    const double a0 = vx[k], b0 = vy[k];
                    vx[k] = c * a0 - s * b0;
                    vy[k] = s * a0 + c * b0;
                }
            }
            BARRIER();
        }
        @max:moved@
        if (moved == 0) break;
    }
    BARRIER();
    if (sweep == @sweeps@) {
        if (TID == 0) @fail:2@
        continue;
    }
    for (i64 c = warp; c < @q@; c += @warps@) {
        double *const x = g + c * @p@;
        double squares = 0;
        for (i64 k = lane; k < @p@; k += 32) squares += x[k] * x[k];
        for (int m = 16; m > 0; m >>= 1) squares += shuffle_xor(squares, m);
        const double l = m_sqrt(squares);
        if (lane == 0) length[c] = l;
        for (i64 k = lane; k < @p@; k += 32) x[k] = l <= nothing ? 0.0 : x[k] / l;
    }
    BARRIER();
    // Columns of nothing: any direction at right angles to all others will do. The unit vector that is farthest from them is made so, twice as
    // rounding leaves something the first time.
    for (i64 c = 0; c < @q@; c++) {
        if (length[c] > nothing) continue;
        double top = -1, which = 0;
        for (i64 i = TID; i < @p@; i += @threads@) {
            double rest = 1;
            for (i64 o = 0; o < @q@; o++) rest -= g[o * @p@ + i] * g[o * @p@ + i];
            if (rest > top) { top = rest; which = (double)i; }
        }
        const double mine = top;
        @max:top@
        if (mine != top) which = @p@;
        @min:which@
        double *const x = g + c * @p@;
        for (i64 i = TID; i < @p@; i += @threads@) x[i] = i == (i64)which ? 1.0 : 0.0;
        for (int turn = 0; turn < 2; turn++) {
            BARRIER();
            for (i64 o = warp; o < @q@; o += @warps@) {
                double dot = 0;
                for (i64 k = lane; k < @p@; k += 32) dot += o == c ? 0.0 : g[o * @p@ + k] * x[k];
                for (int m = 16; m > 0; m >>= 1) dot += shuffle_xor(dot, m);
                if (lane == 0) dots[o] = dot;
            }
            BARRIER();
            for (i64 i = TID; i < @p@; i += @threads@) {
                double e = x[i];
                for (i64 o = 0; o < @q@; o++) if (o != c) e -= dots[o] * g[o * @p@ + i];
                x[i] = e;
            }
        }
        double squares = 0;
        for (i64 i = TID; i < @p@; i += @threads@) squares += x[i] * x[i];
        @sum:squares@
        const double l = m_sqrt(squares);
        for (i64 i = TID; i < @p@; i += @threads@) x[i] = x[i] / l;
        BARRIER();
    }
    for (i64 c = warp; c < @q@; c += @warps@) {
        i64 rank = 0;
        for (i64 o = 0; o < @q@; o++) rank += length[o] > length[c] || (length[o] == length[c] && o < c);
        if (lane == 0) @out:s,entry * @q@ + rank,length[c] * unit@
        for (i64 i = lane; i < @p@; i += 32) @tall@
        for (i64 i = lane; i < @q@; i += 32) @square@
    }
";

/// Rotations of rows and of columns, until all off the diagonal is nothing.
pub(super) const EIGH: &str = "
    double *const a = work, *const v = a + @n@ * @n@, *const cosine = v + @n@ * @n@, *const sine = cosine + @even@ / 2;
    double total = 0;
    for (i64 e = TID; e < @n@ * @n@; e += @threads@) {
        const i64 i = e / @n@, j = e % @n@;
        // The lower triangle speaks for both.
        const double x = (j <= i ? @in:given,from + e@ : @in:given,from + j * @n@ + i@) / unit;
        a[e] = x;
        v[e] = i == j ? 1.0 : 0.0;
        total += x * x;
    }
    @sum:total@
    const double nothing = m_sqrt(total) * @epsilon@;
    i32 sweep = 0;
    for (; sweep < @sweeps@; sweep++) {
        BARRIER();
        double moved = 0;
        for (i64 round = 0; round < @even@ - 1; round++) {
            for (i64 t = TID; t < @even@ / 2; t += @threads@) {
                @pair@
                double c = 1, s = 0;
                if (there && m_fabs(a[i * @n@ + j]) > nothing) {
                    const double z = (a[j * @n@ + j] - a[i * @n@ + i]) / (2.0 * a[i * @n@ + j]);
                    const double tan = (z < 0 ? -1.0 : 1.0) / (m_fabs(z) + m_sqrt(1.0 + z * z));
                    c = 1.0 / m_sqrt(1.0 + tan * tan);
                    s = c * tan;
                    moved = 1;
                }
                cosine[t] = c;
                sine[t] = s;
            }
            BARRIER();
            for (i64 t = warp; t < @even@ / 2; t += @warps@) {
                @pair@
                const double c = cosine[t], s = sine[t];
                if (!there || s == 0) continue;
                for (i64 k = lane; k < @n@; k += 32) {
                    const double x = a[i * @n@ + k], y = a[j * @n@ + k];
                    a[i * @n@ + k] = c * x - s * y;
                    a[j * @n@ + k] = s * x + c * y;
                }
            }
            BARRIER();
            for (i64 k = warp; k < @n@; k += @warps@) {
                for (i64 t = lane; t < @even@ / 2; t += 32) {
                    @pair@
                    const double c = cosine[t], s = sine[t];
                    if (!there || s == 0) continue;
                    const double x = a[k * @n@ + i], y = a[k * @n@ + j];
                    // What the rotation is there for is zero to the bit.
                    a[k * @n@ + i] = k == j ? 0.0 : c * x - s * y;
                    a[k * @n@ + j] = k == i ? 0.0 : s * x + c * y;
                    const double vx = v[k * @n@ + i], vy = v[k * @n@ + j];
                    v[k * @n@ + i] = c * vx - s * vy;
                    v[k * @n@ + j] = s * vx + c * vy;
                }
            }
            BARRIER();
        }
        @max:moved@
        if (moved == 0) break;
    }
    BARRIER();
    if (sweep == @sweeps@) {
        if (TID == 0) @fail:2@
        continue;
    }
    for (i64 c = warp; c < @n@; c += @warps@) {
        const double mine = a[c * @n@ + c];
        i64 rank = 0;
        for (i64 o = 0; o < @n@; o++) {
            const double other = a[o * @n@ + o];
            rank += other < mine || (other == mine && o < c);
        }
        if (lane == 0) @out:values,entry * @n@ + rank,mine * unit@
        for (i64 i = lane; i < @n@; i += 32) @out:vectors,entry * (@n@ * @n@) + i * @n@ + rank,v[i * @n@ + c]@
    }
";
