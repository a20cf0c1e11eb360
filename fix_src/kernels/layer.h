// The weights of a layer, as the kernels want them. Compiled for each set of instructions, see
// network_impl.h.

#ifndef TRAJCAST_LAYER_H
#define TRAJCAST_LAYER_H

#include "harmonics.h"
#include "matrix_product.h"
#include "network.h"
#include "table.h"
#include "tensor_product.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Paths of equal orders, worked on together.
template <typename T> struct PathPair {
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
  std::vector<PathPair<T>> pairs;
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
          PathPair<T> &pair = pairs.back();
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
    for (const PathPair<T> &pair : pairs) {
      PathPlaces<T> place;
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

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast

#endif
