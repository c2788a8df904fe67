// The strongest neighbours of every item in the graph of items that share users.
//
// Why: the product R^T R has a thousand neighbours a row on real data, and nobody needs more than
// ten of them. Here one row at a time is counted into an array that stays in cache, and only its
// best are kept.
//
// Letters: U users, I items, k neighbours kept.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

struct Neighbour {
    double strength;
    int32_t item;
    bool operator<(const Neighbour& other) const {  // a total order: ties to the lower index
        return strength > other.strength || (strength == other.strength && item < other.item);
    }
};

}  // namespace

extern "C" {

// For each item i the k items j of largest counts(i, j)^2 / (sums[j] + 1), where counts(i, j) is
// the number of users that have both: `items` [I, k] in descending order and `counts` [I, k].
// Where there are fewer than k, the item itself with a count of zero follows.
void strongest_neighbours(int64_t I, int64_t k, const int64_t* users_of, const int32_t* users,
                          const int64_t* items_of, const int32_t* items_have, const int64_t* sums,
                          int32_t keep_diagonal, int32_t* items, int32_t* counts,
                          int32_t threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<int32_t> shared(I, 0), touched;
        std::vector<Neighbour> best;
#pragma omp for schedule(dynamic, 64)
        for (int64_t i = 0; i < I; ++i) {
            touched.clear();
            for (int64_t p = users_of[i]; p < users_of[i + 1]; ++p) {
                const int32_t user = users[p];
                for (int64_t q = items_of[user]; q < items_of[user + 1]; ++q) {
                    const int32_t j = items_have[q];
                    if (shared[j]++ == 0) touched.push_back(j);
                }
            }
            best.clear();  // a heap whose first is the weakest
            for (const int32_t j : touched) {
                if (j == i && !keep_diagonal) continue;
                const double count = shared[j];
                const Neighbour candidate{count * count / (double(sums[j]) + 1.0), j};
                if (int64_t(best.size()) < k) {
                    best.push_back(candidate);
                    std::push_heap(best.begin(), best.end());
                } else if (candidate < best.front()) {
                    std::pop_heap(best.begin(), best.end());
                    best.back() = candidate;
                    std::push_heap(best.begin(), best.end());
                }
            }
            std::sort(best.begin(), best.end());
            for (int64_t n = 0; n < k; ++n) {
                const bool found = n < int64_t(best.size());
                items[i * k + n] = found ? best[n].item : int32_t(i);
                counts[i * k + n] = found ? shared[best[n].item] : 0;
            }
            for (const int32_t j : touched) shared[j] = 0;
        }
    }
}

}  // extern "C"
