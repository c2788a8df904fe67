// Cross-entropy of scores that share a label: of a block of all items, and of items chosen by row.
//
// Why: softplus, sigmoid and their weights as separate operations read and write the scores some
// ten times. Here they are read and written once, and both functions come from one exponential and
// one division. Chosen items are read where they lie: gathering 1,500 of them for each of 512 rows
// makes a tensor of 200 MB, and autograd several more.
//
// Results do not depend on the number of threads: a row's sums are one thread's, and so are an
// item's, which adds the rows in order.
//
// Letters: B rows, J columns, D width, G groups of `length` rows, n items chosen for a group.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

INLINE vec bits_and(vec x, uint32_t mask) {
    uvec bits;
    std::memcpy(&bits, &x, sizeof x);
    bits &= mask;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// softplus(x), and sigmoid(x) in its place. With e = exp(-|x|): log(1 + e) = 2 artanh(t) for
// t = e / (2 + e) <= 1/3, which keeps its digits where e is tiny; 2 artanh(t) / t as a polynomial
// in t^2, interpolated at Chebyshev's nodes to 4e-9.
INLINE vec softplus(vec& x) {
    const vec e = exponential(-bits_and(x, 0x7FFFFFFF));
    const vec one = splat(1.0f), two = splat(2.0f);
    const vec inverse = one / ((one + e) * (two + e));
    const vec t = e * (one + e) * inverse, square = t * t;
    vec series = splat(0.281577783f);
    series = series * square + splat(0.279651578f);
    series = series * square + splat(0.400245952f);
    series = series * square + splat(0.666663216f);
    series = series * square + splat(2.0f);
    const vec small = e * (two + e) * inverse;  // sigmoid(-|x|)
    const vec bad = x - x;                      // NaN and infinity stay visible
    const vec loss = t * series + (x > vec{} ? x : vec{}) + bad;
    x = (x > vec{} ? one - small : small) + bad;
    return loss;
}

// body(column, lanes in use) along a row.
template <class Body>
INLINE void over_columns(int64_t J, Body body) {
    int64_t column = 0;
    for (; column + LANES <= J; column += LANES) body(column, LANES);
    if (column < J) body(column, int(J - column));
}

// The first n lanes; zeros after them.
INLINE vec first(vec x, int n) {
    for (int i = n; i < LANES; ++i) x[i] = 0.0f;
    return x;
}

INLINE float sum(vec x) {
#if defined(__AVX__) && !defined(__AVX512F__)
    const __m256 all = (__m256)x;
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    float total = 0.0f;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
#endif
}

INLINE float dot(const float* x, const float* y, int64_t D) {
    vec total{}, other{};
    int64_t d = 0;
    for (; d + 2 * LANES <= D; d += 2 * LANES) {
        total += load(x + d) * load(y + d);
        other += load(x + d + LANES) * load(y + d + LANES);
    }
    for (; d + LANES <= D; d += LANES) total += load(x + d) * load(y + d);
    float rest = 0.0f;
    for (; d < D; ++d) rest += x[d] * y[d];
    return sum(total + other) + rest;
}

// target += sum over i < n of weights[i * stride] * rows(i), vectors of D numbers. A stretch of the
// target stays in registers meanwhile.
template <class Rows>
INLINE void add_weighted(float* target, const float* weights, int64_t stride, int64_t n, int64_t D,
                         Rows rows) {
    constexpr int VECTORS = 8;
    int64_t d = 0;
    for (; d + VECTORS * LANES <= D; d += VECTORS * LANES) {
        vec total[VECTORS];
        for (int v = 0; v < VECTORS; ++v) total[v] = load(target + d + v * LANES);
        for (int64_t i = 0; i < n; ++i) {
            const vec weight = splat(weights[i * stride]);
            const float* row = rows(i) + d;
            for (int v = 0; v < VECTORS; ++v) total[v] += weight * load(row + v * LANES);
        }
        for (int v = 0; v < VECTORS; ++v) store(target + d + v * LANES, total[v]);
    }
    for (; d < D; d += LANES) {
        const int width = D - d < LANES ? int(D - d) : LANES;
        vec total = load(target + d, width);
        for (int64_t i = 0; i < n; ++i)
            total += splat(weights[i * stride]) * load(rows(i) + d, width);
        store(target + d, total, width);
    }
}

constexpr int64_t TILE = 64;  // chosen items whose vectors are in the first-level cache together
constexpr int64_t AHEAD = 8;  // chosen items that are on their way from memory

template <int WRITE>
INLINE void prefetch(const float* row, int64_t D) {
    for (int64_t d = 0; d < D; d += 16) __builtin_prefetch(row + d, WRITE);
}

}  // namespace

extern "C" {

// losses[b] += sum over j of w softplus(scores[b, j]), and scores[b, j] becomes w sigmoid(that),
// where w = row_weights[b] + row_scales[b] * item_scales[j]. Rows are contiguous.
void weigh_scores(int64_t B, int64_t J, const float* row_weights, const float* row_scales,
                  const float* item_scales, float* scores, double* losses, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < B; ++b) {
        FlushDenormals flush;
        const vec weight = splat(row_weights[b]), scale = splat(row_scales[b]);
        float* row = scores + b * J;
        vec total{};
        over_columns(J, [&](int64_t j, int n) {
            const vec w = n == LANES ? weight + scale * load(item_scales + j)
                                     : first(weight + scale * load(item_scales + j, n), n);
            vec x = load(row + j, n);
            total += w * softplus(x);
            store(row + j, w * x, n);
        });
        losses[b] += sum(total);
    }
}

// Row b, of group b / length, against the n items chosen for its group. On entry `weights` [B, n]
// are those of the losses; on return, times the losses' derivatives by the scores.
// losses[b] = sum of w softplus(-sign * score), and d_users[b] its gradient. `sign` is 1 for items
// labelled 1, and -1 for 0.
void chosen_forward(int64_t B, int64_t D, int64_t length, int64_t n, float sign,
                    const float* users, const float* items, const int64_t* chosen, float* weights,
                    double* losses, float* d_users, int32_t threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t first = 0; first < B; first += length) {
        FlushDenormals flush;
        const int64_t end = std::min(B, first + length);
        const int64_t* group = chosen + first / length * n;
        for (int64_t b = first; b < end; ++b) {
            losses[b] = 0.0;
            std::fill(d_users + b * D, d_users + (b + 1) * D, 0.0f);
        }
        for (int64_t tile = 0; tile < n; tile += TILE) {
            const int64_t width = std::min(TILE, n - tile);
            const int64_t* of = group + tile;
            for (int64_t b = first; b < end; ++b) {
                float scores[TILE];
                for (int64_t i = 0; i < width; ++i) {
                    if (tile + i + AHEAD < n) prefetch<0>(items + of[i + AHEAD] * D, D);
                    scores[i] = -sign * dot(users + b * D, items + of[i] * D, D);
                }
                float* row = weights + b * n + tile;
                vec total{};
                over_columns(width, [&](int64_t i, int lanes) {
                    vec x = load(scores + i, lanes);
                    const vec w = load(row + i, lanes);  // past the end, zero
                    total += w * softplus(x);
                    store(row + i, splat(-sign) * w * x, lanes);
                });
                losses[b] += sum(total);
                add_weighted(d_users + b * D, row, 1, width, D,
                             [&](int64_t i) { return items + of[i] * D; });
            }
        }
    }
}

// d_items [I, D] += what `chosen_forward` left in `weights`, times the users. A thread owns a range
// of items and reads every group's list.
void chosen_backward(int64_t B, int64_t D, int64_t length, int64_t n, int64_t I,
                     const float* users, const int64_t* chosen, const float* weights,
                     float* d_items, int32_t threads) {
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int32_t thread = 0; thread < threads; ++thread) {
        FlushDenormals flush;
        const int64_t low = I * thread / threads, high = I * (thread + 1) / threads;
        for (int64_t first = 0; first < B; first += length) {
            const int64_t rows = std::min(B, first + length) - first;
            const int64_t* group = chosen + first / length * n;
            for (int64_t i = 0; i < n; ++i) {
                if (i + AHEAD < n) prefetch<1>(d_items + group[i + AHEAD] * D, D);
                if (group[i] < low || group[i] >= high) continue;
                add_weighted(d_items + group[i] * D, weights + first * n + i, n, rows, D,
                             [&](int64_t b) { return users + (first + b) * D; });
            }
        }
    }
}

}  // extern "C"
