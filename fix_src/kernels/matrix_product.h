// Matrix products. Compiled for each set of instructions, see network_impl.h.

#ifndef TRAJCAST_MATRIX_PRODUCT_H
#define TRAJCAST_MATRIX_PRODUCT_H

#include "array.h"
#include "simd.h"

#include <algorithm>
#include <cstdint>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Panels of 16 columns worked on together, and rows: as many sums as there are registers for.
template <typename T> constexpr int kPanels = kRegisters >= 32 && kVectors<T> == 1 ? 2 : 1;
template <typename T>
constexpr int kTileRows = (kRegisters >= 32 ? 24 : 12) / (kPanels<T> * kVectors<T>) > 0
                              ? (kRegisters >= 32 ? 24 : 12) / (kPanels<T> * kVectors<T>)
                              : 1;

// sums[m][n] = rows m of a (., depth) times panel n of b (panel, depth, 16).
template <typename T, int ROWS, int PANELS>
TRAJCAST_INLINE void multiply(const T *a, const T *b, int64_t depth,
                              Block<T> (&sums)[ROWS][PANELS]) {
  // Few registers hold the addresses of all rows if each serves three.
  constexpr int bases = (ROWS + 2) / 3;
  const T *base[bases];
  unroll<bases>([&](auto k) __attribute__((always_inline)) { base[k] = a + 3 * k * depth; });
  unroll<ROWS>([&](auto m) __attribute__((always_inline)) {
    unroll<PANELS>([&](auto n) __attribute__((always_inline)) { sums[m][n] = Block<T>::zero(); });
  });
  for (int64_t k = 0; k < depth; ++k) {
    Block<T> column[PANELS];
    unroll<PANELS>([&](auto n) __attribute__((always_inline)) {
      column[n] = Block<T>::load(b + (n * depth + k) * kLanes);
    });
    unroll<ROWS>([&](auto m) __attribute__((always_inline)) {
      const T factor = base[m / 3][m % 3 * depth];
      unroll<PANELS>([&](auto n)
                         __attribute__((always_inline)) { sums[m][n].add(factor, column[n]); });
    });
    unroll<bases>([&](auto j) __attribute__((always_inline)) { ++base[j]; });
  }
}

// Where the product goes: rows come in runs of `run` (an atom's rows of an irrep).
struct Destination {
  int64_t run;    // rows of an atom
  int64_t atom;   // from an atom to the next
  int64_t panel;  // from a block of channels to the next
  int64_t column; // from one set of channels to the next
  int blocks;     // blocks of channels
};

// out = a (rows, depth) b (panels, depth, 16). Up to kTileRows - 1 rows after the last row of `a`
// are read.
template <typename T>
void matrix_product(const T *a, int64_t rows, int64_t depth, const T *b, int panels, T *out,
                    const Destination &to) {
  constexpr int tile = kTileRows<T>;
  const auto store = [&](int64_t row, int panel, const Block<T> &sum)
                         __attribute__((always_inline)) {
                           sum.store(out + row / to.run * to.atom + row % to.run * kLanes +
                                     panel / to.blocks * to.column + panel % to.blocks * to.panel);
                         };
  for (int64_t row = 0; row < rows; row += tile) {
    const int64_t count = std::min<int64_t>(tile, rows - row);
    int panel = 0;
    for (; panel + kPanels<T> <= panels; panel += kPanels<T>) {
      Block<T> sums[tile][kPanels<T>];
      multiply<T, tile, kPanels<T>>(a + row * depth, b + panel * depth * kLanes, depth, sums);
      unroll<tile>([&](auto m) __attribute__((always_inline)) {
        if (m < count)
          unroll<kPanels<T>>([&](auto n) __attribute__((always_inline)) {
            store(row + m, panel + n, sums[m][n]);
          });
      });
    }
    for (; panel < panels; ++panel) {
      Block<T> sums[tile][1];
      multiply<T, tile, 1>(a + row * depth, b + panel * depth * kLanes, depth, sums);
      unroll<tile>([&](auto m) __attribute__((always_inline)) {
        if (m < count)
          store(row + m, panel, sums[m][0]);
      });
    }
  }
}

// (inputs * channels, columns * channels) in panels, channels filled up with zeros.
template <typename T>
Array<T> pack(const double *weights, int inputs, int columns, int channels, int blocks) {
  const int64_t depth = int64_t(inputs) * blocks * kLanes;
  Array<T> panels(depth * columns * blocks * kLanes);
  for (int i = 0; i < inputs; ++i)
    for (int u = 0; u < channels; ++u)
      for (int j = 0; j < columns; ++j)
        for (int v = 0; v < channels; ++v) {
          const int64_t k = int64_t(i) * blocks * kLanes + u;
          const int64_t panel = int64_t(j) * blocks + v / kLanes;
          panels.data()[(panel * depth + k) * kLanes + v % kLanes] =
              static_cast<T>(weights[(int64_t(i) * channels + u) * columns * channels +
                                     int64_t(j) * channels + v]);
        }
  return panels;
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
