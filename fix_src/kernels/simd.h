// Blocks of 16 channels in vector registers of whatever width the file is compiled for.

#ifndef TRAJCAST_SIMD_H
#define TRAJCAST_SIMD_H

#include <cstdint>
#include <cstring>
#include <utility>

#define TRAJCAST_INLINE inline __attribute__((always_inline))

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

constexpr int kLanes = 16;         // channels in a block
constexpr int kTileEdges = kLanes; // edges in a tile

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
#endif

template <typename T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float Values __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
  static constexpr int mantissa = 23;
};
template <> struct VectorOf<double> {
  typedef double Values __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Integers __attribute__((vector_size(kVectorBytes)));
  static constexpr int mantissa = 52;
};
template <typename T> using Vector = typename VectorOf<T>::Values;

// Registers that a block fills.
template <typename T> constexpr int kVectors = kLanes * int(sizeof(T)) / kVectorBytes;

// Call f(0), f(1), ... f(N - 1) with constants: arrays indexed by them end up in registers, which
// unrolled loops do not grant.
template <typename F, int... I>
TRAJCAST_INLINE void unroll(F &&f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N, typename F> TRAJCAST_INLINE void unroll(F &&f) {
  unroll(f, std::make_integer_sequence<int, N>());
}

template <typename T> TRAJCAST_INLINE Vector<T> load_vector(const T *from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof(v)); // an unaligned load
  return v;
}
// Not x + 0, which is another number for -0 and so costs an addition.
template <typename T> TRAJCAST_INLINE Vector<T> splat(T x) { return x - Vector<T>{}; }

template <typename T> struct Block {
  Vector<T> v[kVectors<T>];

  static TRAJCAST_INLINE Block load(const T *from) {
    Block b;
    unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) {
      b.v[k] = load_vector(from + k * (kLanes / kVectors<T>));
    });
    return b;
  }
  static TRAJCAST_INLINE Block zero() {
    Block b;
    unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) { b.v[k] = Vector<T>{}; });
    return b;
  }
  TRAJCAST_INLINE void store(T *to) const {
    unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) {
      std::memcpy(to + k * (kLanes / kVectors<T>), &v[k], sizeof(v[k]));
    });
  }
  // this += x * y
  TRAJCAST_INLINE void add(T x, const Block &y) {
    const Vector<T> xs = splat(x);
    unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) { v[k] += xs * y.v[k]; });
  }
  TRAJCAST_INLINE void add(const Block &x, const Block &y) {
    unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) { v[k] += x.v[k] * y.v[k]; });
  }
};

template <typename T> TRAJCAST_INLINE Block<T> operator*(const Block<T> &x, const Block<T> &y) {
  Block<T> b;
  unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) { b.v[k] = x.v[k] * y.v[k]; });
  return b;
}
template <typename T> TRAJCAST_INLINE Block<T> operator*(T x, const Block<T> &y) {
  Block<T> b;
  unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) { b.v[k] = x * y.v[k]; });
  return b;
}

// ---- functions of a vector; NaN stays NaN ----------------------------------------------------

// e^x = 2^n e^y with |y| <= ln(2) / 2, by Taylor's series.
template <typename T> TRAJCAST_INLINE Vector<T> exponential(Vector<T> x) {
  using Integers = typename VectorOf<T>::Integers;
  constexpr bool single = sizeof(T) == 4;
  constexpr T limit = single ? T(87) : T(708);
  // Adding 1.5 * 2^mantissa leaves the nearest integer in the lowest bits.
  constexpr T magic = T(1.5) * T(int64_t(1) << VectorOf<T>::mantissa);
  constexpr T ln2_high = single ? T(0.693359375) : T(0.693145751953125);
  constexpr T ln2_low = single ? T(-2.12194440054690583e-4) : T(1.42860682030941723212e-6);
  constexpr int degree = single ? 7 : 13;
  const Vector<T> lower = splat(-limit), upper = splat(limit);
  x = x < lower ? lower : x;
  x = x > upper ? upper : x;
  const Vector<T> shifted = x * T(1.4426950408889634074) + magic;
  const Vector<T> n = shifted - magic;
  const Vector<T> y = (x - n * ln2_high) - n * ln2_low;
  Vector<T> sum = splat(T(1));
  unroll<degree>([&](auto k) __attribute__((always_inline)) {
    sum = sum * y * (T(1) / T(degree - k)) + T(1);
  });
  Integers bits, power;
  std::memcpy(&bits, &sum, sizeof(bits));
  std::memcpy(&power, &shifted, sizeof(power));
  bits += power << VectorOf<T>::mantissa;
  Vector<T> result;
  std::memcpy(&result, &bits, sizeof(result));
  return x == x ? result : x;
}

template <typename T> TRAJCAST_INLINE Vector<T> sigmoid(Vector<T> x) {
  return T(1) / (T(1) + exponential<T>(-x));
}

// Near zero the continued fraction of Lambert, elsewhere the exponential function.
template <typename T> TRAJCAST_INLINE Vector<T> hyperbolic_tangent(Vector<T> x) {
  constexpr int depth = sizeof(T) == 4 ? 5 : 9;
  const Vector<T> square = x * x;
  Vector<T> fraction = splat(T(2 * depth + 1));
  unroll<depth>([&](auto k) __attribute__((always_inline)) {
    fraction = T(2 * (depth - k) - 1) + square / fraction;
  });
  const Vector<T> near = x / fraction;
  const Vector<T> far = T(1) - T(2) / (T(1) + exponential<T>(x + x));
  return square < T(0.25) ? near : far;
}

enum class Activation : int32_t { silu = 0, tanh = 1, relu = 2, sigmoid = 3 };

template <typename T> TRAJCAST_INLINE Block<T> activate(Activation function, const Block<T> &x) {
  Block<T> y = Block<T>::zero();
  unroll<kVectors<T>>([&](auto k) __attribute__((always_inline)) {
    const Vector<T> v = x.v[k];
    switch (function) {
    case Activation::silu:
      y.v[k] = v * sigmoid<T>(v);
      break;
    case Activation::tanh:
      y.v[k] = hyperbolic_tangent<T>(v);
      break;
    case Activation::relu:
      y.v[k] = v < T(0) ? Vector<T>{} : v;
      break;
    case Activation::sigmoid:
      y.v[k] = sigmoid<T>(v);
      break;
    }
  });
  return y;
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
