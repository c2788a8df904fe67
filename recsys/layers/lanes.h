// What the kernels of this folder share: a vector of LANES numbers, as wide as the processor's
// registers, and what reads, writes and fills one. A kernel stays one file but for this.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE__
#include <immintrin.h>
#endif

#define INLINE __attribute__((always_inline)) inline

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

INLINE vec splat(float x) { return x - vec{}; }  // minus zero: the compiler drops it

INLINE vec load(const float* source) {
    vec out;
    std::memcpy(&out, source, sizeof out);
    return out;
}

INLINE void store(float* target, vec x) { std::memcpy(target, &x, sizeof x); }

// The first n <= LANES numbers; zeros after them.
INLINE vec load(const float* source, int n) {
    if (n == LANES) return load(source);
    vec out{};
    for (int i = 0; i < n; ++i) out[i] = source[i];
    return out;
}

INLINE void store(float* target, vec x, int n) {
    if (n == LANES) return store(target, x);
    for (int i = 0; i < n; ++i) target[i] = x[i];
}

// While it lives, this thread takes numbers below 1e-38 for zero: they cost a hundred times more.
struct FlushDenormals {
#ifdef __SSE__
    unsigned int before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

}  // namespace
