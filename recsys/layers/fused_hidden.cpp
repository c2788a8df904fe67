// The elementwise part of hidden layers and of cross layers, forward and backward.
//
// Why: between two matrix products, batch normalisation, ReLU and dropout as separate operations
// move a [B, O] tensor through memory some twenty times. Here the product's output is read once
// for the statistics and once to be normalised, rectified and dropped; backward reads the
// incoming gradient twice. One bit per element says whether its gradient passes.
//
// Results do not depend on the number of threads: sums are taken per CHUNK of rows in double
// precision, and the chunks are added in order. Dropout hashes (seed, row, column).
//
// Letters: B rows, O width.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

constexpr int64_t CHUNK = 128;  // rows per partial sum
constexpr int GROUP = 4;        // rows summed in single precision before they join a double

INLINE uvec lane_index() {
    uvec out{};
    for (int i = 0; i < LANES; ++i) out[i] = i;
    return out;
}

// One bit per lane of a comparison's result.
INLINE uint16_t pack(ivec mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX__)
    return _mm256_movemask_ps((__m256)mask);
#else
    uint16_t bits = 0;
    for (int i = 0; i < LANES; ++i) bits |= (mask[i] != 0) << i;
    return bits;
#endif
}

// x where the lane's bit is set, else zero.
INLINE vec select(uint16_t bits, vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_mov_ps(bits, (__m512)x);
#else
    uvec lane{};
    for (int i = 0; i < LANES; ++i) lane[i] = 1u << i;
    return ((uvec{} + bits) & lane) != 0 ? x : vec{};
#endif
}

INLINE uint64_t mix64(uint64_t x) {  // SplitMix64 (Steele et al., OOPSLA 2014)
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// 32 random bits for every lane, from a row's 64-bit key and the columns: two rounds of a
// multiply-xorshift hash, half of the key before each.
INLINE uvec random_bits(uint64_t key, uvec column) {
    uvec x = column + uint32_t(key);
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x ^= uint32_t(key >> 32);
    x = (x ^ (x >> 15)) * 0xd35a2d97u;
    return x ^ (x >> 15);
}

INLINE void accumulate(double* total, vec x, int n) {
    if (n == LANES) {
        for (int i = 0; i < LANES; ++i) total[i] += double(x[i]);
    } else {
        for (int i = 0; i < n; ++i) total[i] += double(x[i]);
    }
}

// body(chunk, first row, end row) for all chunks.
template <class Body>
INLINE void over_chunks(int64_t B, int threads, Body body) {
    const int64_t chunks = (B + CHUNK - 1) / CHUNK;
#pragma omp parallel num_threads(threads)
    {
        const FlushDenormals flush;
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            body(chunk, chunk * CHUNK, std::min(B, (chunk + 1) * CHUNK));
    }
}

// body(column, lanes in use) along a row.
template <class Body>
INLINE void over_columns(int64_t O, Body body) {
    int64_t column = 0;
    for (; column + LANES <= O; column += LANES) body(column, LANES);
    if (column < O) body(column, int(O - column));
}

// body(row, rows) for groups of rows; `rows` is GROUP or, at the end, 1.
template <class Body>
INLINE void over_groups(int64_t begin, int64_t end, Body body) {
    for (; begin + GROUP <= end; begin += GROUP) body(begin, GROUP);
    for (; begin < end; ++begin) body(begin, 1);
}

// The chunks' partial sums [chunks, numbers], added in order.
void add_chunks(const double* partial, int64_t B, int64_t numbers, double* total) {
    std::fill(total, total + numbers, 0.0);
    for (int64_t first = 0; first < B; first += CHUNK, partial += numbers)
        for (int64_t i = 0; i < numbers; ++i) total[i] += partial[i];
}

int64_t words(int64_t O) { return (O + LANES - 1) / LANES; }

void statistics(int64_t B, int64_t O, const float* z, double* partial, int threads) {
    over_chunks(B, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        double* sum = partial + chunk * 2 * O;
        double* squares = sum + O;
        std::fill(sum, sum + 2 * O, 0.0);
        for (int64_t row = begin; row < end; row += GROUP) {
            const int64_t rows = std::min<int64_t>(GROUP, end - row);
            const float* source = z + row * O;
            if (rows == GROUP) {
#pragma omp simd
                for (int64_t o = 0; o < O; ++o) {
                    const double a = source[o], b = source[o + O], c = source[o + 2 * O],
                                 d = source[o + 3 * O];
                    sum[o] += (a + b) + (c + d);
                    squares[o] += (a * a + b * b) + (c * c + d * d);
                }
            } else {
                for (int64_t i = 0; i < rows * O; ++i) {
                    const double a = source[i];
                    sum[i % O] += a;
                    squares[i % O] += a * a;
                }
            }
        }
    });
}

// partial[chunk] = sums over the chunk's rows of g and, with `z`, of g (z - mean), where g is dy
// where it passes.
template <bool NORMALISED>
void gradient_sums(int64_t B, int64_t O, const float* dy, const float* z, const float* mean,
                   const uint16_t* bits, double* partial, int threads) {
    const int64_t numbers = (NORMALISED ? 2 : 1) * O;
    over_chunks(B, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        double* sum = partial + chunk * numbers;
        std::fill(sum, sum + numbers, 0.0);
        over_groups(begin, end, [=](int64_t row, int rows) __attribute__((always_inline)) {
            over_columns(O, [=](int64_t column, int n) __attribute__((always_inline)) {
                const vec center = NORMALISED ? load(mean + column, n) : vec{};
                vec g_sum{}, product_sum{};
                for (int r = 0; r < rows; ++r) {
                    const int64_t at = (row + r) * O + column;
                    const vec g =
                        select(bits[(row + r) * words(O) + column / LANES], load(dy + at, n));
                    g_sum += g;
                    if (NORMALISED) product_sum += g * (load(z + at, n) - center);
                }
                accumulate(sum + column, g_sum, n);
                if (NORMALISED) accumulate(sum + O + column, product_sum, n);
            });
        });
    });
}

}  // namespace

extern "C" {

int32_t hidden_lanes() { return LANES; }

int64_t hidden_chunk_rows() { return CHUNK; }

// Batch statistics of z + bias, [B, O] and [O]; z itself has no bias. Gives `mean` (of z) and
// `inverse_std`, updates the running statistics, and gives what maps z to the normalised output:
// z * factor + offset. `partial` has room for 2 O (chunks + 1) numbers.
void hidden_normalise(int64_t B, int64_t O, const float* z, const float* bias, const float* gain,
                      const float* shift, double epsilon, double momentum, float* running_mean,
                      float* running_var, double* partial, float* mean, float* inverse_std,
                      float* factor, float* offset, int32_t threads) {
    statistics(B, O, z, partial, threads);
    double* total = partial + 2 * O * ((B + CHUNK - 1) / CHUNK);
    add_chunks(partial, B, 2 * O, total);
    for (int64_t o = 0; o < O; ++o) {
        const double average = total[o] / B;
        double variance = total[O + o] / B - average * average;
        if (variance < 0.0) variance = 0.0;  // NaN stays NaN
        const double inverse = 1.0 / std::sqrt(variance + epsilon);
        mean[o] = float(average);
        inverse_std[o] = float(inverse);
        factor[o] = float(gain[o] * inverse);
        offset[o] = float(shift[o] - average * gain[o] * inverse);
        running_mean[o] =
            float((1.0 - momentum) * running_mean[o] + momentum * (average + bias[o]));
        running_var[o] =
            float((1.0 - momentum) * running_var[o] + momentum * variance * B / (B - 1));
    }
}

// y = scale * relu(z * factor + offset) where kept, else 0; `factor` may be null for 1 and y may
// be z. An element is dropped when its random 32 bits are below `threshold`. `bits` [B, words],
// null when no gradient is wanted, tells where the gradient passes.
void hidden_activate(int64_t B, int64_t O, const float* z, const float* factor,
                     const float* offset, float scale, uint32_t threshold, uint64_t seed,
                     float* y, uint16_t* bits, int32_t threads) {
    const uvec lanes = lane_index();
    over_chunks(B, threads, [=](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const uint64_t key = mix64(seed ^ mix64(row));
            over_columns(O, [=](int64_t column, int n) __attribute__((always_inline)) {
                const int64_t at = row * O + column;
                const vec add = load(offset + column, n);
                vec x = load(z + at, n);
                x = factor ? x * load(factor + column, n) + add : x + add;
                // Not (x > 0): NaN stays visible, and its gradient passes, as in torch.relu.
                ivec passes = ~(x <= splat(0.0f));
                if (threshold) {
                    const uvec random = random_bits(key, lanes + uint32_t(column));
                    passes &= (ivec)(random >= uvec{} + threshold);
                }
                const uint16_t mask = pack(passes);
                store(y + at, select(mask, x * splat(scale)), n);
                if (bits) bits[row * words(O) + column / LANES] = mask;
            });
        }
    });
}

// dy [B, O] -> dz, the gradient before normalisation (it may be dy), and d_bias, its column sums.
// With `z`, which batch normalisation keeps, also d_gain and d_shift. `partial` has room for
// 2 O (chunks + 1) numbers.
void hidden_backward(int64_t B, int64_t O, const float* dy, const uint16_t* bits, float scale,
                     const float* z, const float* mean, const float* inverse_std,
                     const float* gain, double* partial, float* coefficients, float* dz,
                     float* d_bias, float* d_gain, float* d_shift, int32_t threads) {
    double* total = partial + 2 * O * ((B + CHUNK - 1) / CHUNK);
    float *on_g = coefficients, *on_z = on_g + O, *constant = on_z + O;
    if (z) {
        gradient_sums<true>(B, O, dy, z, mean, bits, partial, threads);
        add_chunks(partial, B, 2 * O, total);
        for (int64_t o = 0; o < O; ++o) {
            const double inverse = inverse_std[o], slope = gain[o] * inverse;
            const double shift = scale * total[o], gained = scale * total[O + o] * inverse;
            d_shift[o] = float(shift);
            d_gain[o] = float(gained);
            on_g[o] = float(slope * scale);
            on_z[o] = float(-slope * inverse * gained / B);
            constant[o] = float(-slope * shift / B);
        }
    }
    over_chunks(B, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        double* sum = partial + chunk * O;
        std::fill(sum, sum + O, 0.0);
        over_groups(begin, end, [=](int64_t row, int rows) __attribute__((always_inline)) {
            over_columns(O, [=](int64_t column, int n) __attribute__((always_inline)) {
                vec group{};
                for (int r = 0; r < rows; ++r) {
                    const int64_t at = (row + r) * O + column;
                    const vec g =
                        select(bits[(row + r) * words(O) + column / LANES], load(dy + at, n));
                    vec d = g * splat(scale);
                    if (z) {
                        const vec centered = load(z + at, n) - load(mean + column, n);
                        d = g * load(on_g + column, n) +
                            (centered * load(on_z + column, n) + load(constant + column, n));
                    }
                    store(dz + at, d, n);
                    group += d;
                }
                accumulate(sum + column, group, n);
            });
        });
    });
    add_chunks(partial, B, O, total);
    for (int64_t o = 0; o < O; ++o) d_bias[o] = float(total[o]);
}

// One cross layer after its product, all [B, O]: u += bias, then y = x0 * u + x.
void cross_forward(int64_t B, int64_t O, const float* x0, const float* x, const float* bias,
                   float* u, float* y, int32_t threads) {
    over_chunks(B, threads, [=](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            over_columns(O, [=](int64_t column, int n) __attribute__((always_inline)) {
                const int64_t at = row * O + column;
                const vec mapped = load(u + at, n) + load(bias + column, n);
                store(u + at, mapped, n);
                store(y + at, load(x0 + at, n) * mapped + load(x + at, n), n);
            });
    });
}

// dy [B, O] -> du = dy * x0 and d_bias, its column sums; dx0 += dy * u (dx0 = when `first`).
// `partial` has room for O (chunks + 1) numbers.
void cross_backward(int64_t B, int64_t O, const float* dy, const float* x0, const float* u,
                    int32_t first, double* partial, float* du, float* dx0, float* d_bias,
                    int32_t threads) {
    over_chunks(B, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        double* sum = partial + chunk * O;
        std::fill(sum, sum + O, 0.0);
        over_groups(begin, end, [=](int64_t row, int rows) __attribute__((always_inline)) {
            over_columns(O, [=](int64_t column, int n) __attribute__((always_inline)) {
                vec group{};
                for (int r = 0; r < rows; ++r) {
                    const int64_t at = (row + r) * O + column;
                    const vec d = load(dy + at, n), d_mapped = d * load(x0 + at, n);
                    const vec before = first ? vec{} : load(dx0 + at, n);
                    store(du + at, d_mapped, n);
                    store(dx0 + at, d * load(u + at, n) + before, n);
                    group += d_mapped;
                }
                accumulate(sum + column, group, n);
            });
        });
    });
    double* total = partial + O * ((B + CHUNK - 1) / CHUNK);
    add_chunks(partial, B, O, total);
    for (int64_t o = 0; o < O; ++o) d_bias[o] = float(total[o]);
}
}
