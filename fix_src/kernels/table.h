// Functions of a distance or a speed, tabulated. Compiled for each set of instructions, see
// network_impl.h.

#ifndef TRAJCAST_TABLE_H
#define TRAJCAST_TABLE_H

#include "array.h"
#include "network.h"
#include "simd.h"

#include <algorithm>
#include <cstdint>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Hermite polynomials of degree 2 * kOrder - 1: what pays at the accuracy of each precision.
template <typename T> constexpr int kOrder = sizeof(T) == 4 ? 2 : 3;

struct Position {
  int node;
  double fraction;
};

// A table by blocks of channels: (set, block, node, function, order, 16).
template <typename T> struct Table {
  int nodes = 0, functions = 0;
  double origin = 0.0, inverse_spacing = 0.0;
  Array<T> values;
  int64_t node_size = 0, block_size = 0, set_size = 0;

  Table() = default;
  Table(const trajcast_table &given, int num_functions, int channels, int blocks)
      : nodes(given.num_nodes), functions(num_functions), origin(given.first),
        inverse_spacing(1.0 / given.spacing),
        node_size(int64_t(num_functions) * kOrder<T> * kLanes),
        block_size(node_size * given.num_nodes), set_size(block_size * blocks) {
    values.resize(set_size * given.num_sets);
    const double *from = given.values;
    for (int set = 0; set < given.num_sets; ++set)
      for (int node = 0; node < nodes; ++node)
        for (int f = 0; f < functions; ++f)
          for (int k = 0; k < kOrder<T>; ++k)
            for (int u = 0; u < channels; ++u)
              values.data()[set * set_size + u / kLanes * block_size + node * node_size +
                            (f * kOrder<T> + k) * kLanes + u % kLanes] = static_cast<T>(*from++);
  }

  TRAJCAST_INLINE Position find(double x) const {
    double t = (x - origin) * inverse_spacing;
    t = t > 0.0 ? t : 0.0; // also if it is not a number
    t = t < nodes - 1.0 ? t : nodes - 1.0;
    const int node = std::min(static_cast<int>(t), nodes - 2);
    return {node, t - node};
  }
};

template <typename T> TRAJCAST_INLINE void hermite(T s, T *basis, int64_t stride) {
  if constexpr (kOrder<T> == 2) {
    basis[0] = (T(1) + T(2) * s) * (T(1) - s) * (T(1) - s);
    basis[stride] = s * (T(1) - s) * (T(1) - s);
    basis[2 * stride] = s * s * (T(3) - T(2) * s);
    basis[3 * stride] = s * s * (s - T(1));
  } else {
    const T cube = s * s * s, rest = T(1) - s, rest_cube = rest * rest * rest;
    basis[0] = rest_cube * (T(1) + s * (T(3) + T(6) * s));
    basis[stride] = rest_cube * s * (T(1) + T(3) * s);
    basis[2 * stride] = T(0.5) * rest_cube * s * s;
    basis[3 * stride] = cube * (T(10) + s * (T(-15) + T(6) * s));
    basis[4 * stride] = cube * (T(-4) + s * (T(7) - T(3) * s));
    basis[5 * stride] = T(0.5) * cube * rest * rest;
  }
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
