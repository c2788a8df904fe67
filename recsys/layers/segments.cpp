// Weighted sums over the events of each row of a jagged batch, forward and backward.
//
// Why: as separate operations, weighting makes a [P, D] tensor, the sum reads it again, and the
// backward pass gathers, multiplies and adds three more. Here each event is read once per pass.
//
// Letters: B rows, P events of all rows end to end, D width.

#include <cstdint>

namespace {

typedef float vec __attribute__((vector_size(32), aligned(4)));
constexpr int LANES = 8;

}  // namespace

extern "C" {

// out[b] = sum over the row's events of weight * value; `weights` may be null for 1.
void segment_sum_forward(int64_t B, int64_t D, const int64_t* offsets, const float* values,
                         const float* weights, float* out, int32_t threads) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t b = 0; b < B; ++b) {
        float* total = out + b * D;
        for (int64_t d = 0; d < D; ++d) total[d] = 0.0f;
        for (int64_t p = offsets[b]; p < offsets[b + 1]; ++p) {
            const float weight = weights ? weights[p] : 1.0f;
            const float* value = values + p * D;
#pragma omp simd
            for (int64_t d = 0; d < D; ++d) total[d] += weight * value[d];
        }
    }
}

// d_values = weight * d_out of the row, d_weights = <value, d_out of the row>; either may be null.
void segment_sum_backward(int64_t B, int64_t D, const int64_t* offsets, const float* values,
                          const float* weights, const float* d_out, float* d_values,
                          float* d_weights, int32_t threads) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t b = 0; b < B; ++b) {
        const float* gradient = d_out + b * D;
        for (int64_t p = offsets[b]; p < offsets[b + 1]; ++p) {
            if (d_values) {
                const float weight = weights ? weights[p] : 1.0f;
#pragma omp simd
                for (int64_t d = 0; d < D; ++d) d_values[p * D + d] = weight * gradient[d];
            }
            if (d_weights) {
                const float* value = values + p * D;
                vec sums{};
                int64_t d = 0;
                for (; d + LANES <= D; d += LANES)
                    sums += *(const vec*)(value + d) * *(const vec*)(gradient + d);
                float sum = 0.0f;
                for (int i = 0; i < LANES; ++i) sum += sums[i];
                for (; d < D; ++d) sum += value[d] * gradient[d];
                d_weights[p] = sum;
            }
        }
    }
}

}  // extern "C"
