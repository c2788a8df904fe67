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

// What values of 0, 1, ... rows add under the null: mean, variance, the linear part that values
// share, and the slope of the mean in the share of the second class. Beyond `known` rows they
// shrink as (n - c) and (n - c)^2 do: the share of rows that is left.
struct Null {
  const double* table;  // [known, 4]
  int64_t known;
  double rows;
  void add(int64_t size, double times, double* out) const {
    const double* found = table + 4 * (size < known ? size : known - 1);
    double left = 1;
    if (size >= known) left = (rows - size) / (rows - (known - 1));
    out[0] += times * found[0] * left;
    out[1] += times * found[1] * left * left;
    out[2] += times * found[2];
    out[3] += times * found[3] * left;
  }
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
// sums of the null's four, for counts [V, P, K] and masks [B] of the parts in a half, a bit each.
void half_information(const int32_t* counts, int64_t values, int64_t parts, int64_t classes,
                      const uint32_t* masks, int64_t halves, const double* logs, int64_t num_logs,
                      const double* null_table, int64_t known, double null_rows, double* out) {
  const LogTable xlogx{logs, num_logs};
  const Null null{null_table, known, null_rows};
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
      out[5 * b] += total;
      null.add(size, 1, out + 5 * b + 1);
    }
  }
  for (int64_t p = 0; p < parts; p++)
    for (int64_t b = 0; b < halves; b++)
      if (masks[b] >> p & 1) null.add(1, static_cast<double>(once[p]), out + 5 * b + 1);
}

// For each pair of columns: counts over the two codes (below `width` each) and the class, and from
// them seven sums: k ln k over cells of both and the class, c ln c over cells of both, the number of
// the latter that occur, and the null's four.
void count_pairs(const uint8_t* codes, const uint8_t* labels, int64_t rows, int64_t classes,
                 int64_t width, const int32_t* pairs, int64_t num_pairs, const double* logs,
                 int64_t num_logs, const double* null_table, int64_t known, double* out) {
  const LogTable xlogx{logs, num_logs};
  const Null null{null_table, known, static_cast<double>(rows)};
  std::vector<int32_t> counts(width * width * classes);
  for (int64_t p = 0; p < num_pairs; p++) {
    const uint8_t* first = codes + pairs[2 * p] * rows;
    const uint8_t* second = codes + pairs[2 * p + 1] * rows;
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t i = 0; i < rows; i++)
      counts[(first[i] * width + second[i]) * classes + labels[i]]++;
    double* found = out + 7 * p;
    std::fill(found, found + 7, 0.0);
    for (int64_t cell = 0; cell < width * width; cell++) {
      int64_t size = 0;
      for (int64_t k = 0; k < classes; k++) size += counts[cell * classes + k];
      if (!size) continue;
      for (int64_t k = 0; k < classes; k++) found[0] += xlogx(counts[cell * classes + k]);
      found[1] += xlogx(size);
      found[2] += 1;
      null.add(size, 1, found + 3);
    }
  }
}
}
