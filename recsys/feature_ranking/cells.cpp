// Counting: for every row, one more in the cell of its value, part and class.
//
// The rows of a chunk are counted one after the other; a look-up ahead of the one in hand hides the
// wait for a table that is larger than the cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t AHEAD = 16;
constexpr uint16_t NOT_COUNTED = 65535;

template <typename Code>
void count(const Code* codes, const uint16_t* cells, int64_t rows, int64_t width, int32_t* counts) {
  for (int64_t i = 0; i < rows; i++) {
    if (i + AHEAD < rows)
      __builtin_prefetch(counts + static_cast<int64_t>(codes[i + AHEAD]) * width, 1);
    if (cells[i] == NOT_COUNTED) continue;
    counts[static_cast<int64_t>(codes[i]) * width + cells[i]]++;
  }
}

// k ln k for whole k: by a table while it lasts.
struct LogTable {
  const double* table;
  int64_t size;
  double operator()(int64_t k) const {
    return k < size ? table[k] : static_cast<double>(k) * std::log(static_cast<double>(k));
  }
};

// What values of 0, 1, ... rows add under the null: mean, variance, and the linear part that values
// share. Beyond `known` rows the last entry holds.
struct Null {
  const double* table;  // [known, 3]
  int64_t known;
  const double* operator()(int64_t size) const { return table + 3 * (size < known ? size : known - 1); }
};

}  // namespace

extern "C" {

void count_cells(const void* codes, int32_t wide, const uint16_t* cells, int64_t rows,
                 int64_t width, int32_t* counts) {
  if (wide)
    count(static_cast<const int32_t*>(codes), cells, rows, width, counts);
  else
    count(static_cast<const uint16_t*>(codes), cells, rows, width, counts);
}

// Of each half-sample: sum over values and classes of k ln k less sum over values of c ln c; and the
// sums of the null's three, for counts [V, P, K] and masks [B] of the parts in a half, a bit each.
void half_information(const int32_t* counts, int64_t values, int64_t parts, int64_t classes,
                      const uint32_t* masks, int64_t halves, const double* logs, int64_t num_logs,
                      const double* null_table, int64_t known, double* out) {
  const LogTable xlogx{logs, num_logs};
  const Null null{null_table, known};
  std::vector<int32_t> sums(halves * (classes + 1)), chosen(parts * halves);
  std::vector<int64_t> once(parts, 0);
  for (int64_t p = 0; p < parts; p++)
    for (int64_t b = 0; b < halves; b++)
      chosen[p * halves + b] = -static_cast<int32_t>(masks[b] >> p & 1);
  for (int64_t v = 0; v < values; v++) {
    const int32_t* table = counts + v * parts * classes;
    int64_t all = 0, last = 0;
    for (int64_t i = 0; i < parts * classes; i++) {
      all += table[i];
      last = table[i] ? i : last;
    }
    if (!all) continue;
    if (all == 1) {  // most values of an id: told apart by their part alone
      once[last / classes]++;
      continue;
    }
    std::fill(sums.begin(), sums.end(), 0);
    for (int64_t p = 0; p < parts; p++)
      for (int64_t k = 0; k < classes; k++) {
        const int32_t cell = table[p * classes + k];
        if (!cell) continue;
        const int32_t* mask = chosen.data() + p * halves;
        int32_t* of_class = sums.data() + k * halves;
        int32_t* size = sums.data() + classes * halves;
        for (int64_t b = 0; b < halves; b++) of_class[b] += cell & mask[b];
        for (int64_t b = 0; b < halves; b++) size[b] += cell & mask[b];
      }
    for (int64_t b = 0; b < halves; b++) {
      const int64_t size = sums[classes * halves + b];
      if (!size) continue;
      double total = -xlogx(size);
      for (int64_t k = 0; k < classes; k++) total += xlogx(sums[k * halves + b]);
      const double* expected = null(size);
      out[4 * b] += total;
      for (int64_t i = 0; i < 3; i++) out[4 * b + 1 + i] += expected[i];
    }
  }
  for (int64_t p = 0; p < parts; p++)
    for (int64_t b = 0; b < halves; b++)
      if (masks[b] >> p & 1)
        for (int64_t i = 0; i < 3; i++)
          out[4 * b + 1 + i] += static_cast<double>(once[p]) * null(1)[i];
}

// For each pair of columns: counts over the two codes (below `width` each) and the class, and from
// them six sums: k ln k over cells of both and the class, c ln c over cells of both, the number of
// the latter that occur, and the null's three.
void count_pairs(const uint8_t* codes, const uint8_t* labels, int64_t rows, int64_t classes,
                 int64_t width, const int32_t* pairs, int64_t num_pairs, const double* logs,
                 int64_t num_logs, const double* null_table, int64_t known, double* out) {
  const LogTable xlogx{logs, num_logs};
  const Null null{null_table, known};
  std::vector<int32_t> counts(width * width * classes);
  for (int64_t p = 0; p < num_pairs; p++) {
    const uint8_t* first = codes + pairs[2 * p] * rows;
    const uint8_t* second = codes + pairs[2 * p + 1] * rows;
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t i = 0; i < rows; i++)
      counts[(first[i] * width + second[i]) * classes + labels[i]]++;
    double* found = out + 6 * p;
    std::fill(found, found + 6, 0.0);
    for (int64_t cell = 0; cell < width * width; cell++) {
      int64_t size = 0;
      for (int64_t k = 0; k < classes; k++) size += counts[cell * classes + k];
      if (!size) continue;
      for (int64_t k = 0; k < classes; k++) found[0] += xlogx(counts[cell * classes + k]);
      found[1] += xlogx(size);
      found[2] += 1;
      const double* expected = null(size);
      for (int64_t i = 0; i < 3; i++) found[3 + i] += expected[i];
    }
  }
}
}
