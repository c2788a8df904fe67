// Normalised, activated and mixed: what experts do between their last matrix product and their
// readers, forward and backward.
//
// Why: with G experts and R readers, batch normalisation, activation and R weighted sums as separate
// operations move the [B, G, O] tensor through memory some fifteen times in a training step. Here
// forward reads it once and backward twice; what a reader sees of it is summed in registers.
//
// Results do not depend on the number of threads: sums over rows are taken per CHUNK, and the chunks
// are added in order.
//
// Letters: B rows, G experts, O width of an expert, R readers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

constexpr int64_t CHUNK = 128;  // rows per partial sum
constexpr int BLOCK = 4;        // readers summed at a time

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

INLINE float sum_of(vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
#endif
}

struct Activated {
    vec value, slope;
};

// Swish or ReLU of x, and its derivative.
INLINE Activated activate(vec x, bool swish) {
    if (!swish) {
        const vec zero{}, one = splat(1.0f);
        // A NaN stays visible: it is neither below nor above.
        return {x < zero ? zero : x, x > zero ? one : zero};
    }
    const vec p = sigmoid(x);
    return {x * p, p * (splat(1.0f) + x * (splat(1.0f) - p))};
}

}  // namespace

extern "C" {

int64_t mixture_chunk_rows() { return CHUNK; }

// mixed[b, r] = sum_g weights[b, r, g] activate((z[b, g] - mean[g]) * scale[g] * gain[g] + shift[g]).
// mean, scale, gain, shift: [G O].
void mixture_forward(int64_t B, int64_t G, int64_t O, int64_t R, const float* z, const float* mean,
                     const float* scale, const float* gain, const float* shift,
                     const float* weights, int32_t swish, float* mixed, int32_t threads) {
    over_chunks(B, threads, [=](int64_t, int64_t begin, int64_t end) {
        std::vector<vec> active(G);
        for (int64_t row = begin; row < end; ++row) {
            const float* own = weights + row * R * G;
            for (int64_t column = 0; column < O; column += LANES) {
                const int n = int(std::min<int64_t>(LANES, O - column));
                for (int64_t g = 0; g < G; ++g) {
                    const int64_t at = g * O + column;
                    const vec normal =
                        (load(z + row * G * O + at, n) - load(mean + at, n)) * load(scale + at, n);
                    const vec x = normal * load(gain + at, n) + load(shift + at, n);
                    active[g] = activate(x, swish).value;
                }
                int64_t r = 0;
                for (; r + BLOCK <= R; r += BLOCK) {
                    vec total[BLOCK] = {};
                    for (int64_t g = 0; g < G; ++g)
                        for (int i = 0; i < BLOCK; ++i)
                            total[i] += splat(own[(r + i) * G + g]) * active[g];
                    for (int i = 0; i < BLOCK; ++i)
                        store(mixed + (row * R + r + i) * O + column, total[i], n);
                }
                for (; r < R; ++r) {
                    vec total{};
                    for (int64_t g = 0; g < G; ++g) total += splat(own[r * G + g]) * active[g];
                    store(mixed + (row * R + r) * O + column, total, n);
                }
            }
        }
    });
}

// Gradients of z [B, G, O], weights [B, R, G], gain and shift [G O]. With `batch`, mean and scale came
// from these very rows, and gradients flow through them. `partial` has room for 2 G O floats per
// chunk, `total` for 2 G O doubles.
void mixture_backward(int64_t B, int64_t G, int64_t O, int64_t R, const float* z, const float* mean,
                      const float* scale, const float* gain, const float* shift,
                      const float* weights, int32_t swish, const float* d_mixed, int32_t batch,
                      float* partial, double* total, float* d_z, float* d_weights, float* d_gain,
                      float* d_shift, int32_t threads) {
    const int64_t C = G * O;
    over_chunks(B, threads, [=](int64_t chunk, int64_t begin, int64_t end) {
        float *sums = partial + chunk * 2 * C, *products = sums + C;
        std::fill(sums, sums + 2 * C, 0.0f);
        std::vector<vec> of_weights(R * G), incoming(R);
        for (int64_t row = begin; row < end; ++row) {
            const float* own = weights + row * R * G;
            std::fill(of_weights.begin(), of_weights.end(), vec{});
            for (int64_t column = 0; column < O; column += LANES) {
                const int n = int(std::min<int64_t>(LANES, O - column));
                for (int64_t r = 0; r < R; ++r)
                    incoming[r] = load(d_mixed + (row * R + r) * O + column, n);
                for (int64_t g = 0; g < G; ++g) {
                    const int64_t at = g * O + column;
                    const vec normal =
                        (load(z + row * C + at, n) - load(mean + at, n)) * load(scale + at, n);
                    const vec x = normal * load(gain + at, n) + load(shift + at, n);
                    const Activated active = activate(x, swish);
                    vec d{};
                    for (int64_t r = 0; r < R; ++r) {
                        d += splat(own[r * G + g]) * incoming[r];
                        of_weights[r * G + g] += active.value * incoming[r];
                    }
                    d *= active.slope;
                    store(d_z + row * C + at, d, n);
                    store(sums + at, load(sums + at, n) + d, n);
                    store(products + at, load(products + at, n) + d * normal, n);
                }
            }
            for (int64_t i = 0; i < R * G; ++i)
                d_weights[row * R * G + i] = sum_of(of_weights[i]);
        }
    });
    std::fill(total, total + 2 * C, 0.0);
    const float* chunk_sums = partial;
    for (int64_t first = 0; first < B; first += CHUNK, chunk_sums += 2 * C)
        for (int64_t i = 0; i < 2 * C; ++i) total[i] += chunk_sums[i];
    float *on_one = partial, *on_normal = partial + C;  // the partial sums are spent
    for (int64_t i = 0; i < C; ++i) {
        d_shift[i] = float(total[i]);
        d_gain[i] = float(total[C + i]);
        on_one[i] = batch ? float(total[i] / B) : 0.0f;
        on_normal[i] = batch ? float(total[C + i] / B) : 0.0f;
    }
    over_chunks(B, threads, [=](int64_t, int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            for (int64_t at = 0; at < C; at += LANES) {
                const int n = int(std::min<int64_t>(LANES, C - at));
                const vec slope = load(scale + at, n);
                const vec normal = (load(z + row * C + at, n) - load(mean + at, n)) * slope;
                const vec d = load(d_z + row * C + at, n) - load(on_one + at, n) -
                              normal * load(on_normal + at, n);
                store(d_z + row * C + at, d * slope * load(gain + at, n), n);
            }
    });
}

}  // extern "C"
