// An index of distinct texts: each gets the next number when it is first seen.
//
// Open addressing with linear probing over 8-byte slots (32 bits of the hash, 32 of the number), the
// texts end to end in one arena. Texts are hashed in blocks and their slots fetched ahead, so that
// a lookup in a table larger than the cache waits for memory once per block and not once per text.
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace {

constexpr uint64_t K0 = 0x9E3779B97F4A7C15ull, K1 = 0xBF58476D1CE4E5B9ull;
constexpr int64_t BLOCK = 32;

inline uint64_t fold(uint64_t a, uint64_t b) {
  const __uint128_t product = static_cast<__uint128_t>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_text(const char* text, uint64_t length, uint64_t seed) {
  uint64_t h = seed ^ fold(length + K1, K0), word;
  while (length >= 8) {
    std::memcpy(&word, text, 8);
    h = fold(h ^ word, K0);
    text += 8;
    length -= 8;
  }
  word = 0;
  std::memcpy(&word, text, length);
  return fold(h ^ word, K1 ^ seed);
}

struct Slot {
  uint32_t tag;
  uint32_t number;  // plus one; 0 is empty
};

struct Index {
  explicit Index(uint64_t seed_) : seed(seed_), slots(1024), mask(1023), ends(1, 0) {}

  uint64_t seed;
  std::vector<Slot> slots;
  uint64_t mask;
  std::vector<int64_t> ends;  // text i is arena[ends[i] .. ends[i + 1])
  std::vector<uint64_t> hashes;
  std::vector<char> arena;
  std::mutex lock;

  void grow() {
    std::vector<Slot> wider(slots.size() * 2);
    const uint64_t wide = wider.size() - 1;
    for (uint64_t i = 0; i < hashes.size(); i++) {
      uint64_t at = hashes[i] & wide;
      while (wider[at].number) at = (at + 1) & wide;
      wider[at] = {static_cast<uint32_t>(hashes[i] >> 32), static_cast<uint32_t>(i + 1)};
    }
    slots.swap(wider);
    mask = wide;
  }

  // -1 for a text that is not there, which is then added if `add`.
  template <bool add>
  int32_t find(const char* text, int64_t length, uint64_t hash) {
    const uint32_t tag = static_cast<uint32_t>(hash >> 32);
    uint64_t at = hash & mask;
    for (; slots[at].number; at = (at + 1) & mask) {
      if (slots[at].tag != tag) continue;
      const uint32_t number = slots[at].number - 1;
      const int64_t start = ends[number];
      if (ends[number + 1] - start == length &&
          std::memcmp(arena.data() + start, text, length) == 0)
        return static_cast<int32_t>(number);
    }
    if (!add) return -1;
    const uint32_t number = static_cast<uint32_t>(hashes.size());
    hashes.push_back(hash);
    arena.insert(arena.end(), text, text + length);
    ends.push_back(static_cast<int64_t>(arena.size()));
    slots[at] = {tag, number + 1};
    if (hashes.size() * 2 > slots.size()) grow();
    return static_cast<int32_t>(number);
  }

  template <bool add, typename Offset>
  void number_texts(const char* data, const Offset* offsets, const uint8_t* valid, int64_t first,
                    int64_t count, int32_t* out) {
    uint64_t hash[BLOCK];
    for (int64_t start = 0; start < count; start += BLOCK) {
      const int64_t size = count - start < BLOCK ? count - start : BLOCK;
      for (int64_t i = 0; i < size; i++) {
        const int64_t row = first + start + i;
        const Offset begin = offsets[row];
        hash[i] = hash_text(data + begin, static_cast<uint64_t>(offsets[row + 1] - begin), seed);
        __builtin_prefetch(&slots[hash[i] & mask]);
      }
      for (int64_t i = 0; i < size; i++) {
        const int64_t row = first + start + i;
        if (valid && !(valid[row >> 3] >> (row & 7) & 1)) {
          out[start + i] = -1;
          continue;
        }
        const Offset begin = offsets[row];
        out[start + i] = find<add>(data + begin, offsets[row + 1] - begin, hash[i]);
      }
    }
  }
};

}  // namespace

extern "C" {

void* text_index_new(uint64_t seed) { return new (std::nothrow) Index(seed); }

void text_index_free(void* index) { delete static_cast<Index*>(index); }

// Returns the number of distinct texts, or -1 when memory ran out.
int64_t text_index_codes(void* handle, const char* data, const void* offsets, int32_t wide,
                         const uint8_t* valid, int64_t first, int64_t count, int32_t* out) {
  Index* index = static_cast<Index*>(handle);
  const std::lock_guard<std::mutex> guard(index->lock);
  try {
    if (wide)
      index->number_texts<true>(data, static_cast<const int64_t*>(offsets), valid, first, count,
                                out);
    else
      index->number_texts<true>(data, static_cast<const int32_t*>(offsets), valid, first, count,
                                out);
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return static_cast<int64_t>(index->hashes.size());
}

// Adds nothing; -1 also for texts that are not there. Many may ask at once while nobody adds.
void text_index_find(void* handle, const char* data, const void* offsets, int32_t wide,
                     const uint8_t* valid, int64_t first, int64_t count, int32_t* out) {
  Index* index = static_cast<Index*>(handle);
  if (wide)
    index->number_texts<false>(data, static_cast<const int64_t*>(offsets), valid, first, count,
                               out);
  else
    index->number_texts<false>(data, static_cast<const int32_t*>(offsets), valid, first, count,
                               out);
}

int64_t text_index_size(void* handle) {
  return static_cast<int64_t>(static_cast<Index*>(handle)->hashes.size());
}

const int64_t* text_index_ends(void* handle) { return static_cast<Index*>(handle)->ends.data(); }

const char* text_index_arena(void* handle) { return static_cast<Index*>(handle)->arena.data(); }
}
