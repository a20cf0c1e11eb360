// The kernels of network.h. Included by one file for each set of instructions, which names the set
// in TRAJCAST_INSTRUCTIONS and is compiled for it: everything here and in the headers that it is
// made of lives in a namespace of that name.

#include "layer.h"
#include "network_interface.h"
#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#define TRAJCAST_TEXT_(name) #name
#define TRAJCAST_TEXT(name) TRAJCAST_TEXT_(name)

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

// Parts of a loop that are long enough to be worth a thread.
constexpr int64_t kEdgesAtOnce = 2048, kAtomsAtOnce = 128;

// Calls body(k) for k = 0 ... count - 1.
template <typename Body>
void for_each(int64_t count, int64_t chunk, int threads, const Body &body) {
  share_loop(count, chunk, threads, [&body](Chunks &chunks) {
    for (int64_t begin, end; chunks.next(begin, end);)
      for (int64_t k = begin; k < end; ++k)
        body(k);
  });
}

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
        speed_limit(ends.speed_limit), speed_factors(ends.num_species, 1.0),
        inverse_scale(ends.velocity_scale > 0.0 ? 1.0 / ends.velocity_scale : 0.0),
        directions(int64_t(ends.lmax) * blocks * kLanes),
        read_out_weights(int64_t(2) * blocks * kLanes) {
    if (ends.speed_factors)
      std::copy_n(ends.speed_factors, num_species, speed_factors.begin());
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
    for_each(num_edges, kEdgesAtOnce, threads, [&](int64_t e) {
      double x = edge_vectors[3 * e], y = edge_vectors[3 * e + 1], z = edge_vectors[3 * e + 2];
      const Position at = table.find(normalize(x, y, z));
      harmonics<T>(lmax, T(x), T(y), T(z), out + e, stride);
      out[num_harmonics() * stride + e] = T(at.fraction);
      out[(num_harmonics() + 1) * stride + e] = T(at.node);
    });
    // Whole tiles are read: what comes after the last edge must be there.
    for (int64_t row = 0; row < edge_rows(); ++row)
      std::fill(out + row * stride + num_edges, out + (row + 1) * stride, T(0));
  }

  void embed(int64_t num_nodes, const int64_t *species, const void *velocities_, void *features_,
             int threads) const override {
    const T *velocities = static_cast<const T *>(velocities_);
    T *features = static_cast<T *>(features_);
    const int64_t rows = layers[0].rows_in;
    for_each(num_nodes, kAtomsAtOnce, threads, [&](int64_t i) {
      double x = velocities[3 * i], y = velocities[3 * i + 1], z = velocities[3 * i + 2];
      const Position at = scalars.find(speed(x, y, z, species[i]));
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
    });
  }

  bool layer(int k, const trajcast_step &step, int threads) const override {
    const Layer<T> &layer = layers[k];
    const int64_t size = block_size(layer, step.num_receivers, threads);
    const int64_t num_blocks = (step.num_receivers + size - 1) / size;
    std::atomic<bool> failed{false};
    share_loop(num_blocks, 1, threads, [&](Chunks &chunks) {
      Workspace<T> *work = workspace(layer, size);
      if (!work)
        failed = true;
      for (int64_t b, end; work && chunks.next(b, end);)
        layer_of_block(layer, step, b * size, std::min(step.num_receivers, (b + 1) * size), size,
                       *work);
    });
    return !failed;
  }

  void read_out(int64_t num_atoms, const void *features_, void *targets_,
                int threads) const override {
    const T *features = static_cast<const T *>(features_);
    T *targets = static_cast<T *>(targets_);
    const int64_t rows = layers.back().rows_out;
    for_each(num_atoms, kAtomsAtOnce, threads, [&](int64_t i) {
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
    });
  }

private:
  int lmax, channels, num_species, blocks;
  Table<T> scalars;
  int64_t vectors;
  double speed_limit;                    // of what tables are looked up by; 0: none
  std::vector<double> speed_factors;     // (num_species,)
  double inverse_scale;                  // of velocities, for solid harmonics; 0: spherical ones
  Array<T> directions, read_out_weights; // (lmax, blocks, 16) and (2, blocks, 16)
  std::vector<Layer<T>> layers;

  int64_t num_harmonics() const { return int64_t(lmax + 1) * (lmax + 1); }

  // Where the tables of a species are looked up for the velocity (x, y, z), which becomes what its
  // harmonics are taken of.
  double speed(double &x, double &y, double &z, int64_t species) const {
    const double factor = speed_factors[species];
    if (inverse_scale == 0.0)
      return limited(factor * normalize(x, y, z));
    const double length = std::sqrt(x * x + y * y + z * z);
    x *= inverse_scale;
    y *= inverse_scale;
    z *= inverse_scale;
    return limited(factor * length);
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
        sum_messages(layer, step, work.atoms[k], block, work, size, k);
    layer.message.map(work.pooled.data(), size, count, work.contracted.data(),
                      layer.rows_contracted, blocks);

    for (int64_t k = 0; k < count; k += kLanes)
      velocity_product(layer, step, k, std::min<int64_t>(count - k, kLanes), size, work);
    layer.velocity.map(work.pooled.data(), size, count, work.update.data(), layer.rows_update,
                       blocks);

    residual(layer, step, work);
    gate(layer, step, work);
  }

  // Sum of the messages to an atom, the k-th of the block; two blocks of channels, if there are.
  void sum_messages(const Layer<T> &layer, const trajcast_step &step, int64_t atom, int block,
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
    // An atom without neighbors has one empty tile, which sets its sums to zero.
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
  void velocity_product(const Layer<T> &layer, const trajcast_step &step, int64_t begin,
                        int64_t count, int64_t size, Workspace<T> &work) const {
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
      const Position at = table.find(speed(x, y, z, step.species[atom]));
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
