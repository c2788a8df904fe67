// Products of sparse rows with dense and with sparse matrices.
//
// Why: torch's product reads a value beside every column and makes a tensor for each term around
// it. Here sums stay in registers over a whole row, and scales and further terms join on the way
// out.
//
// Letters: N rows of the sparse matrix, M its columns, W width of the dense ones.

#include "lanes.h"

namespace {

constexpr int TILE = 8;        // vectors of one row summed at a time: their sums fill registers
constexpr int64_t AHEAD = 6;   // entries ahead of which memory is asked for

struct Product {
    int64_t N, W;
    const int64_t* offsets;
    const int32_t* columns;
    const float* values;  // null: ones
    const float* scale;   // null: ones
    const float* x;
    const float *p, *q;   // null: nothing
    float alpha, beta, gamma;
    float* out;
};

// T vectors of one output row from column w on, of which the last holds `last` numbers.
template <int T>
INLINE void sum_tile(const Product& m, int64_t row, int64_t w, int last) {
    vec sums[T] = {};
    const int64_t stop = m.offsets[row + 1];
    for (int64_t e = m.offsets[row]; e < stop; ++e) {
        const float* x = m.x + (int64_t)m.columns[e] * m.W + w;
        if (e + AHEAD < stop) {
            const float* next = m.x + (int64_t)m.columns[e + AHEAD] * m.W + w;
            for (int t = 0; t < T; ++t) __builtin_prefetch(next + t * LANES);
        }
        const vec value = splat(m.values ? m.values[e] : 1.0f);
        for (int t = 0; t < T - 1; ++t) sums[t] += value * load(x + t * LANES);
        sums[T - 1] += value * load(x + (T - 1) * LANES, last);
    }
    const vec alpha = splat(m.scale ? m.alpha * m.scale[row] : m.alpha);
    const int64_t at = row * m.W + w;
    for (int t = 0; t < T; ++t) {
        const int n = t == T - 1 ? last : LANES;
        vec total = alpha * sums[t];
        if (m.p) total += splat(m.beta) * load(m.p + at + t * LANES, n);
        if (m.q) total += splat(m.gamma) * load(m.q + at + t * LANES, n);
        store(m.out + at + t * LANES, total, n);
    }
}

}  // namespace

extern "C" {

// out = alpha scale * (S x) + beta p + gamma q, all [N, W]; `out` may be p or q.
void sparse_times_dense(int64_t N, int64_t W, const int64_t* offsets, const int32_t* columns,
                        const float* values, const float* scale, const float* x, const float* p,
                        const float* q, float* out, float alpha, float beta, float gamma,
                        int32_t threads) {
    const Product m{N, W, offsets, columns, values, scale, x, p, q, alpha, beta, gamma, out};
    // A tile of all rows before the next tile: what is gathered from stays in cache.
    for (int64_t w = 0; w < W; w += TILE * LANES) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
        for (int64_t row = 0; row < N; ++row) {
            int64_t at = w;
            const int64_t left = W - w;
            if (left >= TILE * LANES) {
                sum_tile<TILE>(m, row, at, LANES);
                continue;
            }
            if (left & (4 * LANES)) sum_tile<4>(m, row, at, LANES), at += 4 * LANES;
            if (left & (2 * LANES)) sum_tile<2>(m, row, at, LANES), at += 2 * LANES;
            if (left & LANES) sum_tile<1>(m, row, at, LANES), at += LANES;
            if (at < W) sum_tile<1>(m, row, at, (int)(W - at));
        }
    }
}

// out[n] = sum over the row's entries of weight * value of the other matrix's row, [N, M].
void sparse_times_sparse(int64_t N, int64_t M, const int64_t* offsets, const int32_t* columns,
                         const float* weights, const int64_t* other_offsets,
                         const int32_t* other_columns, const float* other_values, float* out,
                         int32_t threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t row = 0; row < N; ++row) {
        float* total = out + row * M;
        std::memset(total, 0, sizeof(float) * M);
        for (int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
            const float weight = weights ? weights[e] : 1.0f;
            const int64_t stop = other_offsets[columns[e] + 1];
            for (int64_t k = other_offsets[columns[e]]; k < stop; ++k)
                total[other_columns[k]] += other_values ? weight * other_values[k] : weight;
        }
    }
}

// out = (scale * x)', from [N, W] to [W, N].
void scaled_transpose(int64_t N, int64_t W, const float* scale, const float* x, float* out,
                      int32_t threads) {
    constexpr int64_t SIDE = 16;  // numbers of a cache line
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; n += SIDE) {
        const int64_t rows = N - n < SIDE ? N - n : SIDE;
        for (int64_t w = 0; w < W; ++w)
            for (int64_t i = 0; i < rows; ++i)
                out[w * N + n + i] = scale[n + i] * x[(n + i) * W + w];
    }
}

}  // extern "C"
