// Alpha-entmax of many short rows for alpha = 1.5 and 2, forward and backward.
//
// Why: torch sorts rows of ten numbers one by one and then passes over them some ten times. Here
// each vector lane holds a row of its own, and tau is found without sorting.
//
// Letters: R rows of a block, F entries of a row. Entry j of row r of block b lies at
// b * block_stride + r * row_stride + j * entry_stride.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

constexpr int MAX_ENTRIES = 256;
constexpr int MAX_STEPS = 64;  // of Newton's method; five are typical

INLINE vec larger(vec a, vec b) { return a > b ? a : b; }

INLINE bool any(ivec mask) {
    int32_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= mask[i];
    return found != 0;
}

INLINE vec root(vec x) {
    vec out;
    for (int i = 0; i < LANES; ++i) out[i] = __builtin_sqrtf(x[i]);
    return out;
}

struct Layout {
    int64_t blocks, rows, entries, block_stride, row_stride, entry_stride;
};

INLINE void load(const Layout& at, const float* source, int n, vec* out) {
    for (int64_t j = 0; j < at.entries; ++j) {
        const float* from = source + j * at.entry_stride;
        vec x{};
        if (at.row_stride == 1 && n == LANES) {
            std::memcpy(&x, from, sizeof x);
        } else {
            for (int i = 0; i < n; ++i) x[i] = from[i * at.row_stride];
        }
        out[j] = x;
    }
}

INLINE void store(const Layout& at, float* target, int n, const vec* in) {
    for (int64_t j = 0; j < at.entries; ++j) {
        float* to = target + j * at.entry_stride;
        const vec x = in[j];
        if (at.row_stride == 1 && n == LANES) {
            std::memcpy(to, &x, sizeof x);
        } else {
            for (int i = 0; i < n; ++i) to[i * at.row_stride] = x[i];
        }
    }
}

// body(offset of the first row, rows) for groups of up to LANES rows.
template <class Body>
INLINE void over_groups(const Layout& at, int threads, Body body) {
    const int64_t groups = (at.rows + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
    {
        const FlushDenormals flush;
#pragma omp for schedule(static)
        for (int64_t index = 0; index < at.blocks * groups; ++index) {
            const int64_t row = index % groups * LANES;
            body(index / groups * at.block_stride + row * at.row_stride,
                 int(std::min<int64_t>(LANES, at.rows - row)));
        }
    }
}

// Sums over the support {z > tau} that Newton's method needs.
template <int TWICE_ALPHA>
INLINE vec newton_step(const vec* z, int64_t F, vec tau) {
    vec sum{}, other{};
    for (int64_t j = 0; j < F; ++j) {
        const vec above = z[j] - tau;
        const vec x = above > 0.0f ? above : vec{};
        sum += x;
        if (TWICE_ALPHA == 4)
            other += above > 0.0f ? splat(1.0f) : vec{};
        else
            other += x * x;
    }
    const vec none = splat(1e-30f);
    if (TWICE_ALPHA == 4) return (sum - 1.0f) / larger(other, none);
    // On the root of the sum of squares, minus 1, instead of that sum: it is convex as well,
    // and straight where one entry is in the support.
    const vec norm = root(other);
    return (norm - 1.0f) * norm / larger(sum, none);
}

template <int TWICE_ALPHA>
INLINE void probabilities(vec* z, int64_t F) {
    vec top = z[0];
    ivec broken = z[0] != z[0];
    for (int64_t j = 1; j < F; ++j) {
        top = larger(z[j], top);
        broken |= z[j] != z[j];
    }
    top = larger(top, splat(-3e38f));  // a row of minus infinities gets zeros
    for (int64_t j = 0; j < F; ++j) z[j] = (z[j] - top) * (TWICE_ALPHA == 3 ? 0.5f : 1.0f);
    const vec bad = broken ? splat(NAN) : vec{};
    // At tau = -1 the largest entry, 0, gives 1 alone: tau is at least that, and as the function
    // is convex and falls, every step stays below the root.
    vec tau = splat(-1.0f);
    for (int step = 0; step < MAX_STEPS; ++step) {
        const vec change = newton_step<TWICE_ALPHA>(z, F, tau);
        tau = tau + change;
        if (!any(change > 1e-7f)) break;
    }
    for (int64_t j = 0; j < F; ++j) {
        const vec above = z[j] - tau;
        const vec x = (above > 0.0f ? above : vec{}) + bad;
        z[j] = TWICE_ALPHA == 3 ? x * x : x;
    }
}

template <int TWICE_ALPHA>
void forward(const Layout& at, const float* x, float* p, int threads) {
    over_groups(at, threads, [=](int64_t offset, int n) __attribute__((always_inline)) {
        vec z[MAX_ENTRIES];
        load(at, x + offset, n, z);
        probabilities<TWICE_ALPHA>(z, at.entries);
        store(at, p + offset, n, z);
    });
}

// dx = s (dp - sum(s dp) / sum(s)), where s = p^(2 - alpha) in the support.
template <int TWICE_ALPHA>
void backward(const Layout& at, const float* p, const float* dp, float* dx, int threads) {
    over_groups(at, threads, [=](int64_t offset, int n) __attribute__((always_inline)) {
        vec s[MAX_ENTRIES], d[MAX_ENTRIES];
        load(at, p + offset, n, s);
        load(at, dp + offset, n, d);
        vec total{}, weighted{};
        for (int64_t j = 0; j < at.entries; ++j) {
            if (TWICE_ALPHA == 3) s[j] = root(s[j]);
            if (TWICE_ALPHA == 4) s[j] = s[j] > 0.0f ? splat(1.0f) : s[j];
            total += s[j];
            weighted += s[j] * d[j];
        }
        const vec mean = weighted / (total == 0.0f ? splat(1.0f) : total);
        for (int64_t j = 0; j < at.entries; ++j) d[j] = s[j] * (d[j] - mean);
        store(at, dx + offset, n, d);
    });
}

}  // namespace

extern "C" {

// x -> p, in the same layout. `twice_alpha` is 3 or 4.
void entmax_forward(int64_t blocks, int64_t rows, int64_t entries, int64_t block_stride,
                    int64_t row_stride, int64_t entry_stride, int32_t twice_alpha, const float* x,
                    float* p, int32_t threads) {
    const Layout at{blocks, rows, entries, block_stride, row_stride, entry_stride};
    if (twice_alpha == 3) forward<3>(at, x, p, threads);
    if (twice_alpha == 4) forward<4>(at, x, p, threads);
}

// p and the gradient towards it -> the gradient towards x, all in the same layout.
void entmax_backward(int64_t blocks, int64_t rows, int64_t entries, int64_t block_stride,
                     int64_t row_stride, int64_t entry_stride, int32_t twice_alpha, const float* p,
                     const float* dp, float* dx, int32_t threads) {
    const Layout at{blocks, rows, entries, block_stride, row_stride, entry_stride};
    if (twice_alpha == 3) backward<3>(at, p, dp, dx, threads);
    if (twice_alpha == 4) backward<4>(at, p, dp, dx, threads);
}
}
