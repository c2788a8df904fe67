// The pairwise loss of a batch of triples and its gradient, from rows that the batch has once each.
//
// Why: as separate operations the rows of all triples are copied out, multiplied into tensors as
// large again, and added back row by row: some 25 passes over [B, D] numbers. Here a triple reads
// its rows where they lie, in the second or third cache, once forward and once backward. Backward
// works row by row of the result, over the triples that have it, in their order: no two threads
// write the same row, and the sum does not depend on their number.
//
// Letters: B triples, n negatives of each, P users, Q items, D width.

#include <cmath>
#include <cstdint>
#include <vector>

#include "lanes.h"

namespace {

constexpr int64_t AHEAD = 4;  // rows requested before they are needed

INLINE void request(const float* row, int64_t D) {
    for (int64_t d = 0; d < D; d += 16) __builtin_prefetch(row + d);
}

INLINE float dot(const float* a, const float* b, int64_t D) {
    vec sums{};
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES) sums += load(a + d) * load(b + d);
    float total = 0.0f;
    for (int i = 0; i < LANES; ++i) total += sums[i];
    for (; d < D; ++d) total += a[d] * b[d];
    return total;
}

INLINE void add(float* target, float weight, const float* row, int64_t D) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) target[d] += weight * row[d];
}

// The entries of each row, ascending: entries[offsets[r]..offsets[r + 1]).
void grouped(int64_t rows, int64_t count, const int64_t* row_of, std::vector<int64_t>& offsets,
             std::vector<int64_t>& entries) {
    offsets.assign(rows + 1, 0);
    entries.resize(count);
    for (int64_t e = 0; e < count; ++e) ++offsets[row_of[e] + 1];
    for (int64_t r = 0; r < rows; ++r) offsets[r + 1] += offsets[r];
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t e = 0; e < count; ++e) entries[next[row_of[e]]++] = e;
}

}  // namespace

extern "C" {

// losses[b, k] = -log sigmoid(m) and slopes[b, k] = sigmoid(-m), minus its derivative, of the margin
// m = u.i - u.j. `item_at` holds the B positives, then the B x n negatives.
void bpr_forward(int64_t B, int64_t n, int64_t D, const int64_t* user_at, const int64_t* item_at,
                 const float* users, const float* items, float* losses, float* slopes,
                 int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < B; ++b) {
        if (b + AHEAD < B) {
            request(users + user_at[b + AHEAD] * D, D);
            request(items + item_at[b + AHEAD] * D, D);
            request(items + item_at[B + (b + AHEAD) * n] * D, D);
        }
        const float* user = users + user_at[b] * D;
        const float wanted = dot(user, items + item_at[b] * D, D);
        for (int64_t k = b * n; k < (b + 1) * n; ++k) {
            const float x = dot(user, items + item_at[B + k] * D, D) - wanted;
            const float small = std::exp(-std::fabs(x));  // of the side that cannot overflow
            losses[k] = (x > 0.0f ? x : 0.0f) + std::log1p(small);
            slopes[k] = x > 0.0f ? 1.0f / (1.0f + small) : small / (1.0f + small);
            if (x != x) losses[k] = slopes[k] = x;
        }
    }
}

// d_users [P, D] and d_items [Q, D], every row written; `scale` is what each loss counts.
void bpr_backward(int64_t B, int64_t n, int64_t D, int64_t P, int64_t Q, const int64_t* user_at,
                  const int64_t* item_at, const float* users, const float* items,
                  const float* slopes, float scale, float* d_users, float* d_items,
                  int32_t threads) {
    std::vector<int64_t> user_offsets, user_rows, item_offsets, item_rows;
    grouped(P, B, user_at, user_offsets, user_rows);
    grouped(Q, B * (n + 1), item_at, item_offsets, item_rows);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 64)
        for (int64_t p = 0; p < P; ++p) {
            float* target = d_users + p * D;
            for (int64_t d = 0; d < D; ++d) target[d] = 0.0f;
            for (int64_t e = user_offsets[p]; e < user_offsets[p + 1]; ++e) {
                const int64_t b = user_rows[e];
                if (e + AHEAD < B) {
                    const int64_t later = user_rows[e + AHEAD];
                    request(items + item_at[later] * D, D);
                    request(items + item_at[B + later * n] * D, D);
                }
                float total = 0.0f;
                for (int64_t k = b * n; k < (b + 1) * n; ++k) {
                    add(target, scale * slopes[k], items + item_at[B + k] * D, D);
                    total += slopes[k];
                }
                add(target, -scale * total, items + item_at[b] * D, D);
            }
        }
#pragma omp for schedule(dynamic, 64)
        for (int64_t q = 0; q < Q; ++q) {
            float* target = d_items + q * D;
            for (int64_t d = 0; d < D; ++d) target[d] = 0.0f;
            for (int64_t e = item_offsets[q]; e < item_offsets[q + 1]; ++e) {
                if (e + AHEAD < B * (n + 1)) {
                    const int64_t later = item_rows[e + AHEAD];
                    request(users + user_at[later < B ? later : (later - B) / n] * D, D);
                }
                const int64_t at = item_rows[e], b = at < B ? at : (at - B) / n;
                float weight = 0.0f;
                if (at < B)
                    for (int64_t k = b * n; k < (b + 1) * n; ++k) weight -= slopes[k];
                else
                    weight = slopes[at - B];
                add(target, scale * weight, users + user_at[b] * D, D);
            }
        }
    }
}

}  // extern "C"
