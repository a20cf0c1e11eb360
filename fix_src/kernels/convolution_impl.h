// The edge convolution of edge_convolution.h and its gradients, for training. Included by one file
// for each set of instructions, which names the set in TRAJCAST_INSTRUCTIONS and is compiled for
// it.
//
// Edges are worked on in tiles, one path after another, by functions made for the orders of the
// path, so that what an atom sums up stays in registers. Channels that do not fill vector
// registers, and higher orders, take plain loops over the entries of the paths.

#include "convolution_interface.h"
#include "tensor_product.h"

#include <algorithm>
#include <vector>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {
namespace {

// Where the weights of an edge are: between two rows of a table, or a row of their own.
template <typename T> struct WeightRows {
  int64_t below, above;
  T share; // of the row above
};

template <typename T> WeightRows<T> weight_rows(const trajcast_edges &edges, int64_t edge) {
  if (!edges.node)
    return {edge, edge, T(0)};
  return {edges.node[edge], edges.node[edge] + 1, static_cast<T>(edges.fraction[edge])};
}

// ---- vector registers: functions made for the orders of a path -------------------------------

// Up to kTileEdges consecutive edges.
template <typename T> struct TrainingTile {
  int count;
  int64_t receiver[kTileEdges];
  const T *input[kTileEdges];    // what the tensor product takes: of the sender, and own
  T *input_gradient[kTileEdges]; // to be added to
  const T *below[kTileEdges], *above[kTileEdges];
  T *below_gradient[kTileEdges], *above_gradient[kTileEdges];
  T share[kTileEdges]; // of the weights above
};

// Where one path, from one block of channels on, reads and writes.
template <typename T> struct TrainingPlace {
  int64_t input;    // from TrainingTile::input
  int64_t weight;   // from TrainingTile::below and above
  int64_t channels; // from one input row to the next
  int64_t stride;   // from one row of the result to the next
  T factor;
};

template <typename T, int B>
TRAJCAST_INLINE void blend(const TrainingTile<T> &tile, int e, int64_t at, Block<T> (&weight)[B]) {
  const T share = tile.share[e];
  unroll<B>([&](auto b) __attribute__((always_inline)) {
    weight[b] = Block<T>::load(tile.below[e] + at + b * kLanes);
  });
  if (tile.above[e] != tile.below[e])
    unroll<B>([&](auto b) __attribute__((always_inline)) {
      weight[b] = (T(1) - share) * weight[b];
      weight[b].add(share, Block<T>::load(tile.above[e] + at + b * kLanes));
    });
}

TRAJCAST_INLINE constexpr bool pays_to_pair(int vectors, int rows) {
  return 2 * vectors * (rows + 4) <= kRegisters;
}

// Add the messages of edges first ... last - 1, which have one receiver, to its result: B blocks of
// channels.
template <typename T, int L1, int L2, int L3, int B>
void add_messages(const TrainingTile<T> &tile, const T *entries, int first, int last,
                  const TrainingPlace<T> &place, T *out) {
  using E = Entries<L1, L2, L3>;
  Block<T> sum[B][order_rows(L3)];
  unroll<B * order_rows(L3)>([&](auto k) __attribute__((always_inline)) {
    sum[k / order_rows(L3)][k % order_rows(L3)] = Block<T>::zero();
  });
  for (int e = first; e < last; ++e) {
    const auto input = [&](int b, int a) __attribute__((always_inline)) {
      return Block<T>::load(tile.input[e] + place.input + a * place.channels + b * kLanes);
    };
    Block<T> weight[B];
    blend<T, B>(tile, e, place.weight, weight);
    if constexpr (L3 < L1) { // fewer rows go out than in: the weight comes last
      unroll<B>([&](auto b) __attribute__((always_inline)) {
        Block<T> part[order_rows(L3)];
        unroll<order_rows(L3)>([&](auto c)
                                   __attribute__((always_inline)) { part[c] = Block<T>::zero(); });
        unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
          constexpr int i = t;
          constexpr Term term = E::Terms::terms[i];
          if constexpr (E::begins_entry(i))
            part[term.c].add(entries[E::entry(i) * kTileEdges + e], input(b, term.a));
        });
        unroll<order_rows(L3)>(
            [&](auto c) __attribute__((always_inline)) { sum[b][c].add(weight[b], part[c]); });
      });
    } else {
      unroll<order_rows(L1)>([&](auto row) __attribute__((always_inline)) {
        constexpr int a = row;
        Block<T> weighted[B];
        unroll<B>([&](auto b)
                      __attribute__((always_inline)) { weighted[b] = weight[b] * input(b, a); });
        unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
          constexpr int i = t;
          constexpr Term term = E::Terms::terms[i];
          if constexpr (term.a == a && E::begins_entry(i)) {
            const T entry = entries[E::entry(i) * kTileEdges + e];
            unroll<B>([&](auto b) __attribute__((always_inline)) {
              sum[b][term.c].add(entry, weighted[b]);
            });
          }
        });
      });
    }
  }
  unroll<B * order_rows(L3)>([&](auto k) __attribute__((always_inline)) {
    constexpr int b = k / order_rows(L3), c = k % order_rows(L3);
    T *to = out + c * place.stride + b * kLanes;
    Block<T> total = Block<T>::load(to);
    total.add(place.factor, sum[b][c]);
    total.store(to);
  });
}

// Add the gradients of those edges, from that of their receiver's result.
template <typename T, int L1, int L2, int L3, int B>
void add_gradients(const TrainingTile<T> &tile, const T *entries, int first, int last,
                   const TrainingPlace<T> &place, const T *out) {
  using E = Entries<L1, L2, L3>;
  Block<T> out_gradient[B][order_rows(L3)];
  unroll<B * order_rows(L3)>([&](auto k) __attribute__((always_inline)) {
    constexpr int b = k / order_rows(L3), c = k % order_rows(L3);
    out_gradient[b][c] = place.factor * Block<T>::load(out + c * place.stride + b * kLanes);
  });
  for (int e = first; e < last; ++e) {
    const T *input = tile.input[e] + place.input;
    T *input_gradient = tile.input_gradient[e] + place.input;
    Block<T> weight[B], weight_gradient[B];
    blend<T, B>(tile, e, place.weight, weight);
    unroll<B>([&](auto b)
                  __attribute__((always_inline)) { weight_gradient[b] = Block<T>::zero(); });
    unroll<order_rows(L1)>([&](auto row) __attribute__((always_inline)) {
      constexpr int a = row;
      Block<T> product[B];
      unroll<B>([&](auto b) __attribute__((always_inline)) { product[b] = Block<T>::zero(); });
      unroll<E::Terms::size>([&](auto t) __attribute__((always_inline)) {
        constexpr int i = t;
        constexpr Term term = E::Terms::terms[i];
        if constexpr (term.a == a && E::begins_entry(i)) {
          const T entry = entries[E::entry(i) * kTileEdges + e];
          unroll<B>([&](auto b) __attribute__((always_inline)) {
            product[b].add(entry, out_gradient[b][term.c]);
          });
        }
      });
      unroll<B>([&](auto b) __attribute__((always_inline)) {
        const int64_t at = a * place.channels + b * kLanes;
        weight_gradient[b].add(product[b], Block<T>::load(input + at));
        Block<T> sum = Block<T>::load(input_gradient + at);
        sum.add(weight[b], product[b]);
        sum.store(input_gradient + at);
      });
    });
    const bool two = tile.above[e] != tile.below[e];
    unroll<B>([&](auto b) __attribute__((always_inline)) {
      const int64_t at = place.weight + b * kLanes;
      Block<T> below = Block<T>::load(tile.below_gradient[e] + at);
      below.add(T(1) - tile.share[e], weight_gradient[b]);
      below.store(tile.below_gradient[e] + at);
      if (two) {
        Block<T> above = Block<T>::load(tile.above_gradient[e] + at);
        above.add(tile.share[e], weight_gradient[b]);
        above.store(tile.above_gradient[e] + at);
      }
    });
  }
}

// The functions above for orders known at run time.
template <typename T> struct TrainingFunctions {
  using Couple = void (*)(const T *, int64_t, T *);
  using Forward = void (*)(const TrainingTile<T> &, const T *, int, int, const TrainingPlace<T> &,
                           T *);
  using Backward = void (*)(const TrainingTile<T> &, const T *, int, int, const TrainingPlace<T> &,
                            const T *);

  Couple couple = nullptr; // null where there are none of these orders
  // For one or two blocks of channels; null where there are not enough registers.
  Forward forward[2] = {};
  Backward backward[2] = {};

  TrainingFunctions(int l1, int l2, int l3) {
    constexpr int n = kMaxOrder + 1;
    unroll<n * n * n>([&](auto k) {
      constexpr int i = k, k1 = i / (n * n), k2 = i / n % n, k3 = i % n;
      if constexpr (Coupling<k1, k2, k3>::size > 0)
        if (l1 == k1 && l2 == k2 && l3 == k3) {
          couple = trajcast::TRAJCAST_INSTRUCTIONS::couple<T, k1, k2, k3>;
          forward[0] = add_messages<T, k1, k2, k3, 1>;
          backward[0] = add_gradients<T, k1, k2, k3, 1>;
          if constexpr (pays_to_pair(kVectors<T>, order_rows(k3))) {
            forward[1] = add_messages<T, k1, k2, k3, 2>;
            backward[1] = add_gradients<T, k1, k2, k3, 2>;
          }
        }
    });
  }
};

template <typename T> struct TrainingPath {
  TrainingFunctions<T> functions;
  TrainingPlace<T> place;
  int64_t output; // first row of the result

  TrainingPath(const trajcast_paths &paths, int p, int64_t channels)
      : functions(paths.order[3 * p], paths.order[3 * p + 1], paths.order[3 * p + 2]),
        place{paths.first_row[3 * p] * channels, p * channels, channels,
              paths.first_row[3 * p + 2] * channels, static_cast<T>(paths.factor[p])},
        output(paths.first_row[3 * p + 1] * channels) {}

  // Call f(function, place, output) for every block of channels, or two at a time.
  template <typename F, typename G>
  TRAJCAST_INLINE void for_blocks(F *const (&choice)[2], const G &f) const {
    TrainingPlace<T> here = place;
    const int blocks = static_cast<int>(place.channels / kLanes);
    for (int b = 0; b < blocks;) {
      const int many = choice[1] && blocks - b >= 2 ? 2 : 1;
      here.input = place.input + b * kLanes;
      here.weight = place.weight + b * kLanes;
      f(choice[many - 1], here, output + b * kLanes);
      b += many;
    }
  }
};

template <typename T>
std::vector<TrainingPath<T>> training_paths(const trajcast_paths &paths, int64_t channels) {
  std::vector<TrainingPath<T>> made;
  if (channels % kLanes)
    return made;
  for (int p = 0; p < paths.num_paths; ++p) {
    made.emplace_back(paths, p, channels);
    if (!made.back().functions.couple)
      return {};
  }
  return made;
}

// Scratch memory for tiles.
template <typename T> class TrainingTiles {
public:
  TrainingTiles(const Convolution<T> &given, int64_t begin, int64_t end)
      : given(given), in_size(given.paths.num_inputs * given.edges.channels),
        weights_size(given.paths.num_paths * given.edges.channels), receiver(begin),
        last(given.edges.first_edge[end]), harmonics(given.paths.num_harmonics * kTileEdges),
        entries((2 * kMaxOrder + 1) * (2 * kMaxOrder + 1) * kTileEdges),
        joined(given.own ? in_size * kTileEdges : 0) {}

  // Gather the tile that begins with this edge.
  void gather(int64_t start, TrainingTile<T> &tile) {
    const trajcast_edges &edges = given.edges;
    const int32_t num_harmonics = given.paths.num_harmonics;
    tile.count = static_cast<int>(std::min<int64_t>(kTileEdges, last - start));
    for (int e = 0; e < tile.count; ++e) {
      while (start + e >= edges.first_edge[receiver + 1])
        ++receiver;
      tile.receiver[e] = receiver;
      const T *sender = given.features + edges.sender[start + e] * in_size;
      tile.input[e] = sender;
      if (given.own) {
        const T *own = given.own + receiver * in_size;
        T *row = joined.data() + e * in_size;
        for (int64_t k = 0; k < in_size; ++k)
          row[k] = sender[k] + own[k];
        tile.input[e] = row;
      }
      const WeightRows<T> rows = weight_rows<T>(edges, start + e);
      tile.below[e] = given.weights + rows.below * weights_size;
      tile.above[e] = given.weights + rows.above * weights_size;
      tile.share[e] = rows.share;
    }
    for (int32_t b = 0; b < num_harmonics; ++b)
      for (int e = 0; e < kTileEdges; ++e)
        harmonics.data()[b * kTileEdges + e] =
            e < tile.count ? given.harmonics[(start + e) * num_harmonics + b] : T(0);
  }

  // Where to add the gradients of the tile's edges.
  void gather_gradients(int64_t start, const ConvolutionGradients<T> &gradients,
                        TrainingTile<T> &tile) {
    if (given.own) {
      if (!joined_gradient.size())
        joined_gradient.resize(in_size * kTileEdges);
      std::fill_n(joined_gradient.data(), tile.count * in_size, T(0));
    }
    for (int e = 0; e < tile.count; ++e) {
      tile.input_gradient[e] = given.own
                                   ? joined_gradient.data() + e * in_size
                                   : gradients.features + given.edges.sender[start + e] * in_size;
      tile.below_gradient[e] = gradients.weights + (tile.below[e] - given.weights);
      tile.above_gradient[e] = gradients.weights + (tile.above[e] - given.weights);
    }
  }

  // Pass on to sender and receiver what the tile's edges have gathered for both.
  void scatter_gradients(int64_t start, const ConvolutionGradients<T> &gradients,
                         const TrainingTile<T> &tile) const {
    if (!given.own)
      return;
    for (int e = 0; e < tile.count; ++e) {
      const T *from = tile.input_gradient[e];
      T *sender = gradients.features + given.edges.sender[start + e] * in_size;
      T *own = gradients.own + tile.receiver[e] * in_size;
      for (int64_t k = 0; k < in_size; ++k) {
        sender[k] += from[k];
        own[k] += from[k];
      }
    }
  }

  const T *couple(const TrainingPath<T> &path) const {
    path.functions.couple(harmonics.data(), kTileEdges, entries.data());
    return entries.data();
  }

private:
  const Convolution<T> &given;
  const int64_t in_size, weights_size;
  int64_t receiver;
  const int64_t last;
  Array<T> harmonics; // (b, edge)
  Array<T> entries;
  Array<T> joined, joined_gradient; // (edge, row, channel)
};

// Call f(first, last, receiver) for the edges of a tile that have one receiver.
template <typename T, typename F>
TRAJCAST_INLINE void for_receivers(const TrainingTile<T> &tile, const F &f) {
  for (int first = 0; first < tile.count;) {
    int last = first + 1;
    while (last < tile.count && tile.receiver[last] == tile.receiver[first])
      ++last;
    f(first, last, tile.receiver[first]);
    first = last;
  }
}

template <typename T>
void convolve_tiles(const Convolution<T> &given, const std::vector<TrainingPath<T>> &paths,
                    int64_t begin, int64_t end, T *out) {
  const int64_t out_size = given.paths.num_outputs * given.edges.channels;
  TrainingTiles<T> tiles(given, begin, end);
  TrainingTile<T> tile;
  for (int64_t start = given.edges.first_edge[begin]; start < given.edges.first_edge[end];
       start += kTileEdges) {
    tiles.gather(start, tile);
    for (const TrainingPath<T> &path : paths) {
      const T *entries = tiles.couple(path);
      path.for_blocks(path.functions.forward, [&](auto f, const auto &place, int64_t output) {
        for_receivers(tile, [&](int first, int last, int64_t receiver) {
          f(tile, entries, first, last, place, out + receiver * out_size + output);
        });
      });
    }
  }
}

template <typename T>
void differentiate_tiles(const Convolution<T> &given, const std::vector<TrainingPath<T>> &paths,
                         int64_t begin, int64_t end, const ConvolutionGradients<T> &gradients) {
  const int64_t out_size = given.paths.num_outputs * given.edges.channels;
  TrainingTiles<T> tiles(given, begin, end);
  TrainingTile<T> tile;
  for (int64_t start = given.edges.first_edge[begin]; start < given.edges.first_edge[end];
       start += kTileEdges) {
    tiles.gather(start, tile);
    tiles.gather_gradients(start, gradients, tile);
    for (const TrainingPath<T> &path : paths) {
      const T *entries = tiles.couple(path);
      path.for_blocks(path.functions.backward, [&](auto f, const auto &place, int64_t output) {
        for_receivers(tile, [&](int first, int last, int64_t receiver) {
          f(tile, entries, first, last, place, gradients.out + receiver * out_size + output);
        });
      });
    }
    tiles.scatter_gradients(start, gradients, tile);
  }
}

// ---- any number of channels, any orders ------------------------------------------------------

// Scratch memory for one edge at a time.
template <typename T> class EdgeWorkspace {
public:
  EdgeWorkspace(const Convolution<T> &given)
      : given(given), channels(given.edges.channels), in_size(given.paths.num_inputs * channels),
        weights_size(given.paths.num_paths * channels), couplings(given.paths.num_entries),
        row(in_size), gradient(in_size), mixed(weights_size), mixed_gradient(weights_size),
        product(channels) {}

  // The couplings of an edge: sums over harmonics of coefficient times harmonic.
  void couple(int64_t edge) {
    const trajcast_paths &paths = given.paths;
    const T *harmonics = given.harmonics + edge * paths.num_harmonics;
    for (int32_t t = 0; t < paths.num_entries; ++t) {
      T sum = T(0);
      for (int32_t k = paths.first[t]; k < paths.first[t + 1]; ++k)
        sum += static_cast<T>(paths.value[k]) * harmonics[paths.harmonic[k]];
      couplings[t] = sum;
    }
  }

  // What the tensor product takes.
  const T *input(int64_t edge, int64_t receiver) {
    const T *sender = given.features + given.edges.sender[edge] * in_size;
    if (!given.own)
      return sender;
    const T *own = given.own + receiver * in_size;
    for (int64_t k = 0; k < in_size; ++k)
      row[k] = sender[k] + own[k];
    return row.data();
  }

  const T *weights(int64_t edge) {
    const WeightRows<T> rows = weight_rows<T>(given.edges, edge);
    const T *below = given.weights + rows.below * weights_size;
    if (rows.above == rows.below)
      return below;
    const T *above = given.weights + rows.above * weights_size;
    for (int64_t k = 0; k < weights_size; ++k)
      mixed[k] = (T(1) - rows.share) * below[k] + rows.share * above[k];
    return mixed.data();
  }

  // Pass on the gradient of an edge's weights.
  void add_weights_gradient(int64_t edge, T *gradients) const {
    const WeightRows<T> rows = weight_rows<T>(given.edges, edge);
    T *below = gradients + rows.below * weights_size,
      *above = gradients + rows.above * weights_size;
    for (int64_t k = 0; k < weights_size; ++k) {
      below[k] += (T(1) - rows.share) * mixed_gradient[k];
      if (above != below)
        above[k] += rows.share * mixed_gradient[k];
    }
  }

  // Call f(edge, receiver) for the edges of some receivers.
  template <typename F>
  static void for_edges(const trajcast_edges &edges, int64_t begin, int64_t end, const F &f) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t e = edges.first_edge[i]; e < edges.first_edge[i + 1]; ++e)
        f(e, i);
  }

  const Convolution<T> &given;
  const int64_t channels, in_size, weights_size;
  std::vector<T> couplings;
  std::vector<T> row, gradient; // (input row, channel)
  std::vector<T> mixed, mixed_gradient;
  std::vector<T> product; // (channel)
};

template <typename T>
void convolve_edges(const Convolution<T> &given, int64_t begin, int64_t end, T *out) {
  const trajcast_paths &paths = given.paths;
  EdgeWorkspace<T> work(given);
  const int64_t channels = work.channels;
  work.for_edges(given.edges, begin, end, [&](int64_t e, int64_t i) {
    work.couple(e);
    const T *h = work.input(e, i), *w = work.weights(e);
    T *result = out + i * paths.num_outputs * channels;
    for (int32_t t = 0; t < paths.num_entries;) {
      const int32_t p = paths.path[t], a = paths.input[t];
      for (int64_t u = 0; u < channels; ++u)
        work.product[u] = w[p * channels + u] * h[a * channels + u];
      for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t)
        for (int64_t u = 0; u < channels; ++u)
          result[paths.output[t] * channels + u] += work.couplings[t] * work.product[u];
    }
  });
}

template <typename T>
void differentiate_edges(const Convolution<T> &given, int64_t begin, int64_t end,
                         const ConvolutionGradients<T> &gradients) {
  const trajcast_paths &paths = given.paths;
  EdgeWorkspace<T> work(given);
  const int64_t channels = work.channels;
  work.for_edges(given.edges, begin, end, [&](int64_t e, int64_t i) {
    work.couple(e);
    const T *h = work.input(e, i), *w = work.weights(e);
    const T *result = gradients.out + i * paths.num_outputs * channels;
    std::fill(work.gradient.begin(), work.gradient.end(), T(0));
    std::fill(work.mixed_gradient.begin(), work.mixed_gradient.end(), T(0));
    for (int32_t t = 0; t < paths.num_entries;) {
      const int32_t p = paths.path[t], a = paths.input[t];
      std::fill(work.product.begin(), work.product.end(), T(0));
      for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t)
        for (int64_t u = 0; u < channels; ++u)
          work.product[u] += work.couplings[t] * result[paths.output[t] * channels + u];
      for (int64_t u = 0; u < channels; ++u) {
        work.mixed_gradient[p * channels + u] += h[a * channels + u] * work.product[u];
        work.gradient[a * channels + u] += w[p * channels + u] * work.product[u];
      }
    }
    work.add_weights_gradient(e, gradients.weights);
    T *sender = gradients.features + given.edges.sender[e] * work.in_size;
    for (int64_t k = 0; k < work.in_size; ++k)
      sender[k] += work.gradient[k];
    if (given.own) {
      T *own = gradients.own + i * work.in_size;
      for (int64_t k = 0; k < work.in_size; ++k)
        own[k] += work.gradient[k];
    }
  });
}

template <typename T>
void convolve_range(const Convolution<T> &given, int64_t begin, int64_t end, T *out) {
  const int64_t out_size = given.paths.num_outputs * given.edges.channels;
  std::fill(out + begin * out_size, out + end * out_size, T(0));
  const auto paths = training_paths<T>(given.paths, given.edges.channels);
  if (paths.empty())
    convolve_edges(given, begin, end, out);
  else
    convolve_tiles(given, paths, begin, end, out);
}

template <typename T>
void differentiate_range(const Convolution<T> &given, int64_t begin, int64_t end,
                         const ConvolutionGradients<T> &gradients) {
  const auto paths = training_paths<T>(given.paths, given.edges.channels);
  if (paths.empty())
    differentiate_edges(given, begin, end, gradients);
  else
    differentiate_tiles(given, paths, begin, end, gradients);
}

} // namespace

void convolve(const Convolution<float> &given, int64_t begin, int64_t end, float *out) {
  convolve_range(given, begin, end, out);
}
void convolve(const Convolution<double> &given, int64_t begin, int64_t end, double *out) {
  convolve_range(given, begin, end, out);
}
void differentiate(const Convolution<float> &given, int64_t begin, int64_t end,
                   const ConvolutionGradients<float> &gradients) {
  differentiate_range(given, begin, end, gradients);
}
void differentiate(const Convolution<double> &given, int64_t begin, int64_t end,
                   const ConvolutionGradients<double> &gradients) {
  differentiate_range(given, begin, end, gradients);
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast
