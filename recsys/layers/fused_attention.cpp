// A stack of FieldAttention layers, forward and backward, in one pass over the rows.
//
// Why: at the sizes of click models (40 slots of width 16) the layer's tensors are many, small and
// short-lived, so that an unfused layer spends its time moving them through memory. Here a tile of
// LANES rows goes through the whole stack while it is in the processor's cache.
//
// How: a vector register holds the same number of LANES different rows. Every step (products,
// softmax, normalisation) is then the scalar algorithm on vectors: no remainder of 39 slots or 5
// components is ever padded, and no sum runs across a register. The softmax is not stored for the
// backward pass but computed again from its largest score and its denominator; so is the choice of
// dropped weights, from a hash.
//
// Results do not depend on the number of threads: weight gradients are summed per CHUNK of tiles
// and the chunks are added in order.
//
// Letters: B rows, F slots, D input width, O output width, H heads, W = O / H.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "lanes.h"

namespace {

constexpr int TILE_M = 4;  // register tile of a product: TILE_M x TILE_N accumulators
#if defined(__AVX512F__)
constexpr int TILE_N = 4;
#else
constexpr int TILE_N = 2;
#endif
constexpr int QUERIES = 16;  // query slots whose scores are in the first-level cache together
constexpr float LOG2_E = 1.44269504f;
constexpr int CHUNK = 4;     // tiles per partial sum of the weight gradients

inline vec splat(vec x) { return x; }
// NaN in `b` stays NaN.
inline vec maximum(vec a, vec b) { return a > b ? a : b; }
// NaN stays NaN, as in torch.relu.
inline vec relu(vec x) { return x < splat(0.0f) ? splat(0.0f) : x; }

// 2^x for x <= 0 (and a little above), to two units in the last place; 2^-125 below that.
inline vec power_of_two(vec x) {
    x = maximum(splat(-125.0f), x);
    const vec shifted = x + splat(12582912.0f);  // rounds to an integer n, kept in the low bits
    const vec r = x - (shifted - splat(12582912.0f));
    vec p = splat(1.535336188319500e-4f);  // Cephes exp2f: a minimax polynomial on [-1/2, 1/2]
    p = p * r + splat(1.339887440266574e-3f);
    p = p * r + splat(9.618437357674640e-3f);
    p = p * r + splat(5.550332471162809e-2f);
    p = p * r + splat(2.402264791363012e-1f);
    p = p * r + splat(6.931472028550421e-1f);
    p = p * r + splat(1.0f);
    return (vec)((ivec)p + ((ivec)shifted << 23));  // p times 2^n
}

inline vec square_root(vec x) {
    vec out{};
    for (int lane = 0; lane < LANES; ++lane) out[lane] = __builtin_sqrtf(x[lane]);
    return out;
}

// a0 + a1, a2 + a3, ..., b0 + b1, ...
template <size_t... I>
inline vec add_neighbours(vec a, vec b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
}

// low: a0 b0 a1 b1 ...; high: the same from the middle on
template <size_t... I>
inline void interleave(vec a, vec b, vec* low, vec* high, std::index_sequence<I...>) {
    *low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * LANES)...);
    *high = __builtin_shufflevector(a, b, (LANES / 2 + I / 2 + I % 2 * LANES)...);
}

// Lane i of the result is the sum over the lanes of v[i]; v is used up.
inline vec sum_lanes(vec (&v)[LANES]) {
    for (int count = LANES; count > 1; count /= 2)
        for (int i = 0; i < count / 2; ++i)
            v[i] = add_neighbours(v[2 * i], v[2 * i + 1], std::make_index_sequence<LANES>());
    return v[0];
}

// Lane i of v[j] and lane j of v[i] change places.
inline void transpose(vec (&v)[LANES]) {
    for (int round = 1; round < LANES; round *= 2) {
        vec next[LANES];
        for (int i = 0; i < LANES / 2; ++i)
            interleave(v[i], v[i + LANES / 2], &next[2 * i], &next[2 * i + 1],
                       std::make_index_sequence<LANES>());
        for (int i = 0; i < LANES; ++i) v[i] = next[i];
    }
}

// A matrix whose elements are vectors, or weights that are the same for all rows of a tile.
template <class T>
struct Matrix {
    T* data;
    int64_t row, column;  // strides
    T& operator()(int64_t i, int64_t j) const { return data[i * row + j * column]; }
};

template <int M, int N, bool ADD, class B>
INLINE void product_tile(int depth, const vec* a, int64_t am, int64_t ak, const B* b, int64_t bn,
                         int64_t bk, vec* c, int64_t cm, int64_t cn) {
    vec sum[M][N];
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) {
            const vec first = a[m * am] * splat(b[n * bn]);
            sum[m][n] = ADD ? c[m * cm + n * cn] + first : first;
        }
    for (int k = 1; k < depth; ++k) {
        vec left[M];
        for (int m = 0; m < M; ++m) left[m] = a[m * am + k * ak];
        for (int n = 0; n < N; ++n) {
            const vec right = splat(b[n * bn + k * bk]);
            for (int m = 0; m < M; ++m) sum[m][n] += left[m] * right;
        }
    }
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) c[m * cm + n * cn] = sum[m][n];
}

// One band of M rows; what is left over after whole tiles takes a narrower tile of its own.
template <int M, bool ADD, int N = TILE_N, class B>
INLINE void product_rows(int cols, int depth, const vec* a, int64_t am, int64_t ak, const B* b,
                         int64_t bn, int64_t bk, vec* c, int64_t cm, int64_t cn) {
    int n = 0;
    for (; n + N <= cols; n += N)
        product_tile<M, N, ADD>(depth, a, am, ak, b + n * bn, bn, bk, c + n * cn, cm, cn);
    if constexpr (N > 1) {
        if (n < cols)
            product_rows<M, ADD, N - 1>(cols - n, depth, a, am, ak, b + n * bn, bn, bk, c + n * cn,
                                        cm, cn);
    }
}

// c(m, n) = [c(m, n) +] sum_k a(m, k) b(n, k)
template <bool ADD, int M = TILE_M, class B>
INLINE void product(int rows, int cols, int depth, Matrix<const vec> a, Matrix<const B> b, Matrix<vec> c) {
    int m = 0;
    for (; m + M <= rows; m += M)
        product_rows<M, ADD>(cols, depth, &a(m, 0), a.row, a.column, b.data, b.row, b.column,
                             &c(m, 0), c.row, c.column);
    if constexpr (M > 1) {
        if (m < rows)
            product<ADD, M - 1>(rows - m, cols, depth, {&a(m, 0), a.row, a.column}, b,
                                {&c(m, 0), c.row, c.column});
    }
}

// c(m, n) += sum over k and lanes of a(m, k) b(n, k), for the gradients of weights, which all rows
// share. A full tile's sums over lanes come out of one tree of additions.
INLINE void add_products(int rows, int cols, int depth, Matrix<const vec> a, Matrix<const vec> b,
                         float* c, int64_t stride) {
    constexpr int M = 4, N = LANES / 4;
    for (int m = 0; m < rows; m += M)
        for (int n = 0; n < cols; n += N) {
            vec sum[LANES] = {};
            if (m + M <= rows && n + N <= cols)
                product_tile<M, N, false>(depth, &a(m, 0), a.row, a.column, &b(n, 0), b.row,
                                          b.column, sum, N, 1);
            else
                for (int i = 0; i < M && m + i < rows; ++i)
                    for (int j = 0; j < N && n + j < cols; ++j)
                        product_tile<1, 1, false>(depth, &a(m + i, 0), a.row, a.column,
                                                  &b(n + j, 0), b.row, b.column, sum + i * N + j,
                                                  1, 1);
            const vec total = sum_lanes(sum);
            for (int i = 0; i < M && m + i < rows; ++i)
                for (int j = 0; j < N && n + j < cols; ++j)
                    c[(m + i) * stride + n + j] += total[i * N + j];
        }
}

Matrix<const vec> in(const vec* data, int64_t row, int64_t column) { return {data, row, column}; }
Matrix<const float> in(const float* data, int64_t row, int64_t column) {
    return {data, row, column};
}
Matrix<vec> out(vec* data, int64_t row, int64_t column) { return {data, row, column}; }

}  // namespace

extern "C" {

struct Layer {
    const float* weight;  // [parts, O, D]: query, key, value and, if residual == 2, residual
    const float* gain;    // [O], or null without normalisation
    const float* bias;    // [O]
    float* d_weight;      // gradients, overwritten by attention_backward
    float* d_gain;
    float* d_bias;
    int32_t in_dim, out_dim, heads;
    int32_t residual;  // 0 none, 1 identity, 2 projected
    float scale;       // of the scores
    float epsilon;     // of the normalisation
    float dropout;     // probability on attention weights, 0 for none
    uint32_t seed;     // of the dropped weights
};
}

namespace {

// A layer and the sizes that follow from it.
struct Plan {
    const Layer& layer;
    int fields, D, O, heads, width, parts;
    int64_t head_size;  // vectors of one head's queries, keys or values
    int64_t saved;      // vectors kept for the backward pass, the input not counted
    int64_t weights, parameters;

    Plan(const Layer& layer, int fields)
        : layer(layer), fields(fields), D(layer.in_dim), O(layer.out_dim), heads(layer.heads),
          width(O / heads), parts(layer.residual == 2 ? 4 : 3), head_size(int64_t(fields) * width) {
        saved = int64_t(fields) * (2 * heads + O);
        if (layer.gain) saved += int64_t(fields) * (O + 1);
        weights = int64_t(parts) * O * D;
        parameters = weights + (layer.gain ? 2 * O : 0);
    }
};

// What the backward pass of a layer needs, in vectors. The next layer's input is this one's output.
struct Saved {
    vec* input;        // [F, D]
    vec* top;          // [H, F] largest score of each softmax
    vec* inverse_sum;  // [H, F] of each softmax, relative to `top`
    vec* normalized;   // [F, O] and
    vec* inverse_std;  // [F], with normalisation only
    vec* output;       // [F, O]

    Saved(const Plan& plan, vec* input) : input(input) {
        top = input + plan.fields * plan.D;
        inverse_sum = top + plan.heads * plan.fields;
        normalized = inverse_sum + plan.heads * plan.fields;
        inverse_std = normalized + plan.fields * plan.O;
        output = plan.layer.gain ? inverse_std + plan.fields : normalized;
    }
};

// Room for one thread's work on one tile.
struct Scratch {
    vec *projected, *d_projected;  // [part][head][F][W]
    vec *scores, *d_scores;        // [QUERIES][F]
    uvec rows;                     // which rows the lanes hold
};

// Where a layer's parameter gradients are summed.
struct Sums {
    float *weight, *gain, *bias;
};

inline int at_most(int64_t count, int limit) { return count < limit ? int(count) : limit; }

void project(const Plan& p, const vec* input, vec* projected) {
    for (int m = 0; m < p.fields; m += QUERIES)
        for (int head = 0; head < p.parts * p.heads; ++head)
            product<false>(at_most(p.fields - m, QUERIES), p.width, p.D,
                           in(input + m * p.D, p.D, 1),
                           in(p.layer.weight + int64_t(head) * p.width * p.D, p.D, 1),
                           out(projected + head * p.head_size + m * p.width, p.width, 1));
}

// Every bit of the result depends on every bit of x (the last step of MurmurHash3).
template <class T>
inline T scramble(T x) {
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

// Zero each weight of `rows` queries from `first` on with probability p.layer.dropout and scale the
// rest. Whether a weight stays is a hash of seed, row, head, query and key, so that the backward
// pass finds it again and threads and tiles make no difference.
void drop(int rows, int first, const Plan& p, int head, const uvec& batch_rows, vec* weights) {
    if (p.layer.dropout == 0.0f) return;
    const uint32_t threshold = uint32_t(double(p.layer.dropout) * 4294967296.0);
    const float kept = 1.0f / (1.0f - p.layer.dropout);
    const uvec lanes = scramble(batch_rows + p.layer.seed);
    for (int m = 0; m < rows; ++m) {
        const uint32_t query = scramble(uint32_t(head * p.fields + first + m) * 0x9e3779b9u);
        for (int n = 0; n < p.fields; ++n) {
            const uvec hash = scramble(lanes ^ (query + uint32_t(n)));
            vec& weight = weights[m * p.fields + n];
            weight = hash < threshold ? splat(0.0f) : weight * kept;
        }
    }
}

// Scores become numerators 2^(factor score - top) of `rows` softmaxes. Rows go side by side, so
// that their sums do not wait for one another.
template <int M = TILE_M>
void softmax(int rows, const Plan& p, vec* scores, vec* tops, vec* inverse_sums) {
    const float factor = p.layer.scale * LOG2_E;
    for (; rows >= M; rows -= M, scores += M * p.fields, tops += M, inverse_sums += M) {
        vec top[M], sum[M];
        for (int m = 0; m < M; ++m) top[m] = scores[m * p.fields], sum[m] = vec{};
        for (int n = 1; n < p.fields; ++n)
            for (int m = 0; m < M; ++m) top[m] = maximum(top[m], scores[m * p.fields + n]);
        for (int m = 0; m < M; ++m) top[m] *= factor;
        for (int n = 0; n < p.fields; ++n)
            for (int m = 0; m < M; ++m) {
                vec& score = scores[m * p.fields + n];
                score = power_of_two(score * factor - top[m]);
                sum[m] += score;
            }
        for (int m = 0; m < M; ++m) tops[m] = top[m], inverse_sums[m] = 1.0f / sum[m];
    }
    if constexpr (M > 1) {
        if (rows) softmax<M - 1>(rows, p, scores, tops, inverse_sums);
    }
}

// Scores become weights, and gradients of the weights become those of the scores.
template <int M = TILE_M>
void softmax_backward(int rows, const Plan& p, vec* scores, vec* gradients, const vec* tops,
                      const vec* inverse_sums) {
    const float factor = p.layer.scale * LOG2_E;
    for (; rows >= M; rows -= M, tops += M, inverse_sums += M) {
        vec delta[M] = {};
        for (int n = 0; n < p.fields; ++n)
            for (int m = 0; m < M; ++m) {
                vec& weight = scores[m * p.fields + n];
                weight = power_of_two(weight * factor - tops[m]) * inverse_sums[m];
                delta[m] += weight * gradients[m * p.fields + n];
            }
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < p.fields; ++n) {
                vec& gradient = gradients[m * p.fields + n];
                gradient = scores[m * p.fields + n] * (gradient - delta[m]) * p.layer.scale;
            }
        scores += M * p.fields;
        gradients += M * p.fields;
    }
    if constexpr (M > 1) {
        if (rows) softmax_backward<M - 1>(rows, p, scores, gradients, tops, inverse_sums);
    }
}

void forward_head(const Plan& p, const Saved& saved, int head, const Scratch& scratch) {
    const vec* query = scratch.projected + head * p.head_size;
    const vec* key = query + p.heads * p.head_size;
    const vec* value = key + p.heads * p.head_size;
    const vec* residual = value + p.heads * p.head_size;
    for (int first = 0; first < p.fields; first += QUERIES) {
        const int rows = at_most(p.fields - first, QUERIES);
        vec* inverse_sum = saved.inverse_sum + head * p.fields + first;
        product<false>(rows, p.fields, p.width, in(query + first * p.width, p.width, 1),
                       in(key, p.width, 1), out(scratch.scores, p.fields, 1));
        softmax(rows, p, scratch.scores, saved.top + head * p.fields + first, inverse_sum);
        drop(rows, first, p, head, scratch.rows, scratch.scores);
        vec* z = saved.output + first * p.O + head * p.width;
        product<false>(rows, p.width, p.fields, in(scratch.scores, p.fields, 1),
                       in(value, 1, p.width), out(z, p.O, 1));
        for (int m = 0; m < rows; ++m, z += p.O)
            for (int k = 0; k < p.width; ++k) {
                z[k] *= inverse_sum[m];
                if (p.layer.residual == 1)
                    z[k] += saved.input[(first + m) * p.D + head * p.width + k];
                if (p.layer.residual == 2) z[k] += residual[(first + m) * p.width + k];
            }
    }
}

void forward_layer(const Plan& p, const Saved& saved, const Scratch& scratch) {
    project(p, saved.input, scratch.projected);
    for (int head = 0; head < p.heads; ++head) forward_head(p, saved, head, scratch);
    for (int m = 0; m < p.fields; ++m) {
        vec* z = saved.output + m * p.O;
        if (p.layer.gain) {
            vec mean{}, variance{};
            for (int j = 0; j < p.O; ++j) mean += z[j];
            mean *= 1.0f / p.O;
            for (int j = 0; j < p.O; ++j) variance += (z[j] - mean) * (z[j] - mean);
            const vec inverse = 1.0f / square_root(variance * (1.0f / p.O) + p.layer.epsilon);
            saved.inverse_std[m] = inverse;
            for (int j = 0; j < p.O; ++j) {
                const vec normalized = (z[j] - mean) * inverse;
                saved.normalized[m * p.O + j] = normalized;
                z[j] = normalized * p.layer.gain[j] + p.layer.bias[j];
            }
        }
        for (int j = 0; j < p.O; ++j) z[j] = relu(z[j]);
    }
}

// The gradient of the gain and bias of the normalisation, from that of its output.
void add_norm_gradient(const Plan& p, const Saved& saved, const vec* gradient, const Sums& sums) {
    for (int first = 0; first < p.O; first += LANES) {
        vec gain[LANES] = {}, bias[LANES] = {};
        const int count = at_most(p.O - first, LANES);
        for (int m = 0; m < p.fields; ++m)
            for (int j = 0; j < count; ++j) {
                const int64_t i = m * p.O + first + j;
                gain[j] += gradient[i] * saved.normalized[i];
                bias[j] += gradient[i];
            }
        const vec gains = sum_lanes(gain), biases = sum_lanes(bias);
        for (int j = 0; j < count; ++j) {
            sums.gain[first + j] += gains[j];
            sums.bias[first + j] += biases[j];
        }
    }
}

// Through ReLU and normalisation: `gradient` [F, O] becomes that of heads plus residual.
void backward_output(const Plan& p, const Saved& saved, vec* gradient, const Sums& sums) {
    for (int m = 0; m < p.fields; ++m)
        for (int64_t i = m * p.O; i < m * p.O + p.O; ++i)
            gradient[i] = saved.output[i] > splat(0.0f) ? gradient[i] : splat(0.0f);
    if (!p.layer.gain) return;
    add_norm_gradient(p, saved, gradient, sums);
    for (int m = 0; m < p.fields; ++m) {
        vec* g = gradient + m * p.O;
        const vec* normalized = saved.normalized + m * p.O;
        vec mean{}, projection{};
        for (int j = 0; j < p.O; ++j) {
            g[j] *= p.layer.gain[j];
            mean += g[j];
            projection += g[j] * normalized[j];
        }
        mean *= 1.0f / p.O;
        projection *= 1.0f / p.O;
        for (int j = 0; j < p.O; ++j)
            g[j] = (g[j] - mean - normalized[j] * projection) * saved.inverse_std[m];
    }
}

void backward_head(const Plan& p, const Saved& saved, int head, const vec* gradient,
                   const Scratch& scratch) {
    const int64_t part = p.heads * p.head_size;
    const vec *query = scratch.projected + head * p.head_size, *key = query + part;
    const vec* value = key + part;
    vec *d_query = scratch.d_projected + head * p.head_size, *d_key = d_query + part;
    vec* d_value = d_key + part;
    std::memset((void*)d_key, 0, sizeof(vec) * p.head_size);
    std::memset((void*)d_value, 0, sizeof(vec) * p.head_size);
    for (int first = 0; first < p.fields; first += QUERIES) {
        const int rows = at_most(p.fields - first, QUERIES);
        const int64_t softmaxes = head * p.fields + first;
        const vec* g = gradient + first * p.O + head * p.width;
        const vec* q = query + first * p.width;
        product<false>(rows, p.fields, p.width, in(q, p.width, 1), in(key, p.width, 1),
                       out(scratch.scores, p.fields, 1));
        product<false>(rows, p.fields, p.width, in(g, p.O, 1), in(value, p.width, 1),
                       out(scratch.d_scores, p.fields, 1));
        drop(rows, first, p, head, scratch.rows, scratch.d_scores);
        softmax_backward(rows, p, scratch.scores, scratch.d_scores, saved.top + softmaxes,
                         saved.inverse_sum + softmaxes);
        drop(rows, first, p, head, scratch.rows, scratch.scores);
        product<true>(p.fields, p.width, rows, in(scratch.scores, 1, p.fields),
                      in(g, 1, p.O), out(d_value, p.width, 1));
        product<false>(rows, p.width, p.fields, in(scratch.d_scores, p.fields, 1),
                       in(key, 1, p.width), out(d_query + first * p.width, p.width, 1));
        product<true>(p.fields, p.width, rows, in(scratch.d_scores, 1, p.fields),
                      in(q, 1, p.width), out(d_key, p.width, 1));
    }
}

// `gradient` [F, O] of the layer's output is used up; `d_input` [F, D] is overwritten.
void backward_layer(const Plan& p, const Saved& saved, vec* gradient, vec* d_input,
                    const Sums& sums, const Scratch& scratch) {
    backward_output(p, saved, gradient, sums);
    project(p, saved.input, scratch.projected);
    for (int head = 0; head < p.heads; ++head) backward_head(p, saved, head, gradient, scratch);
    if (p.layer.residual == 1)
        std::memcpy((void*)d_input, gradient, sizeof(vec) * p.fields * p.D);
    else
        std::memset((void*)d_input, 0, sizeof(vec) * p.fields * p.D);
    for (int head = 0; head < p.parts * p.heads; ++head) {
        const bool residual = head >= 3 * p.heads;
        const vec* g = residual ? gradient + (head - 3 * p.heads) * p.width
                                : scratch.d_projected + head * p.head_size;
        const int stride = residual ? p.O : p.width;
        const int64_t offset = int64_t(head) * p.width * p.D;
        product<true>(p.fields, p.D, p.width, in(g, stride, 1), in(p.layer.weight + offset, 1, p.D),
                      out(d_input, p.D, 1));
        add_products(p.width, p.D, p.fields, in(g, 1, stride), in(saved.input, 1, p.D),
                     sums.weight + offset, p.D);
    }
}

// Rows [first, first + LANES) of a [B, F, D] array, a vector per component; rows past B are zero.
void load_rows(const float* source, int64_t B, int64_t first, int fields, int D, vec* target) {
    const int rows = at_most(B - first, LANES);
    for (int m = 0; m < fields; ++m, target += D)
        for (int i = 0; i < D; i += LANES) {
            const int columns = at_most(D - i, LANES);
            vec block[LANES] = {};
            for (int row = 0; row < rows; ++row)
                std::memcpy((void*)&block[row], source + ((first + row) * fields + m) * D + i,
                            sizeof(float) * columns);
            transpose(block);
            for (int column = 0; column < columns; ++column) target[i + column] = block[column];
        }
}

void store_rows(float* target, int64_t B, int64_t first, int fields, int D, const vec* source) {
    const int rows = at_most(B - first, LANES);
    for (int m = 0; m < fields; ++m, source += D)
        for (int i = 0; i < D; i += LANES) {
            const int columns = at_most(D - i, LANES);
            vec block[LANES] = {};
            for (int column = 0; column < columns; ++column) block[column] = source[i + column];
            transpose(block);
            for (int row = 0; row < rows; ++row)
                std::memcpy(target + ((first + row) * fields + m) * D + i,
                            (const void*)&block[row], sizeof(float) * columns);
        }
}

// The stack and its sizes, which every thread shares.
struct Stack {
    std::vector<Plan> plans;
    int64_t saved;          // vectors kept per tile
    int64_t projected = 0;  // of the widest layer
    int64_t widest = 0;     // of the tensors between layers
    int64_t parameters = 0;

    Stack(const Layer* layers, int depth, int fields) : saved(int64_t(fields) * layers[0].in_dim) {
        for (int l = 0; l < depth; ++l) {
            const Plan& p = plans.emplace_back(layers[l], fields);
            saved += p.saved;
            parameters += p.parameters;
            projected = std::max(projected, p.parts * p.heads * p.head_size);
            widest = std::max(widest, int64_t(fields) * std::max(p.D, p.O));
        }
    }
    const Plan& first() const { return plans.front(); }
    const Plan& last() const { return plans.back(); }
};

// One thread's memory, aligned for vectors.
struct Workspace {
    vec* memory;
    Scratch scratch;
    vec *gradient, *d_input, *saved;

    explicit Workspace(const Stack& stack) {
        const int64_t scores = QUERIES * stack.first().fields;
        const int64_t total =
            2 * stack.projected + 2 * scores + 2 * stack.widest + stack.saved;
        memory = static_cast<vec*>(std::aligned_alloc(sizeof(vec), sizeof(vec) * total));
        scratch.projected = memory;
        scratch.d_projected = scratch.projected + stack.projected;
        scratch.scores = scratch.d_projected + stack.projected;
        scratch.d_scores = scratch.scores + scores;
        gradient = scratch.d_scores + scores;
        d_input = gradient + stack.widest;
        saved = d_input + stack.widest;
    }
    void hold(int64_t first_row) {
        for (int lane = 0; lane < LANES; ++lane) scratch.rows[lane] = uint32_t(first_row + lane);
    }
    Workspace(const Workspace&) = delete;
    ~Workspace() { std::free(memory); }
};

void forward_tile(const Stack& stack, Workspace& space, vec* input, int64_t B, int64_t row,
                  const float* x, float* y) {
    space.hold(row);
    load_rows(x, B, row, stack.first().fields, stack.first().D, input);
    for (const Plan& plan : stack.plans) {
        const Saved saved(plan, input);
        forward_layer(plan, saved, space.scratch);
        input = saved.output;
    }
    store_rows(y, B, row, stack.last().fields, stack.last().O, input);
}

// `end` is one past the tile's saved values; `sums` holds the gradients of all parameters.
void backward_tile(const Stack& stack, Workspace& space, const vec* end, int64_t B, int64_t row,
                   const float* dy, float* dx, float* sums) {
    space.hold(row);
    load_rows(dy, B, row, stack.last().fields, stack.last().O, space.gradient);
    sums += stack.parameters;
    const vec* output = end - stack.last().fields * stack.last().O;
    for (auto plan = stack.plans.rbegin(); plan != stack.plans.rend(); ++plan) {
        const Plan& p = *plan;
        vec* input = const_cast<vec*>(output) + int64_t(p.fields) * (p.O - p.D) - p.saved;
        sums -= p.parameters;
        float* gain = sums + p.weights;
        backward_layer(p, Saved(p, input), space.gradient, space.d_input, {sums, gain, gain + p.O},
                       space.scratch);
        std::swap(space.gradient, space.d_input);
        output = input;
    }
    if (dx) store_rows(dx, B, row, stack.first().fields, stack.first().D, space.gradient);
}

}  // namespace

extern "C" {

// Rows that share a register; saved values are kept per tile of that many rows.
int32_t attention_lanes() { return LANES; }

// Numbers that the backward pass needs per tile.
int64_t attention_saved_floats(const Layer* layers, int32_t depth, int32_t fields) {
    return Stack(layers, depth, fields).saved * LANES;
}

// x [B, F, D] -> y [B, F, O]. `saved` holds attention_saved_floats per tile and is aligned to a
// register, or is null when no gradient is wanted. Returns 0, or 1 when memory runs out.
int32_t attention_forward(const Layer* layers, int32_t depth, int64_t B, int32_t fields,
                          const float* x, float* y, float* saved, int32_t threads) {
    const Stack stack(layers, depth, fields);
    const int64_t tiles = (B + LANES - 1) / LANES;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const FlushDenormals flush;
        Workspace space(stack);
        failed = space.memory == nullptr;
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; ++tile)
            if (!failed)
                forward_tile(stack, space, saved ? (vec*)saved + tile * stack.saved : space.saved,
                             B, tile * LANES, x, y);
    }
    return failed;
}

// dy [B, F, O] -> dx [B, F, D] (null when not wanted) and the layers' d_weight, d_gain, d_bias.
int32_t attention_backward(const Layer* layers, int32_t depth, int64_t B, int32_t fields,
                           const float* dy, const float* saved, float* dx, int32_t threads) {
    const Stack stack(layers, depth, fields);
    const int64_t tiles = (B + LANES - 1) / LANES, chunks = (tiles + CHUNK - 1) / CHUNK;
    float* sums = static_cast<float*>(std::calloc(size_t(chunks * stack.parameters) + 1, 4));
    int32_t failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const FlushDenormals flush;
        Workspace space(stack);
        failed = space.memory == nullptr || sums == nullptr;
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int64_t tile = chunk * CHUNK; tile < std::min((chunk + 1) * CHUNK, tiles); ++tile)
                if (!failed)
                    backward_tile(stack, space, (const vec*)saved + (tile + 1) * stack.saved, B,
                                  tile * LANES, dy, dx, sums + chunk * stack.parameters);
    }
    const float* parameter = sums;
    for (const Plan& plan : stack.plans)
        for (int64_t i = 0; i < plan.parameters && !failed; ++i, ++parameter) {
            float total = 0.0f;
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                total += parameter[chunk * stack.parameters];
            if (i < plan.weights)
                plan.layer.d_weight[i] = total;
            else if (i < plan.weights + plan.O)
                plan.layer.d_gain[i - plan.weights] = total;
            else
                plan.layer.d_bias[i - plan.weights - plan.O] = total;
        }
    std::free(sums);
    return failed;
}
}
