// The kernels of network.h. Included by one file for each set of instructions, which names the set
// in TRAJCAST_INSTRUCTIONS and is compiled for it: everything here lives in a namespace of that
// name.

#include "couplings.h"
#include "network_interface.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#define TRAJCAST_TEXT_(name) #name
#define TRAJCAST_TEXT(name) TRAJCAST_TEXT_(name)

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Hermite polynomials of degree 2 * kOrder - 1: what pays at the accuracy of each precision.
template <typename T> constexpr int kOrder = sizeof(T) == 4 ? 2 : 3;

// Memory of numbers, aligned to cache lines and padded with zeros.
template <typename T> class Array {
public:
  Array() = default;
  explicit Array(std::size_t size) { resize(size); }
  Array(Array &&other) noexcept : values(other.values), count(other.count) {
    other.values = nullptr;
    other.count = 0;
  }
  Array &operator=(Array &&other) noexcept {
    std::swap(values, other.values);
    std::swap(count, other.count);
    return *this;
  }
  ~Array() { std::free(values); }

  // What was stored is lost.
  void resize(std::size_t size) {
    std::free(values);
    count = 0;
    const std::size_t bytes = (size * sizeof(T) + 2 * 64 - 1) / 64 * 64;
    values = static_cast<T *>(std::aligned_alloc(64, bytes));
    if (!values)
      throw std::bad_alloc();
    std::memset(static_cast<void *>(values), 0, bytes);
    count = size;
  }
  T *data() const { return values; }
  std::size_t size() const { return count; }
  int64_t bytes() const { return static_cast<int64_t>(count * sizeof(T)); }

private:
  T *values = nullptr;
  std::size_t count = 0;
};

constexpr int order_rows(int l) { return 2 * l + 1; }

// ---- couplings -------------------------------------------------------------------------------

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

// Entries of up to kLanes edges, (entry, edge), from harmonics (b, edge).
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
    sum.store(entries + E::entry(i) * kLanes);
  });
}

// ---- products --------------------------------------------------------------------------------

// Up to kLanes edges, seen from one block of channels.
template <typename T> struct Tile {
  const T *features[kLanes]; // of the sender
  const T *table[kLanes];    // values at the node below
  int64_t next;              // from there to the node above
  int64_t features_block;    // from features to those of the next block of channels
  int64_t table_block;       // and from the table's values
  T basis[2 * kOrder<T>][kLanes];
};

// Where one or two paths of equal orders read and write: those of both parities share the
// couplings.
template <typename T> struct Place {
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
// of channels.
template <typename T, int L1, int L2, int L3, int N, int B>
void product(const Tile<T> &tile, const T *entries, int first, int last, const Place<T> &place,
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
          const T entry = entries[E::entry(i) * kLanes + e];
          unroll<Q>([&](auto q) __attribute__((always_inline)) {
            part[q][term.c].add(entry, input(q, term.a));
          });
        }
      });
      unroll<Q>([&](auto q) __attribute__((always_inline)) {
        unroll<order_rows(L3)>(
            [&](auto c) __attribute__((always_inline)) { sum[q][c].add(weight[q], part[q][c]); });
      });
    } else {
      unroll<order_rows(L1)>([&](auto row) __attribute__((always_inline)) {
        constexpr int a = row;
        Block<T> weighted[Q];
        unroll<Q>([&](auto q)
                      __attribute__((always_inline)) { weighted[q] = weight[q] * input(q, a); });
        unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
          constexpr int i = t;
          constexpr Term term = E::Terms::terms[i];
          if constexpr (term.a == a && E::begins_entry(i)) {
            const T entry = entries[E::entry(i) * kLanes + e];
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
  using Product = void (*)(const Tile<T> &, const T *, int, int, const Place<T> &, bool);

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

// ---- matrix products ---------------------------------------------------------------------------

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

// ---- tables and geometry -----------------------------------------------------------------------

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
    t = t > 0.0 ? t : 0.0; // also if it is no number
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

// Real spherical harmonics of orders 0 ... lmax of the direction (x, y, z), with e3nn's order of
// rows and "component" normalisation; solid ones if (x, y, z) is no unit vector.
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

// ---- layers ------------------------------------------------------------------------------------

// Paths of equal orders, worked on together.
template <typename T> struct Pair {
  typename Functions<T>::Product run[2]; // for one or two blocks of channels
  int count;
  int64_t entries; // where those of its coupling are
  int64_t input[2];
  int64_t weight;
  int group[2], path[2];
};

// A group and its map.
template <typename T> struct Map {
  int rows;       // of the irrep
  int64_t depth;  // inputs of the map
  int64_t offset; // values of the groups before, an atom
  int panels;
  int64_t output;   // first row of the result
  Array<T> weights; // (panel, depth, 16)
};

template <typename T> struct ProductLayer {
  struct Coupler {
    typename Functions<T>::Couple run;
    int64_t entries;
  };
  std::vector<Coupler> couplers;
  std::vector<Pair<T>> pairs;
  std::vector<Map<T>> maps;
  Table<T> table;
  int64_t num_entries = 0;
  int64_t pooled = 0; // values of all groups, an atom

  ProductLayer(const trajcast_product_layer &given, int channels, int blocks) {
    const double *weights = given.weights;
    for (int g = 0; g < given.num_groups; ++g) {
      const trajcast_group &group = given.groups[g];
      const int64_t depth = int64_t(group.num_paths) * blocks * kLanes;
      maps.push_back({order_rows(group.l), depth, pooled, group.columns * blocks, group.output,
                      pack<T>(weights, group.num_paths, group.columns, channels, blocks)});
      weights += int64_t(group.num_paths) * channels * group.columns * channels;
      pooled += order_rows(group.l) * depth;
    }

    // Two paths can be one pair if their orders are equal and they follow one another.
    for (int p = 0; p < given.num_products; ++p) {
      const trajcast_product &path = given.products[p];
      const auto same = [&](int q) {
        const trajcast_product &other = given.products[q];
        return q >= 0 && other.l_in == path.l_in && other.l_edge == path.l_edge &&
               other.l_out == path.l_out;
      };
      const Functions<T> functions(path.l_in, path.l_edge, path.l_out);
      if (p > 0 && same(p - 1)) {
        if (pairs.back().count == 1 && functions.product[1][0]) {
          Pair<T> &pair = pairs.back();
          std::copy_n(functions.product[1], 2, pair.run);
          pair.input[1] = int64_t(path.input) * kLanes;
          pair.group[1] = path.group;
          pair.path[1] = path.path;
          pair.count = 2;
          continue;
        }
      } else {
        couplers.push_back({functions.couple, num_entries});
        num_entries += int64_t(functions.entries) * kLanes;
      }
      pairs.push_back({{functions.product[0][0], functions.product[0][1]},
                       1,
                       couplers.back().entries,
                       {int64_t(path.input) * kLanes, 0},
                       int64_t(p) * kOrder<T> * kLanes,
                       {path.group, 0},
                       {path.path, 0}});
    }
    table = Table<T>(given.table, given.num_products, channels, blocks);
  }

  void couple(const T *harmonics, int64_t stride, T *entries) const {
    for (const Coupler &coupler : couplers)
      coupler.run(harmonics, stride, entries + coupler.entries);
  }

  // Add edges first ... last - 1 of the tile to the sums of atom `atom` of `atoms`: one or two
  // blocks of channels, the first of them `block`.
  void sum(const Tile<T> &tile, const T *entries, int first, int last, T *pooled_of_all,
           int64_t atoms, int64_t atom, int block, int together, int blocks, bool begin) const {
    for (const Pair<T> &pair : pairs) {
      Place<T> place;
      place.weight = pair.weight;
      for (int k = 0; k < pair.count; ++k) {
        const Map<T> &map = maps[pair.group[k]];
        place.input[k] = pair.input[k];
        place.stride[k] = map.depth;
        place.out[k] = pooled_of_all + map.offset * atoms + atom * map.rows * map.depth +
                       (pair.path[k] * blocks + block) * kLanes;
      }
      if (pair.run[together - 1]) {
        pair.run[together - 1](tile, entries + pair.entries, first, last, place, begin);
        continue;
      }
      pair.run[0](tile, entries + pair.entries, first, last, place, begin);
      place.weight += tile.table_block;
      for (int k = 0; k < pair.count; ++k) {
        place.input[k] += tile.features_block;
        place.out[k] += kLanes;
      }
      pair.run[0](tile, entries + pair.entries, first, last, place, begin);
    }
  }

  // The linear maps of the sums of `count` of `atoms` atoms.
  void map(const T *pooled_of_all, int64_t atoms, int64_t count, T *out, int64_t rows,
           int blocks) const {
    for (const Map<T> &map : maps)
      matrix_product<T>(
          pooled_of_all + map.offset * atoms, count * map.rows, map.depth, map.weights.data(),
          map.panels, out + map.output * kLanes,
          {map.rows, rows * blocks * kLanes, rows * kLanes, int64_t(map.rows) * kLanes, blocks});
  }

  int64_t bytes() const {
    int64_t sum = table.values.bytes();
    for (const Map<T> &map : maps)
      sum += map.weights.bytes();
    return sum;
  }
};

template <typename T> struct Gated {
  int rows;
  int64_t output, update, gate, residual; // first rows; gate and residual may be -1
  Activation activation;
  T scale;
  std::vector<Array<T>> residual_weights; // of each species
};

template <typename T> struct Layer {
  int64_t rows_in, rows_contracted, rows_update, rows_out;
  ProductLayer<T> message, velocity;
  std::vector<Gated<T>> gated;
  Array<T> own; // (blocks, rows_in, 16), or nothing

  Layer(const trajcast_layer &given, int num_species, int channels, int blocks)
      : rows_in(given.rows_in), rows_contracted(given.rows_contracted),
        rows_update(given.rows_update), rows_out(given.rows_out),
        message(given.message, channels, blocks), velocity(given.velocity, channels, blocks) {
    if (given.own) {
      own.resize(rows_in * blocks * kLanes);
      for (int64_t row = 0; row < rows_in; ++row)
        for (int u = 0; u < channels; ++u)
          own.data()[(u / kLanes * rows_in + row) * kLanes + u % kLanes] =
              static_cast<T>(given.own[row * channels + u]);
    }
    for (int k = 0; k < given.num_gated; ++k) {
      const trajcast_gated &g = given.gated[k];
      gated.push_back({order_rows(g.l),
                       g.output,
                       g.update,
                       g.gate,
                       g.residual,
                       static_cast<Activation>(g.activation),
                       static_cast<T>(g.scale),
                       {}});
      if (g.residual >= 0)
        for (int s = 0; s < num_species; ++s)
          gated.back().residual_weights.push_back(pack<T>(
              g.residual_weights + int64_t(s) * channels * channels, 1, 1, channels, blocks));
    }
  }

  int64_t bytes() const {
    int64_t sum = message.bytes() + velocity.bytes() + own.bytes();
    for (const Gated<T> &g : gated)
      for (const Array<T> &w : g.residual_weights)
        sum += w.bytes();
    return sum;
  }
};

// Scratch memory of one thread.
template <typename T> struct Workspace {
  Array<T> pooled, contracted, update, residual, rows, entries, harmonics;
  Array<T> own, sent; // of an atom, and of a tile's senders with that: two blocks of channels
  std::vector<int64_t> atoms, by_species;
};

template <typename T> class Network final : public trajcast_network {
public:
  Network(const trajcast_ends &ends, const trajcast_layer *given, int num_layers)
      : lmax(ends.lmax), channels(ends.channels), num_species(ends.num_species),
        blocks((ends.channels + kLanes - 1) / kLanes),
        scalars(ends.scalars, 1, ends.channels, blocks), vectors(ends.vectors),
        speed_limit(ends.speed_limit),
        inverse_scale(ends.velocity_scale > 0.0 ? 1.0 / ends.velocity_scale : 0.0),
        directions(int64_t(ends.lmax) * blocks * kLanes),
        read_out_weights(int64_t(2) * blocks * kLanes) {
    for (int l = 0; l < lmax; ++l)
      for (int u = 0; u < channels; ++u)
        directions.data()[l * blocks * kLanes + u] =
            static_cast<T>(ends.directions[l * channels + u]);
    for (int u = 0; u < channels; ++u)
      for (int k = 0; k < 2; ++k)
        read_out_weights.data()[k * blocks * kLanes + u] = static_cast<T>(ends.read_out[2 * u + k]);
    layers.reserve(num_layers);
    for (int k = 0; k < num_layers; ++k)
      layers.emplace_back(given[k], num_species, channels, blocks);
  }

  const char *instructions() const override { return TRAJCAST_TEXT(TRAJCAST_INSTRUCTIONS); }

  int64_t bytes() const override {
    int64_t sum = scalars.values.bytes() + directions.bytes() + read_out_weights.bytes();
    for (const Layer<T> &layer : layers)
      sum += layer.bytes();
    return sum;
  }

  int64_t width(int k) const override {
    const int64_t rows =
        k == static_cast<int>(layers.size()) ? layers.back().rows_out : layers[k].rows_in;
    return rows * blocks * kLanes;
  }

  int64_t edge_rows() const override { return num_harmonics() + 2; }

  void edges(int64_t num_edges, const double *edge_vectors, int64_t stride, void *edges_,
             int threads) const override {
    T *out = static_cast<T *>(edges_);
    const Table<T> &table = layers[0].message.table; // those of all layers have the same nodes
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t e = 0; e < num_edges; ++e) {
      double x = edge_vectors[3 * e], y = edge_vectors[3 * e + 1], z = edge_vectors[3 * e + 2];
      const Position at = table.find(normalize(x, y, z));
      harmonics<T>(lmax, T(x), T(y), T(z), out + e, stride);
      out[num_harmonics() * stride + e] = T(at.fraction);
      out[(num_harmonics() + 1) * stride + e] = T(at.node);
    }
    // Whole tiles are read: what comes after the last edge must be there.
    for (int64_t row = 0; row < edge_rows(); ++row)
      std::fill(out + row * stride + num_edges, out + (row + 1) * stride, T(0));
  }

  void first(int64_t num_nodes, const int64_t *species, const void *velocities_, void *features_,
             int threads) const override {
    const T *velocities = static_cast<const T *>(velocities_);
    T *features = static_cast<T *>(features_);
    const int64_t rows = layers[0].rows_in;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < num_nodes; ++i) {
      double x = velocities[3 * i], y = velocities[3 * i + 1], z = velocities[3 * i + 2];
      const Position at = scalars.find(speed(x, y, z));
      T direction[(kMaxOrder + 1) * (kMaxOrder + 1)], basis[2 * kOrder<T>];
      harmonics<T>(lmax, T(x), T(y), T(z), direction, 1);
      hermite<T>(T(at.fraction), basis, 1);
      for (int block = 0; block < blocks; ++block) {
        const T *table = scalars.values.data() + species[i] * scalars.set_size +
                         block * scalars.block_size + at.node * scalars.node_size;
        T *out = features + (i * blocks + block) * rows * kLanes;
        Block<T> sum = Block<T>::zero();
        for (int k = 0; k < 2 * kOrder<T>; ++k)
          sum.add(basis[k], Block<T>::load(table + k * kLanes));
        sum.store(out);
        for (int l = 1; l <= lmax; ++l) {
          const Block<T> weight =
              Block<T>::load(directions.data() + ((l - 1) * blocks + block) * kLanes);
          for (int m = l * l; m < (l + 1) * (l + 1); ++m)
            (direction[m] * weight).store(out + m * kLanes);
        }
      }
    }
  }

  bool layer(int k, const trajcast_step &step, int threads) const override {
    const Layer<T> &layer = layers[k];
    const int64_t size = block_size(layer, step.num_receivers, threads);
    const int64_t num_blocks = (step.num_receivers + size - 1) / size;
    bool failed = false;
#pragma omp parallel num_threads(threads) reduction(|| : failed)
    {
      Workspace<T> *work = workspace(layer, size);
      failed = !work;
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < num_blocks; ++b)
        if (work)
          layer_of_block(layer, step, b * size, std::min(step.num_receivers, (b + 1) * size), size,
                         *work);
    }
    return !failed;
  }

  void read_out(int64_t num_atoms, const void *features_, void *targets_,
                int threads) const override {
    const T *features = static_cast<const T *>(features_);
    T *targets = static_cast<T *>(targets_);
    const int64_t rows = layers.back().rows_out;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < num_atoms; ++i)
      for (int k = 0; k < 2; ++k)
        for (int m = 0; m < 3; ++m) {
          T sum = T(0);
          for (int block = 0; block < blocks; ++block) {
            const T *h = features + ((i * blocks + block) * rows + vectors + m) * kLanes;
            const T *w = read_out_weights.data() + (k * blocks + block) * kLanes;
            for (int u = 0; u < kLanes; ++u)
              sum += h[u] * w[u];
          }
          targets[6 * i + 3 * k + m] = sum;
        }
  }

private:
  int lmax, channels, num_species, blocks;
  Table<T> scalars;
  int64_t vectors;
  double speed_limit;                    // of what tables are looked up by; 0: none
  double inverse_scale;                  // of velocities, for solid harmonics; 0: spherical ones
  Array<T> directions, read_out_weights; // (lmax, blocks, 16) and (2, blocks, 16)
  std::vector<Layer<T>> layers;

  int64_t num_harmonics() const { return int64_t(lmax + 1) * (lmax + 1); }

  // Where tables are looked up for the velocity (x, y, z), which becomes what its harmonics are
  // taken of.
  double speed(double &x, double &y, double &z) const {
    if (inverse_scale == 0.0)
      return limited(normalize(x, y, z));
    const double length = std::sqrt(x * x + y * y + z * z);
    x *= inverse_scale;
    y *= inverse_scale;
    z *= inverse_scale;
    return limited(length);
  }

  double limited(double length) const {
    if (speed_limit == 0.0)
      return length;
    // From a hundred times the limit on nothing changes; not a number stays that.
    const double ratio = std::min(length / speed_limit, 100.0);
    const double square = ratio * ratio, fourth = square * square;
    return speed_limit * ratio / std::sqrt(std::sqrt(std::sqrt(1.0 + fourth * fourth)));
  }

  // Atoms worked on together: their sums should stay in the second-level cache.
  int64_t block_size(const Layer<T> &layer, int64_t num_receivers, int threads) const {
    constexpr int64_t cache = 768 * 1024, unit = 12, most = 96;
    const int64_t values = std::max(layer.message.pooled, layer.velocity.pooled);
    const int64_t fitting = cache / static_cast<int64_t>(sizeof(T)) / values / unit * unit;
    // Small systems: at least four blocks a thread, so that none waits long for another.
    const int64_t fair = (num_receivers / (4 * threads) + unit - 1) / unit * unit;
    return std::max(unit, std::min({fitting, fair, most}));
  }

  // This thread's memory for blocks of `size` atoms; null if there is none.
  Workspace<T> *workspace(const Layer<T> &layer, int64_t size) const {
    static thread_local Workspace<T> work;
    const auto grow = [](Array<T> &array, int64_t values) {
      if (static_cast<int64_t>(array.size()) < values)
        array.resize(values);
    };
    const int64_t lines = blocks * kLanes;
    try {
      // The matrix products read some rows beyond the last.
      const int64_t pooled = std::max(layer.message.pooled, layer.velocity.pooled);
      grow(work.pooled, pooled * size + kTileRows<T> * max_depth(layer));
      grow(work.contracted, layer.rows_contracted * lines * size);
      grow(work.update, layer.rows_update * lines * size);
      grow(work.residual, layer.rows_out * lines * size);
      grow(work.rows, (order_rows(kMaxOrder) * size + kTileRows<T>)*lines);
      grow(work.entries, std::max(layer.message.num_entries, layer.velocity.num_entries));
      grow(work.harmonics, num_harmonics() * kLanes);
      if (layer.own.size()) {
        grow(work.own, 2 * layer.rows_in * kLanes);
        grow(work.sent, 2 * layer.rows_in * kLanes * kLanes);
      }
      work.atoms.reserve(size);
      work.by_species.reserve(size);
    } catch (const std::bad_alloc &) {
      return nullptr;
    }
    return &work;
  }

  int64_t max_depth(const Layer<T> &layer) const {
    int64_t depth = 0;
    for (const Map<T> &map : layer.message.maps)
      depth = std::max(depth, map.depth);
    for (const Map<T> &map : layer.velocity.maps)
      depth = std::max(depth, map.depth);
    return depth;
  }

  // Receivers begin ... end - 1 of the step.
  void layer_of_block(const Layer<T> &layer, const trajcast_step &step, int64_t begin, int64_t end,
                      int64_t size, Workspace<T> &work) const {
    work.atoms.resize(end - begin);
    for (int64_t k = begin; k < end; ++k)
      work.atoms[k - begin] = step.receivers ? step.receivers[k] : k;
    const int64_t count = end - begin;

    for (int block = 0; block < blocks; block += 2)
      for (int64_t k = 0; k < count; ++k)
        message(layer, step, work.atoms[k], block, work, size, k);
    layer.message.map(work.pooled.data(), size, count, work.contracted.data(),
                      layer.rows_contracted, blocks);

    for (int64_t k = 0; k < count; k += kLanes)
      condition(layer, step, k, std::min<int64_t>(count - k, kLanes), size, work);
    layer.velocity.map(work.pooled.data(), size, count, work.update.data(), layer.rows_update,
                       blocks);

    residual(layer, step, work);
    gate(layer, step, work);
  }

  // Sum of the messages to an atom, the k-th of the block; two blocks of channels, if there are.
  void message(const Layer<T> &layer, const trajcast_step &step, int64_t atom, int block,
               Workspace<T> &work, int64_t size, int64_t k) const {
    const T *edges = static_cast<const T *>(step.edges);
    const T *features = static_cast<const T *>(step.features) + block * layer.rows_in * kLanes;
    const int64_t feature_width = layer.rows_in * blocks * kLanes;
    const Table<T> &table = layer.message.table;
    const T *values = table.values.data() + block * table.block_size;
    const int64_t first = step.first_edge[atom], last = step.first_edge[atom + 1];

    const int together = std::min(2, blocks - block);
    const int64_t seen = together * layer.rows_in * kLanes; // values of an atom worked on here
    const bool joined = layer.own.size() > 0;
    if (joined) {
      const T *weights = layer.own.data() + block * layer.rows_in * kLanes;
      for (int64_t v = 0; v < seen; v += kLanes)
        (Block<T>::load(weights + v) * Block<T>::load(features + atom * feature_width + v))
            .store(work.own.data() + v);
    }
    Tile<T> tile;
    tile.next = table.node_size;
    tile.table_block = table.block_size;
    tile.features_block = layer.rows_in * kLanes;
    // An atom without neighbours has one empty tile, which sets its sums to zero.
    for (int64_t start = first; start < last || start == first; start += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - start));
      const T *fractions = edges + num_harmonics() * step.stride + start;
      const T *nodes = fractions + step.stride;
      if (lanes > 0)
        layer.message.couple(edges + start, step.stride, work.entries.data());
      for (int e = 0; e < lanes; ++e) {
        hermite<T>(fractions[e], &tile.basis[0][e], kLanes);
        tile.table[e] = values + static_cast<int64_t>(nodes[e]) * table.node_size;
        tile.features[e] = features + step.senders[start + e] * feature_width;
        prefetch<2 * kOrder<T> * kLanes * sizeof(T)>(tile.table[e]);
        prefetch<2 * kOrder<T> * kLanes * sizeof(T)>(tile.table[e] + tile.next);
        prefetch<4 * kLanes * sizeof(T)>(tile.features[e]);
      }
      if (joined)
        for (int e = 0; e < lanes; ++e) {
          T *sent = work.sent.data() + e * seen;
          for (int64_t v = 0; v < seen; v += kLanes) {
            Block<T> sum = Block<T>::load(tile.features[e] + v);
            sum.add(T(1), Block<T>::load(work.own.data() + v));
            sum.store(sent + v);
          }
          tile.features[e] = sent;
        }
      layer.message.sum(tile, work.entries.data(), 0, lanes, work.pooled.data(), size, k, block,
                        together, blocks, start == first);
    }
  }

  // Product of the contracted features with the harmonics of the velocity: up to kLanes atoms,
  // each with one edge, from it to itself.
  void condition(const Layer<T> &layer, const trajcast_step &step, int64_t begin, int64_t count,
                 int64_t size, Workspace<T> &work) const {
    const Table<T> &table = layer.velocity.table;
    Tile<T> tile;
    tile.next = table.node_size;
    tile.table_block = table.block_size;
    tile.features_block = layer.rows_contracted * kLanes;
    const T *values[kLanes];
    for (int64_t e = 0; e < count; ++e) {
      const int64_t atom = work.atoms[begin + e];
      const T *v = static_cast<const T *>(step.velocities) + 3 * atom;
      double x = v[0], y = v[1], z = v[2];
      const Position at = table.find(speed(x, y, z));
      harmonics<T>(lmax, T(x), T(y), T(z), work.harmonics.data() + e, kLanes);
      hermite<T>(T(at.fraction), &tile.basis[0][e], kLanes);
      values[e] =
          table.values.data() + step.species[atom] * table.set_size + at.node * table.node_size;
    }
    layer.velocity.couple(work.harmonics.data(), kLanes, work.entries.data());
    for (int block = 0; block < blocks; block += 2)
      for (int64_t e = 0; e < count; ++e) {
        tile.table[e] = values[e] + block * table.block_size;
        tile.features[e] = work.contracted.data() +
                           ((begin + e) * blocks + block) * layer.rows_contracted * kLanes;
        layer.velocity.sum(tile, work.entries.data(), e, e + 1, work.pooled.data(), size, begin + e,
                           block, std::min(2, blocks - block), blocks, true);
      }
  }

  // The linear map of the old features that depends on the species; results in that order.
  void residual(const Layer<T> &layer, const trajcast_step &step, Workspace<T> &work) const {
    const int64_t count = work.atoms.size(), lines = blocks * kLanes;
    work.by_species.clear();
    for (int64_t k = 0; k < count; ++k)
      work.by_species.push_back(k);
    const auto species = [&](int64_t k) { return step.species[work.atoms[k]]; };
    std::stable_sort(work.by_species.begin(), work.by_species.end(),
                     [&](int64_t a, int64_t b) { return species(a) < species(b); });

    for (const Gated<T> &g : layer.gated) {
      if (g.residual < 0)
        continue;
      for (int64_t k = 0; k < count; ++k) {
        const T *h = static_cast<const T *>(step.features) +
                     work.atoms[work.by_species[k]] * layer.rows_in * lines + g.residual * kLanes;
        for (int c = 0; c < g.rows; ++c)
          for (int block = 0; block < blocks; ++block)
            Block<T>::load(h + (block * layer.rows_in + c) * kLanes)
                .store(work.rows.data() + (k * g.rows + c) * lines + block * kLanes);
      }
      for (int64_t k = 0; k < count;) {
        const int64_t kind = species(work.by_species[k]);
        int64_t end = k;
        while (end < count && species(work.by_species[end]) == kind)
          ++end;
        matrix_product<T>(work.rows.data() + k * g.rows * lines, (end - k) * g.rows, lines,
                          g.residual_weights[kind].data(), blocks,
                          work.residual.data() + k * layer.rows_out * lines + g.output * kLanes,
                          {g.rows, layer.rows_out * lines, layer.rows_out * kLanes, 0, blocks});
        k = end;
      }
    }
  }

  void gate(const Layer<T> &layer, const trajcast_step &step, Workspace<T> &work) const {
    constexpr T half_root = T(0.70710678118654752440);
    const int64_t count = work.atoms.size(), lines = blocks * kLanes;
    for (int64_t k = 0; k < count; ++k)
      for (int block = 0; block < blocks; ++block) {
        const int64_t atom = work.by_species[k];
        const T *update = work.update.data() + (atom * blocks + block) * layer.rows_update * kLanes;
        const T *residual = work.residual.data() + (k * blocks + block) * layer.rows_out * kLanes;
        T *out = static_cast<T *>(step.out) + work.atoms[atom] * layer.rows_out * lines +
                 block * layer.rows_out * kLanes;
        for (const Gated<T> &g : layer.gated) {
          const T *from = update + (g.gate < 0 ? g.update : g.gate) * kLanes;
          const Block<T> factor =
              (half_root * g.scale) * activate<T>(g.activation, Block<T>::load(from));
          for (int c = 0; c < g.rows; ++c) {
            Block<T> y = factor;
            if (g.gate >= 0)
              y = factor * Block<T>::load(update + (g.update + c) * kLanes);
            if (g.residual >= 0)
              y.add(half_root, Block<T>::load(residual + (g.output + c) * kLanes));
            y.store(out + (g.output + c) * kLanes);
          }
        }
      }
  }
};

std::unique_ptr<trajcast_network> create(const trajcast_ends &ends, const trajcast_layer *layers,
                                         int num_layers, bool is_double) {
  if (is_double)
    return std::make_unique<Network<double>>(ends, layers, num_layers);
  return std::make_unique<Network<float>>(ends, layers, num_layers);
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast
