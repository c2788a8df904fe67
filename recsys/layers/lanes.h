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

// exp(x), x taken as within +-87, by 2^n e^r with |r| <= ln 2 / 2 and a polynomial of degree 6, to
// 2e-7. Of a NaN nothing is said: add x - x where it must stay visible.
INLINE vec exponential(vec x) {
    const vec limit = splat(87.0f);
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vec shifted = x * splat(1.44269504f) + magic;
    const vec n = shifted - magic;
    vec r = x - n * splat(0.693145752f);
    r -= n * splat(1.42860677e-6f);
    vec e = splat(1.38888889e-3f);
    e = e * r + splat(8.33333333e-3f);
    e = e * r + splat(4.16666667e-2f);
    e = e * r + splat(0.166666667f);
    e = e * r + splat(0.5f);
    e = e * r + splat(1.0f);
    e = e * r + splat(1.0f);
    ivec bits, integer;
    std::memcpy(&bits, &e, sizeof e);
    std::memcpy(&integer, &shifted, sizeof shifted);
    bits += (integer - 0x4B400000) << 23;
    std::memcpy(&e, &bits, sizeof e);
    return e;
}

// 1 / (1 + exp(-x)); a NaN stays one.
INLINE vec sigmoid(vec x) { return splat(1.0f) / (splat(1.0f) + exponential(-x)) + (x - x); }

// While it lives, this thread takes numbers below 1e-38 for zero: they cost a hundred times more.
struct FlushDenormals {
#ifdef __SSE__
    unsigned int before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

}  // namespace
