// Rows of few bytes, read as float32: single rows, and sums over bags of rows.
//
// Why: as separate operations of torch, gathering the bytes, widening the codes, multiplying and
// adding write and read four tensors of the size of the result. Here each row is read once, and
// rows further down the list are fetched while one is decoded.
//
// Letters: R rows of the table, n rows read, b bags, W numbers of a row, D width of a vector,
// V vectors of a row. The layout of a row is that of compact_rows.py.

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t AHEAD = 16;  // rows fetched ahead
constexpr int64_t EIGHT = 8;
typedef uint8_t bytes8 __attribute__((vector_size(EIGHT)));
typedef int32_t ints8 __attribute__((vector_size(4 * EIGHT)));
typedef float floats8 __attribute__((vector_size(4 * EIGHT)));

struct Format {
    int64_t num_bytes, width, dim, vectors, bits, halves, code_bytes;
    Format(int64_t num_bytes, int64_t width, int64_t dim, int64_t vectors, int64_t bits)
        : num_bytes(num_bytes), width(width), dim(dim), vectors(vectors), bits(bits),
          halves(width + vectors * (2 - dim)), code_bytes((dim * bits + 7) / 8) {}
};

#if defined(__F16C__)
inline float from_half(uint16_t half) { return _cvtsh_ss(half); }
#else
// Exact for every finite half: the bits move to where a float32 has them, its exponent is mended by
// a product, which also makes subnormals right.
inline float from_half(uint16_t half) {
    const uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
    float value;
    std::memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits |= uint32_t(half & 0x8000) << 16;
    std::memcpy(&value, &bits, 4);
    return value;
}
#endif

inline float half_at(const uint8_t* row, int64_t index) {
    uint16_t half;
    std::memcpy(&half, row + 2 * index, 2);
    return from_half(half);
}

// out[j] = offset + scale * code j, or added to what is there where ADD. A product of a half and a
// code is exact in float32, so that fused and separate multiply-adds give the same bits. `code`
// maps bytes to codes, one by one or EIGHT at a time, widened first: processors shift no bytes.
template <bool ADD, class Code>
inline void decode_codes(const uint8_t* bytes, int64_t count, float scale, float offset, Code code,
                         float* out) {
    int64_t j = 0;
    for (; j + EIGHT <= count; j += EIGHT) {
        bytes8 some;
        std::memcpy(&some, bytes + j, sizeof some);
        const ints8 wide = code(__builtin_convertvector(some, ints8));
        floats8 values = offset + scale * __builtin_convertvector(wide, floats8);
        if (ADD) {
            floats8 before;
            std::memcpy(&before, out + j, sizeof before);
            values += before;
        }
        std::memcpy(out + j, &values, sizeof values);
    }
    for (; j < count; ++j) {
        const float value = offset + scale * float(code(int32_t(bytes[j])));
        out[j] = ADD ? out[j] + value : value;
    }
}

template <bool ADD>
inline void decode_halves(const uint8_t* bytes, int64_t count, float* out) {
    int64_t j = 0;
#if defined(__F16C__)
    for (; j + EIGHT <= count; j += EIGHT) {
        __m256 values = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(bytes + 2 * j)));
        if (ADD) values = _mm256_add_ps(values, _mm256_loadu_ps(out + j));
        _mm256_storeu_ps(out + j, values);
    }
#endif
    for (; j < count; ++j) out[j] = ADD ? out[j] + half_at(bytes, j) : half_at(bytes, j);
}

// BITS of a code and D are known to the compiler where D > 0: a row is then a handful of
// instructions without a loop, a third of what it takes otherwise.
template <bool ADD, int64_t BITS, int64_t D>
inline void decode(const uint8_t* row, const Format f, float* out) {
    const int64_t dim = D ? D : f.dim, halves = f.halves, code_bytes = (dim * BITS + 7) / 8;
    const uint8_t* codes = row + 2 * halves;
    for (int64_t v = 0; v < f.vectors; ++v, codes += code_bytes, out += dim) {
        const float scale = half_at(row, 2 * v), offset = half_at(row, 2 * v + 1);
        if (BITS == 8) {
            const auto whole = [](auto code) { return code; };
            decode_codes<ADD>(codes, dim, scale, offset, whole, out);
        } else {
            const auto low = [](auto code) -> decltype(code) { return code & 15; };
            const auto high = [](auto code) -> decltype(code) { return code >> 4; };
            decode_codes<ADD>(codes, code_bytes, scale, offset, low, out);
            decode_codes<ADD>(codes, dim - code_bytes, scale, offset, high, out + code_bytes);
        }
    }
    decode_halves<ADD>(row + 4 * f.vectors, halves - 2 * f.vectors, out);
}

inline void fetch(const uint8_t* row, int64_t num_bytes) {
    for (int64_t at = 0; at < num_bytes; at += 64) __builtin_prefetch(row + at);
    __builtin_prefetch(row + num_bytes - 1);
}

template <int64_t BITS, int64_t D>
void read_rows(int64_t n, const int64_t* rows, const uint8_t* table, const Format f, float* out,
               int32_t threads) {
    const int64_t num_bytes = f.num_bytes, width = f.width;
#pragma omp parallel for schedule(static) num_threads(threads) firstprivate(f) if (n > 4096)
    for (int64_t i = 0; i < n; ++i) {
        if (i + AHEAD < n) fetch(table + rows[i + AHEAD] * num_bytes, num_bytes);
        decode<false, BITS, D>(table + rows[i] * num_bytes, f, out + i * width);
    }
}

template <int64_t BITS, int64_t D>
void read_bags(int64_t b, const int64_t* rows, const int64_t* offsets, const uint8_t* table,
               const Format f, float* out, int32_t threads) {
    const int64_t num_bytes = f.num_bytes, width = f.width, n = offsets[b];
#pragma omp parallel for schedule(dynamic, 256) num_threads(threads) firstprivate(f) if (n > 4096)
    for (int64_t k = 0; k < b; ++k) {
        float* total = out + k * width;
        std::memset(total, 0, sizeof(float) * width);
        for (int64_t i = offsets[k]; i < offsets[k + 1]; ++i) {
            if (i + AHEAD < n) fetch(table + rows[i + AHEAD] * num_bytes, num_bytes);
            decode<true, BITS, D>(table + rows[i] * num_bytes, f, total);
        }
    }
}

// What was compiled for the commonest widths, else what serves every width.
#define FOR_FORMAT(FUNCTION, ...)                                                   \
    const int64_t known = f.bits * 1000 + f.dim;                                    \
    if (known == 8008) FUNCTION<8, 8>(__VA_ARGS__);                                 \
    else if (known == 8016) FUNCTION<8, 16>(__VA_ARGS__);                           \
    else if (known == 8032) FUNCTION<8, 32>(__VA_ARGS__);                           \
    else if (known == 8064) FUNCTION<8, 64>(__VA_ARGS__);                           \
    else if (known == 4016) FUNCTION<4, 16>(__VA_ARGS__);                           \
    else if (known == 4032) FUNCTION<4, 32>(__VA_ARGS__);                           \
    else if (known == 4064) FUNCTION<4, 64>(__VA_ARGS__);                           \
    else if (f.bits == 8) FUNCTION<8, 0>(__VA_ARGS__);                              \
    else FUNCTION<4, 0>(__VA_ARGS__)

int64_t first_outside(int64_t n, const int64_t* rows, int64_t R) {
    bool outside = false;  // without a branch the whole list is compared at memory speed
    for (int64_t i = 0; i < n; ++i) outside |= uint64_t(rows[i]) >= uint64_t(R);
    for (int64_t i = 0; outside && i < n; ++i)
        if (uint64_t(rows[i]) >= uint64_t(R)) return i;
    return -1;
}

}  // namespace

extern "C" {

// out[i] = row rows[i]; the number of the first row outside [0, R), or -1.
int64_t compact_read(int64_t n, const int64_t* rows, const uint8_t* table, int64_t R,
                     int64_t num_bytes, int64_t W, int64_t D, int64_t V, int64_t bits, float* out,
                     int32_t threads) {
    const int64_t wrong = first_outside(n, rows, R);
    if (wrong >= 0) return wrong;
    const Format f(num_bytes, W, D, V, bits);
    FOR_FORMAT(read_rows, n, rows, table, f, out, threads);
    return -1;
}

// out[k] = sum of the rows of bag k, rows[offsets[k] : offsets[k + 1]].
int64_t compact_read_bags(int64_t b, const int64_t* rows, const int64_t* offsets,
                          const uint8_t* table, int64_t R, int64_t num_bytes, int64_t W, int64_t D,
                          int64_t V, int64_t bits, float* out, int32_t threads) {
    const int64_t wrong = first_outside(offsets[b], rows, R);
    if (wrong >= 0) return wrong;
    const Format f(num_bytes, W, D, V, bits);
    FOR_FORMAT(read_bags, b, rows, offsets, table, f, out, threads);
    return -1;
}

}  // extern "C"
