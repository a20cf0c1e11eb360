// Spherical harmonics. Compiled for each set of instructions, see network_impl.h.

#ifndef TRAJCAST_HARMONICS_H
#define TRAJCAST_HARMONICS_H

#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

constexpr int order_rows(int l) { return 2 * l + 1; }

// Real spherical harmonics of orders 0 ... lmax of the direction (x, y, z), with e3nn's order of
// rows and "component" normalization; solid ones if (x, y, z) is not a unit vector.
template <typename T>
TRAJCAST_INLINE void harmonics(int lmax, T x, T y, T z, T *out, int64_t stride) {
  out[0] = T(1);
  constexpr T r3 = T(1.7320508075688772935), r5 = T(2.2360679774997896964),
              r15 = T(3.8729833462074168852), r7 = T(2.6457513110645905905),
              r105 = T(10.246950765959598383), r35_8 = T(2.0916500663351888699),
              r21_8 = T(1.6201851746019650512);
  out[stride] = r3 * x;
  out[2 * stride] = r3 * y;
  out[3 * stride] = r3 * z;
  if (lmax < 2)
    return;
  out[4 * stride] = r15 * x * z;
  out[5 * stride] = r15 * x * y;
  out[6 * stride] = r5 * (y * y - T(0.5) * (x * x + z * z));
  out[7 * stride] = r15 * y * z;
  out[8 * stride] = T(0.5) * r15 * (z * z - x * x);
  if (lmax < 3)
    return;
  out[9 * stride] = r35_8 * x * (T(3) * z * z - x * x);
  out[10 * stride] = r105 * x * y * z;
  out[11 * stride] = r21_8 * x * (T(4) * y * y - x * x - z * z);
  out[12 * stride] = T(0.5) * r7 * y * (T(2) * y * y - T(3) * (x * x + z * z));
  out[13 * stride] = r21_8 * z * (T(4) * y * y - x * x - z * z);
  out[14 * stride] = T(0.5) * r105 * y * (z * z - x * x);
  out[15 * stride] = r35_8 * z * (z * z - T(3) * x * x);
}

// Length of (x, y, z), which becomes a unit vector, or stays zero.
TRAJCAST_INLINE double normalize(double &x, double &y, double &z) {
  const double length = std::sqrt(x * x + y * y + z * z);
  const double inverse = 1.0 / std::max(length, 1e-12);
  x *= inverse;
  y *= inverse;
  z *= inverse;
  return length;
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
