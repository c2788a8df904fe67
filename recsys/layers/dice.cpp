// Dice over the rows of a matrix, forward and backward.
//
// Why: as separate operations, normalisation, sigmoid and blend move a [P, H] tensor through memory
// some fifteen times in a training step. Here the statistics are one pass, the output one, and the
// backward pass two; the sigmoid is computed again rather than kept.
//
// Results do not depend on the number of threads: sums are taken per CHUNK of rows, and the chunks
// are added in order.
//
// Letters: P rows, H units.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

constexpr int64_t CHUNK = 128;  // rows per partial sum

// body(chunk, first row, end row) for all chunks.
template <class Body>
INLINE void over_chunks(int64_t P, int threads, Body body) {
    const int64_t chunks = (P + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
        body(chunk, chunk * CHUNK, std::min(P, (chunk + 1) * CHUNK));
}

// body(column, lanes in use) along a row.
template <class Body>
INLINE void over_columns(int64_t H, Body body) {
    int64_t column = 0;
    for (; column + LANES <= H; column += LANES) body(column, LANES);
    if (column < H) body(column, int(H - column));
}

// The chunks' partial sums [chunks, numbers], added in order.
void add_chunks(const float* partial, int64_t P, int64_t numbers, double* total) {
    std::fill(total, total + numbers, 0.0);
    for (int64_t first = 0; first < P; first += CHUNK, partial += numbers)
        for (int64_t i = 0; i < numbers; ++i) total[i] += partial[i];
}

}  // namespace

extern "C" {

int64_t dice_chunk_rows() { return CHUNK; }

// Mean and population variance of every unit over P >= 1 rows, in double precision. Sums are taken
// of differences from the first row, so that a mean far from zero costs no digits. `partial` has
// room for 2 H chunks floats, `total` for 2 H doubles.
void dice_statistics(int64_t P, int64_t H, const float* x, float* partial, double* total,
                     double* mean, double* variance, int32_t threads) {
    over_chunks(P, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        float* sums = partial + chunk * 2 * H;
        std::fill(sums, sums + 2 * H, 0.0f);
        for (int64_t row = begin; row < end; ++row)
            over_columns(H, [=](int64_t column, int n) __attribute__((always_inline)) {
                const vec d = load(x + row * H + column, n) - load(x + column, n);
                store(sums + column, load(sums + column, n) + d, n);
                store(sums + H + column, load(sums + H + column, n) + d * d, n);
            });
    });
    add_chunks(partial, P, 2 * H, total);
    for (int64_t h = 0; h < H; ++h) {
        const double shift = total[h] / P;
        mean[h] = x[h] + shift;
        variance[h] = std::max(total[H + h] / P - shift * shift, 0.0);
    }
}

// y = x (alpha + (1 - alpha) p), p = sigmoid((x - mean) * scale).
void dice_forward(int64_t P, int64_t H, const float* x, const float* mean, const float* scale,
                  const float* alpha, float* y, int32_t threads) {
    over_chunks(P, threads, [=](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            over_columns(H, [=](int64_t column, int n) __attribute__((always_inline)) {
                const int64_t at = row * H + column;
                const vec s = load(x + at, n), a = load(alpha + column, n);
                const vec p = sigmoid((s - load(mean + column, n)) * load(scale + column, n));
                store(y + at, s * (a + (splat(1.0f) - a) * p), n);
            });
    });
}

// Gradients of x [P, H] and alpha [H]. With `batch`, mean and scale came from these very rows, and
// gradients flow through them. `partial` has room for 3 H chunks floats, `total` for 3 H doubles.
void dice_backward(int64_t P, int64_t H, const float* x, const float* mean, const float* scale,
                   const float* alpha, const float* dy, int32_t batch, float* partial,
                   double* total, float* d_x, float* d_alpha, int32_t threads) {
    over_chunks(P, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        float* sums = partial + chunk * 3 * H;
        std::fill(sums, sums + 3 * H, 0.0f);
        for (int64_t row = begin; row < end; ++row)
            over_columns(H, [=](int64_t column, int n) __attribute__((always_inline)) {
                const int64_t at = row * H + column;
                const vec s = load(x + at, n), g = load(dy + at, n);
                const vec z = (s - load(mean + column, n)) * load(scale + column, n);
                const vec p = sigmoid(z), rest = splat(1.0f) - p, gs = g * s;
                const vec dz = gs * (splat(1.0f) - load(alpha + column, n)) * p * rest;
                float* to = sums + column;
                store(to, load(to, n) + gs * rest, n);
                store(to + H, load(to + H, n) + dz, n);
                store(to + 2 * H, load(to + 2 * H, n) + dz * z, n);
            });
    });
    add_chunks(partial, P, 3 * H, total);
    float *on_one = partial, *on_z = partial + H;  // the partial sums are spent
    for (int64_t h = 0; h < H; ++h) {
        d_alpha[h] = float(total[h]);
        on_one[h] = batch ? float(total[H + h] / P) : 0.0f;
        on_z[h] = batch ? float(total[2 * H + h] / P) : 0.0f;
    }
    over_chunks(P, threads, [=](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            over_columns(H, [=](int64_t column, int n) __attribute__((always_inline)) {
                const int64_t at = row * H + column;
                const vec s = load(x + at, n), g = load(dy + at, n), a = load(alpha + column, n);
                const vec slope = load(scale + column, n), left = splat(1.0f) - a;
                const vec z = (s - load(mean + column, n)) * slope;
                const vec p = sigmoid(z);
                const vec dz = g * s * left * p * (splat(1.0f) - p);
                const vec centered = dz - load(on_one + column, n) - z * load(on_z + column, n);
                store(d_x + at, g * (a + left * p) + slope * centered, n);
            });
    });
}

}  // extern "C"
