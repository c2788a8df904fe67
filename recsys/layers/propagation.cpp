// One half of a layer of graph propagation: rows of one side from the rows of the other.
//
//     out[r] = scale_out[r] * (sum over the neighbours n of r of scale_in[n] * in[n]) + noise + base
//
// Why: the neighbours' rows are all that costs time, 4 D bytes for each interaction from the second
// or third cache. Here they are read once, requested ahead, and everything else (both scalings, the
// noise, Horner's next term) is done while the output row is in registers or the first cache. Where
// the input is zero but for some rows, as a gradient of one batch is, `in` holds just these.
//
// Letters: R output rows, D width, E interactions.

#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace {

constexpr int64_t AHEAD = 16;  // neighbours requested before they are needed

struct Neighbours {
    const int32_t* indices;  // [E] neighbours of all rows, end to end
    int64_t num_edges;
    const float* in;         // [rows of the other side, D], or those of `in_at`
    const int32_t* in_at;    // where in `in` a neighbour lies, -1 where it is zero; null: in order
    const float* scale_in;
    int64_t D;
};

INLINE void request(const Neighbours& from, int64_t edge) {
    if (from.in_at || edge >= from.num_edges) return;
    const char* row = (const char*)(from.in + from.indices[edge] * from.D);
    for (int64_t byte = 0; byte < 4 * from.D; byte += 64) __builtin_prefetch(row + byte);
}

// Columns [d, d + N * LANES) of the weighted sum over neighbours begin..end; the last vector may
// hold `n` lanes only.
template <int N>
INLINE void gather(const Neighbours& from, int64_t begin, int64_t end, int64_t d, int n,
                   float scale_out, float* out) {
    vec sums[N]{};
    for (int64_t e = begin; e < end; ++e) {
        if (d == 0) request(from, e + AHEAD);
        const int32_t neighbour = from.indices[e];
        const int64_t at = from.in_at ? from.in_at[neighbour] : neighbour;
        if (at < 0) continue;
        const vec scale = splat(from.scale_in[neighbour]);
        const float* row = from.in + at * from.D + d;
        for (int i = 0; i < N; ++i)
            sums[i] += scale * load(row + i * LANES, i == N - 1 ? n : LANES);
    }
    for (int i = 0; i < N; ++i)
        store(out + d + i * LANES, splat(scale_out) * sums[i], i == N - 1 ? n : LANES);
}

INLINE uint32_t mixed(uint32_t x) {  // the finaliser of MurmurHash3
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

// target = source + eps * sign(source) * u / |u|, u uniform in [0, 1) by the row's number alone.
INLINE void perturb_row(const float* source, int64_t row, int64_t D, float eps, const uint32_t* key,
                        float* draws, float* target) {
    const uint32_t start = mixed(mixed((uint32_t)row ^ key[0]) ^ key[1]);
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < D; ++d) {
        const float u = (int32_t)(mixed(start + (uint32_t)d * 0x9E3779B9u) >> 8) * 0x1p-24f;
        draws[d] = u;
        squares += u * u;
    }
    const float length = eps / std::fmax(std::sqrt(squares), 1e-12f);
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) {
        const float x = source[d], step = length * draws[d];
        target[d] = x + (x > 0.0f ? step : x < 0.0f ? -step : 0.0f);
    }
}

}  // namespace

extern "C" {

// Row k of `out` is row rows[k] of the product, or row k where `rows` is null. `base_at` tells where
// in `base` a row lies, -1 where it is zero; null: in order. A null `base` is zero. A null `key`
// means no noise.
void propagate(int64_t R, int64_t D, int64_t E, const int64_t* rows, const int64_t* offsets,
               const int32_t* indices, const float* scale_out, const float* scale_in,
               const float* in, const int32_t* in_at, const float* base, const int32_t* base_at,
               float eps, const uint32_t* key, float* out, int32_t threads) {
    const Neighbours from{indices, E, in, in_at, scale_in, D};
#pragma omp parallel num_threads(threads)
    {
        float* draws = new float[D];
#pragma omp for schedule(dynamic, 64)
        for (int64_t k = 0; k < R; ++k) {
            const int64_t r = rows ? rows[k] : k;
            const int64_t begin = offsets[r], end = offsets[r + 1];
            const float scale = scale_out[r];
            float* target = out + k * D;
            int64_t d = 0;
            for (; d + 8 * LANES <= D; d += 8 * LANES)
                gather<8>(from, begin, end, d, LANES, scale, target);
            for (; d + 4 * LANES <= D; d += 4 * LANES)
                gather<4>(from, begin, end, d, LANES, scale, target);
            for (; d < D; d += LANES)
                gather<1>(from, begin, end, d, D - d < LANES ? D - d : LANES, scale, target);
            if (key) perturb_row(target, r, D, eps, key, draws, target);
            const int64_t at = base_at ? base_at[r] : r;
            if (!base || at < 0) continue;
#pragma omp simd
            for (int64_t d = 0; d < D; ++d) target[d] += base[at * D + d];
        }
        delete[] draws;
    }
}

// Noise alone: target[r] = source[r] + eps * sign(source[r]) * u / |u|.
void perturb(int64_t R, int64_t D, const float* source, float eps, const uint32_t* key,
             float* target, int32_t threads) {
#pragma omp parallel num_threads(threads)
    {
        float* draws = new float[D];
#pragma omp for schedule(static)
        for (int64_t r = 0; r < R; ++r)
            perturb_row(source + r * D, r, D, eps, key, draws, target + r * D);
        delete[] draws;
    }
}

}  // extern "C"
