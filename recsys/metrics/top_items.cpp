// The k best items of every user: from rows of scores, or from vectors without writing the scores.
//
// Why: a full ranking makes U x I scores and keeps k of each row. Written to memory, they are read
// again by the mask, by the selection and by its copy. Here a score is compared with the k-th best
// of its row, so far, while it is in a register, and only the few that pass cost more than that.
// Items come in ascending order, so that an item of equal score never displaces an earlier one, and
// the excluded items of a user, ascending too, are merged by a cursor.
//
// Letters: n users, I items, D width, k length of a list.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#ifdef __SSE__
#include <immintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // ROWS x 2 sums fill the registers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int WIDTH = 2 * LANES;   // items of a panel
constexpr int BLOCK = 96 / ROWS;   // tiles of users that a panel is multiplied with in turn
constexpr int64_t SPARE = 16;       // least number of candidates between two cuts
constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr int64_t NONE = std::numeric_limits<int64_t>::max();

typedef float vec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float* source) {
    vec out;
    std::memcpy(&out, source, sizeof out);
    return out;
}

// Bit i: score i is above the bar or NaN.
INLINE uint32_t above(vec scores, float bar) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)scores, _mm512_set1_ps(bar), _CMP_NLE_UQ);
#elif defined(__AVX__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)scores, _mm256_set1_ps(bar), _CMP_NLE_UQ));
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; ++i) bits |= uint32_t(!(scores[i] <= bar)) << i;
    return bits;
#endif
}

// One integer holds a score and, below it, the item counted from the end: a greater key is better,
// and equal keys do not exist.
INLINE uint64_t key_of(float score, int32_t item) {
    int32_t bits;
    score += 0.0f;  // minus zero equals zero
    std::memcpy(&bits, &score, sizeof bits);
    bits ^= (bits >> 31) & 0x7FFFFFFF;
    return uint64_t(uint32_t(bits) ^ 0x80000000u) << 32 | (0xFFFFFFFFu - uint32_t(item));
}

INLINE float score_of(uint64_t key) {
    int32_t bits = int32_t(uint32_t(key >> 32) ^ 0x80000000u);
    bits ^= (bits >> 31) & 0x7FFFFFFF;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

INLINE int64_t room_for(int64_t k) { return k + std::max<int64_t>(k, SPARE); }

// The best of one user's items so far, in no order: twice as many as wanted before they are cut,
// which costs less per item than a heap.
struct TopList {
    uint64_t* keys = nullptr;
    int64_t k = 0, size = 0;
    const int32_t *excluded = nullptr, *last = nullptr;
    float bar = INFINITE;  // a score must be above it
    int64_t nan = -1;      // the first item whose score is NaN

    void start(uint64_t* room, int64_t length, const int32_t* first, const int32_t* end) {
        *this = TopList{room, length, 0, first, end, -INFINITE, -1};
    }

    __attribute__((noinline)) void offer(float score, int32_t item) {
        if (score != score && nan < 0) nan = item;
        if (!(score > bar)) return;
        while (excluded < last && *excluded < item) ++excluded;
        if (excluded < last && *excluded == item) return;
        keys[size++] = key_of(score, item);
        if (size < room_for(k)) return;
        std::nth_element(keys, keys + k - 1, keys + size, std::greater<uint64_t>());
        size = k;
        bar = score_of(keys[k - 1]);
    }

    // Best first; -1 and minus infinity after the last candidate.
    void finish(int32_t* items, float* scores) {
        const int64_t count = std::min(k, size);
        std::partial_sort(keys, keys + count, keys + size, std::greater<uint64_t>());
        for (int64_t i = 0; i < k; ++i) {
            items[i] = i < count ? int32_t(0xFFFFFFFFu - uint32_t(keys[i])) : -1;
            scores[i] = i < count ? score_of(keys[i]) : -INFINITE;
        }
    }
};

// One panel of items times one tile of users: each sum in the order of d, whatever surrounds it.
INLINE void multiply(const float* users, const float* panel, int64_t D, vec sums[ROWS][2]) {
    vec total[ROWS][2] = {};
    for (int64_t d = 0; d < D; ++d) {
        const vec low = load(panel + d * WIDTH), high = load(panel + d * WIDTH + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const float user = users[d * ROWS + r];
            total[r][0] += user * low;
            total[r][1] += user * high;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) sums[r][0] = total[r][0], sums[r][1] = total[r][1];
}

INLINE void offer_all(TopList& list, uint32_t bits, const float* scores, int64_t first) {
    for (; bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        list.offer(scores[lane], int32_t(first + lane));
    }
}

}  // namespace

extern "C" {

int64_t panel_width() { return WIDTH; }

// panels[p][d][i] = vectors[p * WIDTH + i][d], zeros after the last item.
void pack_items(int64_t I, int64_t D, const float* vectors, float* panels, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < I; first += WIDTH) {
        float* panel = panels + first * D;
        for (int64_t i = 0; i < WIDTH; ++i)
            for (int64_t d = 0; d < D; ++d)
                panel[d * WIDTH + i] = first + i < I ? vectors[(first + i) * D + d] : 0.0f;
    }
}

// Lists of the users `rows` [n] of `vectors` [U, D]. Returns -1, or the first n * I + item whose
// score is NaN.
int64_t top_of_vectors(int64_t n, int64_t I, int64_t D, int64_t k, const int64_t* rows,
                       const float* vectors, const float* panels, const int64_t* offsets,
                       const int32_t* excluded, int32_t* items, float* scores, int32_t threads) {
    constexpr int64_t USERS = BLOCK * ROWS;
    int64_t nan = NONE;
#pragma omp parallel num_threads(threads) reduction(min : nan)
    {
        std::vector<float> tiles(USERS * D);
        std::vector<uint64_t> room(USERS * room_for(k));
        std::vector<TopList> lists(USERS);
#pragma omp for schedule(dynamic)
        for (int64_t begin = 0; begin < n; begin += USERS) {
            const int64_t count = std::min(USERS, n - begin);
            std::fill(tiles.begin(), tiles.end(), 0.0f);
            for (int64_t u = 0; u < USERS; ++u) {
                lists[u] = TopList{};
                if (u >= count) continue;
                const int64_t row = rows[begin + u];
                float* tile = tiles.data() + u / ROWS * ROWS * D + u % ROWS;
                for (int64_t d = 0; d < D; ++d) tile[d * ROWS] = vectors[row * D + d];
                lists[u].start(&room[u * room_for(k)], k, excluded + offsets[row],
                               excluded + offsets[row + 1]);
            }
            const int64_t num_tiles = (count + ROWS - 1) / ROWS;
            for (int64_t first = 0; first < I; first += WIDTH) {
                const uint64_t some = I - first < WIDTH ? (1ull << (I - first)) - 1 : ~0ull;
                for (int64_t t = 0; t < num_tiles; ++t) {
                    vec sums[ROWS][2];
                    multiply(&tiles[t * ROWS * D], panels + first * D, D, sums);
                    for (int r = 0; r < ROWS; ++r) {
                        TopList& list = lists[t * ROWS + r];
                        const uint32_t bits =
                            (above(sums[r][0], list.bar) | above(sums[r][1], list.bar) << LANES) &
                            uint32_t(some);
                        if (__builtin_expect(bits != 0, 0))
                            offer_all(list, bits, (const float*)sums[r], first);
                    }
                }
            }
            for (int64_t u = 0; u < count; ++u) {
                if (lists[u].nan >= 0) nan = std::min(nan, (begin + u) * I + lists[u].nan);
                lists[u].finish(items + (begin + u) * k, scores + (begin + u) * k);
            }
        }
    }
    return nan == NONE ? -1 : nan;
}

// Lists of the users `rows` [n] whose scores are `given` [n, I]; returns as `top_of_vectors`.
int64_t top_of_scores(int64_t n, int64_t I, int64_t k, const int64_t* rows, const float* given,
                      const int64_t* offsets, const int32_t* excluded, int32_t* items,
                      float* scores, int32_t threads) {
    int64_t nan = NONE;
#pragma omp parallel num_threads(threads) reduction(min : nan)
    {
        std::vector<uint64_t> room(room_for(k));
#pragma omp for schedule(dynamic, 4)
        for (int64_t u = 0; u < n; ++u) {
            const float* score = given + u * I;
            TopList list;
            list.start(room.data(), k, excluded + offsets[rows[u]], excluded + offsets[rows[u] + 1]);
            int64_t i = 0;
            for (; i + 4 * LANES <= I; i += 4 * LANES) {
                uint64_t bits = 0;
                for (int part = 0; part < 4; ++part)
                    bits |= uint64_t(above(load(score + i + part * LANES), list.bar))
                            << part * LANES;
                if (__builtin_expect(bits == 0, 1)) continue;
                offer_all(list, uint32_t(bits), score + i, i);
                offer_all(list, uint32_t(bits >> 32), score + i + 32, i + 32);
            }
            for (; i < I; ++i)
                if (!(score[i] <= list.bar)) list.offer(score[i], int32_t(i));
            if (list.nan >= 0) nan = std::min(nan, u * I + list.nan);
            list.finish(items + u * k, scores + u * k);
        }
    }
    return nan == NONE ? -1 : nan;
}

}  // extern "C"
