// Ids to the rows of a table that are given out while training; see id_map.py for what it promises.
//
// All state lies in the caller's arrays. Entries below `capacity` have a row; those above are
// candidates, a ring of ids that have been seen and have none yet. The index is open addressing with
// linear probing over entries, deletions shift back. Rows are kept in one list per class, oldest use
// first, so that the row to be given up is the head of one of 64 classes: rows are never searched.
#include <cstdint>

namespace {

constexpr int64_t RESERVED = 3, UNSEEN = 2, BLOCK = 32;
constexpr int32_t NONE = -1;
enum Progress { CLOCK, FILLED, HAND, EVICTED };

struct Map {
  int64_t capacity, entries, mask, min_count, by_count, evicts, fades;
  int64_t *ids, *counts;        // [entries]; id 0: empty
  int64_t *last, *generations;  // [capacity]
  int64_t* progress;            // [4]
  int32_t* index;               // [mask + 1] entry plus one; 0: empty
  int32_t *next, *previous;     // [capacity]
  int32_t *heads, *tails;       // [64]

  static uint64_t hash(int64_t id) {
    uint64_t z = static_cast<uint64_t>(id) + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  int64_t find(int64_t id, uint64_t at) const {
    for (; index[at]; at = (at + 1) & mask)
      if (ids[index[at] - 1] == id) return index[at] - 1;
    return NONE;
  }
  int64_t find(int64_t id) const { return find(id, hash(id) & mask); }

  void insert(int64_t entry) {
    uint64_t at = hash(ids[entry]) & mask;
    while (index[at]) at = (at + 1) & mask;
    index[at] = static_cast<int32_t>(entry + 1);
  }

  void erase(int64_t entry) {
    uint64_t hole = hash(ids[entry]) & mask;
    while (index[hole] != entry + 1) hole = (hole + 1) & mask;
    for (uint64_t at = (hole + 1) & mask; index[at]; at = (at + 1) & mask) {
      const uint64_t home = hash(ids[index[at] - 1]) & mask;
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      index[hole] = index[at];
      hole = at;
    }
    index[hole] = 0;
  }

  int64_t class_of(int64_t count) const {
    return by_count ? 63 - __builtin_clzll(static_cast<uint64_t>(count)) : 0;
  }

  void append(int64_t row, int64_t which) {
    next[row] = NONE;
    previous[row] = tails[which];
    (tails[which] == NONE ? heads[which] : next[tails[which]]) = static_cast<int32_t>(row);
    tails[which] = static_cast<int32_t>(row);
  }

  void unlink(int64_t row, int64_t which) {
    (previous[row] == NONE ? heads[which] : next[previous[row]]) = next[row];
    (next[row] == NONE ? tails[which] : previous[next[row]]) = previous[row];
  }

  // One more use of a row; `start` is the clock when the batch began.
  void use(int64_t row, int64_t start) {
    const int64_t before = class_of(counts[row]), after = class_of(++counts[row]);
    if (last[row] > start && before == after) return;
    unlink(row, before);
    append(row, after);
    last[row] = ++progress[CLOCK];
  }

  // Of the rows that this batch does not read, the oldest of the lowest class; or, where uses fade,
  // the one with the most time per use since the last: within a class that is its oldest.
  int64_t victim(int64_t start) const {
    int64_t found = NONE;
    double most = 0, share = 1;
    for (int64_t which = 0; which < 64; which++, share /= 2) {
      const int64_t row = heads[which];
      if (row == NONE || last[row] > start) continue;
      if (!fades) return row;
      const double time = static_cast<double>(progress[CLOCK] - last[row]) * share;
      if (found != NONE && time <= most) continue;
      found = row;
      most = time;
    }
    return found;
  }

  // A row for a new id: an unused one, or one that is taken away; NONE if there is no such row.
  int64_t take_row(int64_t start) {
    if (progress[FILLED] < capacity) return progress[FILLED]++;
    const int64_t row = evicts ? victim(start) : NONE;
    if (row == NONE) return NONE;
    unlink(row, class_of(counts[row]));
    erase(row);
    progress[EVICTED]++;
    return row;
  }

  void add_candidate(int64_t id) {
    const int64_t entry = capacity + progress[HAND];
    progress[HAND] = (progress[HAND] + 1) % (entries - capacity);
    if (ids[entry]) erase(entry);
    ids[entry] = id;
    counts[entry] = 1;
    insert(entry);
  }

  // Hashes of a block, its places in the index and then their ids fetched ahead.
  void places(const int64_t* wanted, int64_t size, uint64_t* at) const {
    for (int64_t i = 0; i < size; i++) {
      at[i] = hash(wanted[i]) & mask;
      __builtin_prefetch(&index[at[i]]);
    }
    for (int64_t i = 0; i < size; i++)
      if (index[at[i]]) __builtin_prefetch(&ids[index[at[i]] - 1]);
  }
};

}  // namespace

extern "C" {

// Codes of ids; adds nothing.
void id_map_find(const Map* map, int64_t count, const int64_t* wanted, int64_t* out) {
  uint64_t at[BLOCK];
  for (int64_t start = 0; start < count; start += BLOCK) {
    const int64_t size = count - start < BLOCK ? count - start : BLOCK;
    map->places(wanted + start, size, at);
    for (int64_t i = 0; i < size; i++) {
      const int64_t id = wanted[start + i];
      if (id < RESERVED) {
        out[start + i] = id < 0 ? UNSEEN : id;
        continue;
      }
      const int64_t entry = map->find(id, at[i]);
      out[start + i] = entry == NONE || entry >= map->capacity ? UNSEEN : entry + RESERVED;
    }
  }
}

// Codes of a training batch's ids, after giving rows to those that are due one.
// `waiting` and `fresh` have room for `count` numbers; returns how many rows are fresh.
int64_t id_map_admit(Map* map, int64_t count, const int64_t* wanted, int64_t* out,
                     int64_t* waiting, int64_t* fresh) {
  const int64_t began = map->progress[CLOCK], capacity = map->capacity;
  const bool candidates = map->entries > capacity;
  uint64_t at[BLOCK];
  int64_t num_waiting = 0, num_fresh = 0;
  for (int64_t start = 0; start < count; start += BLOCK) {
    const int64_t size = count - start < BLOCK ? count - start : BLOCK;
    map->places(wanted + start, size, at);
    for (int64_t i = 0; i < size; i++) {
      const int64_t id = wanted[start + i];
      if (id < RESERVED) {
        out[start + i] = id < 0 ? UNSEEN : id;
        continue;
      }
      const int64_t entry = map->find(id, at[i]);
      if (entry != NONE && entry < capacity) {
        map->use(entry, began);
        out[start + i] = entry + RESERVED;
        continue;
      }
      if (entry != NONE)
        map->counts[entry]++;
      else if (candidates)
        map->add_candidate(id);
      out[start + i] = UNSEEN;
      waiting[num_waiting++] = start + i;
    }
  }
  for (int64_t w = 0; w < num_waiting; w++) {
    const int64_t id = wanted[waiting[w]], entry = map->find(id);
    if (entry != NONE && entry < capacity) {  // admitted a moment ago
      if (!candidates) map->use(entry, began);
      out[waiting[w]] = entry + RESERVED;
      continue;
    }
    if (candidates && (entry == NONE || map->counts[entry] < map->min_count)) continue;
    const int64_t uses = candidates ? map->counts[entry] : 1, row = map->take_row(began);
    if (row == NONE) continue;
    if (candidates) {
      map->erase(entry);
      map->ids[entry] = map->counts[entry] = 0;
    }
    map->ids[row] = id;
    map->counts[row] = uses;
    map->generations[row]++;
    map->last[row] = ++map->progress[CLOCK];
    map->append(row, map->class_of(uses));
    map->insert(row);
    fresh[num_fresh++] = row;
    out[waiting[w]] = row + RESERVED;
  }
  return num_fresh;
}

// Index and lists from ids, counts and `order`, the rows in use by ascending last use.
// Returns 0, or 1 where an id is there twice.
int64_t id_map_rebuild(Map* map, int64_t count, const int64_t* order) {
  for (int64_t i = 0; i <= map->mask; i++) map->index[i] = 0;
  for (int64_t i = 0; i < 64; i++) map->heads[i] = map->tails[i] = NONE;
  for (int64_t entry = 0; entry < map->entries; entry++) {
    if (!map->ids[entry]) continue;
    if (map->find(map->ids[entry]) != NONE) return 1;
    map->insert(entry);
  }
  for (int64_t i = 0; i < count; i++)
    map->append(order[i], map->class_of(map->counts[order[i]]));
  return 0;
}
}
