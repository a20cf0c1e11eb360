// Tensor products of features with spherical harmonics, weighted path by path: where a
// Clebsch-Gordan coefficient meets a weight. Compiled for each set of instructions, see
// network_impl.h.

#ifndef TRAJCAST_TENSOR_PRODUCT_H
#define TRAJCAST_TENSOR_PRODUCT_H

#include "couplings.h"
#include "harmonics.h"
#include "simd.h"
#include "table.h"

#include <cstdint>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// The Clebsch-Gordan coefficients of one coupling with a spherical harmonic summed in: an entry is
// a pair of rows (a, c) that any coefficient couples.
template <int L1, int L2, int L3> struct Entries {
  using Terms = Coupling<L1, L2, L3>;

  static constexpr bool begins_entry(int t) {
    return t == 0 || Terms::terms[t].a != Terms::terms[t - 1].a ||
           Terms::terms[t].c != Terms::terms[t - 1].c;
  }
  static constexpr int count_before(int t) {
    int n = 0;
    for (int k = 0; k < t; ++k)
      n += begins_entry(k);
    return n;
  }
  static constexpr int entry(int t) { return count_before(t + 1) - 1; }
  static constexpr int size = count_before(Terms::size);
};

// Entries of up to kTileEdges edges, (entry, edge), from harmonics (b, edge): sums over b of
// Clebsch-Gordan coefficient times harmonic.
template <typename T, int L1, int L2, int L3>
void couple(const T *harmonics, int64_t stride, T *entries) {
  using E = Entries<L1, L2, L3>;
  Block<T> y[order_rows(L2)];
  unroll<order_rows(L2)>([&](auto b) __attribute__((always_inline)) {
    y[b] = Block<T>::load(harmonics + (L2 * L2 + b) * stride);
  });
  Block<T> sum;
  unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
    constexpr int i = t;
    constexpr Term term = E::Terms::terms[i];
    if constexpr (E::begins_entry(i))
      sum = T(term.value) * y[term.b];
    else
      sum.add(T(term.value), y[term.b]);
    sum.store(entries + E::entry(i) * kTileEdges);
  });
}

// Up to kTileEdges edges, seen from one block of channels.
template <typename T> struct Tile {
  const T *features[kTileEdges]; // of the sender
  const T *table[kTileEdges];    // values at the node below
  int64_t next;                  // from there to the node above
  int64_t features_block;        // from features to those of the next block of channels
  int64_t table_block;           // and from the table's values
  T basis[2 * kOrder<T>][kTileEdges];
};

// Where one or two paths of equal orders read and write: those of both parities share the
// couplings.
template <typename T> struct PathPlaces {
  int64_t input[2];  // from Tile::features
  int64_t weight;    // from Tile::table
  T *out[2];         // row 0 of the result
  int64_t stride[2]; // to the next row
};

// Ask for memory that will be read soon; it need not be there.
template <int BYTES> TRAJCAST_INLINE void prefetch(const void *from) {
  unroll<BYTES / 64>([&](auto k) __attribute__((always_inline)) {
    __builtin_prefetch(static_cast<const char *>(from) + 64 * k);
  });
}

// Weights of N paths and B blocks of channels, [path * B + block].
template <typename T, int N, int B>
TRAJCAST_INLINE void interpolate(const Tile<T> &tile, int e, int64_t at, Block<T> (&w)[N * B]) {
  constexpr int order = kOrder<T>;
  constexpr int size = N * order * kLanes;
  unroll<B>([&](auto b) __attribute__((always_inline)) {
    const T *below = tile.table[e] + at + b * tile.table_block, *above = below + tile.next;
    // Edges meet the table in random order, so the processor does not see what comes next: the
    // same for the next paths.
    prefetch<size * sizeof(T)>(below + size);
    prefetch<size * sizeof(T)>(above + size);
    unroll<N>([&](auto p) __attribute__((always_inline)) {
      constexpr int q = p * B + b;
      w[q] = tile.basis[0][e] * Block<T>::load(below + p * order * kLanes);
      unroll<order>([&](auto k) __attribute__((always_inline)) {
        constexpr int derivative = k;
        if constexpr (derivative > 0)
          w[q].add(tile.basis[k][e], Block<T>::load(below + (p * order + k) * kLanes));
        w[q].add(tile.basis[order + k][e], Block<T>::load(above + (p * order + k) * kLanes));
      });
    });
  });
}

// Whether the sums of N paths and B blocks of channels fit into the registers.
template <typename T, int L1, int L3, int N, int B>
constexpr bool kFits = N * B * kVectors<T> * (order_rows(L3) * (L3 < L1 ? 2 : 1) + 2) < kRegisters;

// Add the messages of edges first ... last - 1 to the results, or begin them: N paths, B blocks
// of channels. A message is weight times entry times feature.
template <typename T, int L1, int L2, int L3, int N, int B>
void product(const Tile<T> &tile, const T *entries, int first, int last, const PathPlaces<T> &place,
             bool begin) {
  using E = Entries<L1, L2, L3>;
  constexpr int Q = N * B;
  const auto row_of_result = [&](int q, int c) __attribute__((always_inline)) {
    return place.out[q / B] + c * place.stride[q / B] + q % B * kLanes;
  };
  Block<T> sum[Q][order_rows(L3)];
  unroll<Q>([&](auto q) __attribute__((always_inline)) {
    unroll<order_rows(L3)>([&](auto c) __attribute__((always_inline)) {
      sum[q][c] = begin ? Block<T>::zero() : Block<T>::load(row_of_result(q, c));
    });
  });

  for (int e = first; e < last; ++e) {
    const auto input = [&](int q, int a) __attribute__((always_inline)) {
      return Block<T>::load(tile.features[e] + place.input[q / B] + q % B * tile.features_block +
                            a * kLanes);
    };
    Block<T> weight[Q];
    interpolate<T, N, B>(tile, e, place.weight, weight);
    if constexpr (L2 == 0) { // the identity
      unroll<Q>([&](auto q) __attribute__((always_inline)) {
        const Block<T> w = T(E::Terms::terms[0].value) * weight[q];
        unroll<order_rows(L3)>(
            [&](auto c) __attribute__((always_inline)) { sum[q][c].add(w, input(q, c)); });
      });
    } else if constexpr (L3 < L1) { // fewer rows go out than in: the weight comes last
      Block<T> part[Q][order_rows(L3)];
      unroll<Q>([&](auto q) __attribute__((always_inline)) {
        unroll<order_rows(L3)>(
            [&](auto c) __attribute__((always_inline)) { part[q][c] = Block<T>::zero(); });
      });
      unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
        constexpr int i = t;
        if constexpr (E::begins_entry(i)) {
          constexpr Term term = E::Terms::terms[i];
          const T entry = entries[E::entry(i) * kTileEdges + e];
          unroll<Q>([&](auto q) __attribute__((always_inline)) {
            part[q][term.c].add(entry, input(q, term.a));
          });
        }
      });
      unroll<Q>([&](auto q) __attribute__((always_inline)) {
        unroll<order_rows(L3)>(
            [&](auto c) __attribute__((always_inline)) { sum[q][c].add(weight[q], part[q][c]); });
      });
    } else { // the weight comes first
      unroll<order_rows(L1)>([&](auto row) __attribute__((always_inline)) {
        constexpr int a = row;
        Block<T> weighted[Q];
        unroll<Q>([&](auto q)
                      __attribute__((always_inline)) { weighted[q] = weight[q] * input(q, a); });
        unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
          constexpr int i = t;
          constexpr Term term = E::Terms::terms[i];
          if constexpr (term.a == a && E::begins_entry(i)) {
            const T entry = entries[E::entry(i) * kTileEdges + e];
            unroll<Q>([&](auto q) __attribute__((always_inline)) {
              sum[q][term.c].add(entry, weighted[q]);
            });
          }
        });
      });
    }
  }

  unroll<Q>([&](auto q) __attribute__((always_inline)) {
    unroll<order_rows(L3)>(
        [&](auto c) __attribute__((always_inline)) { sum[q][c].store(row_of_result(q, c)); });
  });
}

// The functions above for orders known at run time.
template <typename T> struct Functions {
  using Couple = void (*)(const T *, int64_t, T *);
  using Product = void (*)(const Tile<T> &, const T *, int, int, const PathPlaces<T> &, bool);

  Couple couple = nullptr;
  // For one or two paths and blocks of channels, [paths - 1][blocks - 1]; null where there are not
  // enough registers.
  Product product[2][2] = {};
  int entries = 0;

  Functions(int l1, int l2, int l3) {
    constexpr int n = kMaxOrder + 1;
    unroll<n * n * n>([&](auto k) {
      constexpr int i = k, k1 = i / (n * n), k2 = i / n % n, k3 = i % n;
      if constexpr (Coupling<k1, k2, k3>::size > 0)
        if (l1 == k1 && l2 == k2 && l3 == k3) {
          couple = trajcast::TRAJCAST_INSTRUCTIONS::couple<T, k1, k2, k3>;
          unroll<2>([&](auto paths) {
            unroll<2>([&](auto blocks) {
              constexpr int N = paths + 1, B = blocks + 1;
              if constexpr (N * B == 1 || kFits<T, k1, k3, N, B>)
                product[N - 1][B - 1] =
                    trajcast::TRAJCAST_INSTRUCTIONS::product<T, k1, k2, k3, N, B>;
            });
          });
          entries = Entries<k1, k2, k3>::size;
        }
    });
  }
};

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
