// The first layer of a local activation unit, over the events of each row of a jagged batch:
//
//     z_j = r_b + W_k k_j + W_p (q_b * k_j)        for the events j of row b
//         = r_b + (W_k + W_p diag(q_b)) k_j
//
// Why: the second form is ONE matrix per row of the batch, and so one product where the first has
// two. Forward costs P D H multiply-adds, backward 2 P D H, against 4 and 8 of the same layer on
// [q; k; q - k; q * k]; and nothing of size [P, D] is made but the gradient of the keys.
//
// Results do not depend on the number of threads: gradients of the weights are summed per group of
// rows, and the groups are added in order.
//
// Letters: B rows, P events of all rows end to end, D width, H units.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 8, VECTORS = 3;
#elif defined(__AVX__)
constexpr int ROWS = 6, VECTORS = 2;
#else
constexpr int ROWS = 4, VECTORS = 2;
#endif
constexpr int64_t PANEL = LANES * VECTORS;  // columns of a packed panel
constexpr int64_t GROUPS = 32;              // of rows, each with its own sums

int64_t panels(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

// R rows of C = C0 + A B for one panel of B [K, PANEL]; element (i, k) of A is a[i * ai + k * ak].
// C0 is one row, or null for zeros. Only the first `columns` of the panel are stored.
template <int R>
INLINE void tile(int64_t K, const float* a, int64_t ai, int64_t ak, const float* b,
                 const float* initial, float* c, int64_t ci, int64_t columns) {
    vec sum[R][VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        const vec first = initial ? load(initial + v * LANES) : vec{};
        for (int r = 0; r < R; ++r) sum[r][v] = first;
    }
    for (int64_t k = 0; k < K; ++k) {
        vec right[VECTORS];
        for (int v = 0; v < VECTORS; ++v) right[v] = load(b + k * PANEL + v * LANES);
        for (int r = 0; r < R; ++r) {
            const vec left = splat(a[r * ai + k * ak]);
            for (int v = 0; v < VECTORS; ++v) sum[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; ++r) {
        if (columns >= PANEL) {
            for (int v = 0; v < VECTORS; ++v) store(c + r * ci + v * LANES, sum[r][v]);
        } else {
            float whole[PANEL];
            for (int v = 0; v < VECTORS; ++v) store(whole + v * LANES, sum[r][v]);
            std::memcpy(c + r * ci, whole, columns * sizeof(float));
        }
    }
}

// C [rows, columns] = C0 + A B with B packed in panels; C0 (padded to whole panels) may be null.
void multiply(int64_t rows, int64_t K, int64_t columns, const float* a, int64_t ai, int64_t ak,
              const float* b, const float* initial, float* c, int64_t ci) {
    for (int64_t panel = 0; panel < panels(columns); ++panel, b += K * PANEL) {
        const int64_t left = columns - panel * PANEL;
        const float* start = initial ? initial + panel * PANEL : nullptr;
        float* out = c + panel * PANEL;
        int64_t i = 0;
        for (; i + ROWS <= rows; i += ROWS)
            tile<ROWS>(K, a + i * ai, ai, ak, b, start, out + i * ci, ci, left);
        for (; i + 2 <= rows; i += 2)
            tile<2>(K, a + i * ai, ai, ak, b, start, out + i * ci, ci, left);
        for (; i < rows; ++i) tile<1>(K, a + i * ai, ai, ak, b, start, out + i * ci, ci, left);
    }
}

// [rows, columns] with `stride` into panels [panel][row][PANEL], zeros beyond the last column.
void pack(int64_t rows, int64_t columns, const float* source, int64_t stride, float* packed) {
    for (int64_t panel = 0; panel < panels(columns); ++panel) {
        const int64_t width = std::min(PANEL, columns - panel * PANEL);
        for (int64_t row = 0; row < rows; ++row, packed += PANEL) {
            std::memcpy(packed, source + row * stride + panel * PANEL, width * sizeof(float));
            std::fill(packed + width, packed + PANEL, 0.0f);
        }
    }
}

std::vector<float> transposed(int64_t rows, int64_t columns, const float* source) {
    std::vector<float> out(rows * columns);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = source[i * columns + j];
    return out;
}

}  // namespace

extern "C" {

int64_t pair_groups() { return GROUPS; }

// keys [P, D], queries [B, D], row_terms [B, H], key_weight and product_weight [H, D] -> z [P, H].
void pair_forward(int64_t B, int64_t D, int64_t H, const int64_t* offsets, const float* keys,
                  const float* queries, const float* row_terms, const float* key_weight,
                  const float* product_weight, float* z, int32_t threads) {
    const int64_t size = panels(H) * D * PANEL;
    std::vector<float> key_packed(size), product_packed(size);
    pack(D, H, transposed(H, D, key_weight).data(), H, key_packed.data());
    pack(D, H, transposed(H, D, product_weight).data(), H, product_packed.data());
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> matrix(size), initial(panels(H) * PANEL);
#pragma omp for schedule(dynamic, 8)
        for (int64_t b = 0; b < B; ++b) {
            const int64_t first = offsets[b], count = offsets[b + 1] - first;
            if (!count) continue;
            const float* query = queries + b * D;
            for (int64_t row = 0; row < size / PANEL; ++row) {
                const vec q = splat(query[row % D]);
                for (int v = 0; v < VECTORS; ++v) {
                    const int64_t at = row * PANEL + v * LANES;
                    store(&matrix[at], load(&key_packed[at]) + q * load(&product_packed[at]));
                }
            }
            std::memcpy(initial.data(), row_terms + b * H, H * sizeof(float));
            multiply(count, D, H, keys + first * D, D, 1, matrix.data(), initial.data(),
                     z + first * H, H);
        }
    }
}

// dz [P, H] -> gradients of keys [P, D] (may be null), queries [B, D], row_terms [B, H] and the two
// weights [H, D]. `partial` has room for 2 D H numbers per group of rows.
void pair_backward(int64_t B, int64_t D, int64_t H, const int64_t* offsets, const float* keys,
                   const float* queries, const float* key_weight, const float* product_weight,
                   const float* dz, float* partial, float* d_keys, float* d_queries,
                   float* d_row_terms, float* d_key_weight, float* d_product_weight,
                   int32_t threads) {
    const int64_t size = panels(D) * H * PANEL;
    std::vector<float> key_packed(size), product_packed(size);
    pack(H, D, key_weight, D, key_packed.data());
    pack(H, D, product_weight, D, product_packed.data());
    const int64_t padded = panels(D) * PANEL;
    std::vector<float> padded_queries(B * padded);
    for (int64_t b = 0; b < B; ++b)
        std::memcpy(&padded_queries[b * padded], queries + b * D, D * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> matrix(size), outer(H * D), packed;
#pragma omp for schedule(dynamic, 1)
        for (int64_t group = 0; group < GROUPS; ++group) {
            float* of_keys = partial + group * 2 * D * H;
            float* of_products = of_keys + D * H;
            std::fill(of_keys, of_keys + 2 * D * H, 0.0f);
            for (int64_t b = B * group / GROUPS; b < B * (group + 1) / GROUPS; ++b) {
                const int64_t first = offsets[b], count = offsets[b + 1] - first;
                const float* query = queries + b * D;
                const float* gradient = dz + first * H;
                float* d_query = d_queries + b * D;
                float* d_row = d_row_terms + b * H;
                std::fill(d_query, d_query + D, 0.0f);
                std::fill(d_row, d_row + H, 0.0f);
                if (!count) continue;
                for (int64_t j = 0; j < count; ++j)
                    for (int64_t h = 0; h < H; ++h) d_row[h] += gradient[j * H + h];
                if (d_keys) {
                    const float* q = &padded_queries[b * padded];
                    for (int64_t panel = 0, at = 0; panel < panels(D); ++panel, q += PANEL)
                        for (int64_t h = 0; h < H; ++h, at += PANEL)
                            for (int v = 0; v < VECTORS; ++v) {
                                const int64_t i = at + v * LANES;
                                store(&matrix[i], load(&key_packed[i]) +
                                                      load(q + v * LANES) *
                                                          load(&product_packed[i]));
                            }
                    multiply(count, H, D, gradient, H, 1, matrix.data(), nullptr,
                             d_keys + first * D, D);
                }
                // The gradient of the row's own matrix, dz^T k, [H, D].
                packed.resize(panels(D) * count * PANEL);
                pack(count, D, keys + first * D, D, packed.data());
                multiply(H, count, D, gradient, 1, H, packed.data(), nullptr, outer.data(), D);
                for (int64_t h = 0; h < H; ++h) {
                    const float* one = &outer[h * D];
                    const float* weight = product_weight + h * D;
                    float *to_key = of_keys + h * D, *to_product = of_products + h * D;
#pragma omp simd
                    for (int64_t d = 0; d < D; ++d) {
                        to_key[d] += one[d];
                        to_product[d] += one[d] * query[d];
                        d_query[d] += one[d] * weight[d];
                    }
                }
            }
        }
    }
    for (int64_t i = 0; i < D * H; ++i) {
        double of_key = 0.0, of_product = 0.0;
        for (int64_t group = 0; group < GROUPS; ++group) {
            of_key += partial[group * 2 * D * H + i];
            of_product += partial[(group * 2 + 1) * D * H + i];
        }
        d_key_weight[i] = float(of_key);
        d_product_weight[i] = float(of_product);
    }
}

}  // extern "C"
