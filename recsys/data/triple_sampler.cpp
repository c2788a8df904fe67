// The items that users do not have, by rank.
//
// Why: a search among all pairs at once reads some twenty places all over memory; within the user's
// own sorted row it reads about five that lie together.
//
// Letters: b rows, n ranks of a row.

#include <cstdint>

extern "C" {

// out[r, k] = the item of rank ranks[r, k] among those that users[r] does not have. May be in place.
void lacking_items(int64_t b, int64_t n, const int64_t* users, const int64_t* offsets,
                   const int32_t* items, const int64_t* ranks, int64_t* out) {
    for (int64_t r = 0; r < b; ++r) {
        // A few rows on: where the user's items begin, then the middle of them.
        if (r + 16 < b) __builtin_prefetch(offsets + users[r + 16]);
        if (r + 8 < b) {
            const int64_t* next = offsets + users[r + 8];
            __builtin_prefetch(items + (next[0] + next[1]) / 2);
        }
        const int64_t begin = offsets[users[r]], count = offsets[users[r] + 1] - begin;
        const int32_t* own = items + begin;
        for (int64_t k = r * n; k < (r + 1) * n; ++k) {
            // How many j have own[j] - j <= rank: the numbers own[j] - j ascend.
            const int64_t rank = ranks[k];
            int64_t low = 0, size = count;
            while (size > 0) {
                const int64_t half = size / 2;
                const bool passed = own[low + half] - (low + half) <= rank;
                low = passed ? low + half + 1 : low;
                size = passed ? size - half - 1 : half;
            }
            out[k] = rank + low;
        }
    }
}

}  // extern "C"
