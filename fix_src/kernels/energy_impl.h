// The kernel of energy.h. Included by one file for each set of instructions, which names the set in
// TRAJCAST_INSTRUCTIONS and is compiled for it.
//
// The edges of an atom are sorted by the species of their senders and worked on in tiles, one in
// each lane of a vector register.

#include "energy_interface.h"
#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#define TRAJCAST_ALWAYS_INLINE inline __attribute__((always_inline))

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double))));

// The same in memory, wherever that begins.
struct Packed {
  double lane[kLanes];

  Packed() = default;
  Packed(const Lanes &lanes) { std::memcpy(lane, &lanes, sizeof(lane)); }
  TRAJCAST_ALWAYS_INLINE Lanes get() const {
    Lanes lanes;
    std::memcpy(&lanes, lane, sizeof(lane));
    return lanes;
  }
};

TRAJCAST_ALWAYS_INLINE double sum(const Packed &lanes) {
  double total = 0.0;
  for (int e = 0; e < kLanes; ++e)
    total += lanes.lane[e];
  return total;
}

constexpr int kMaxDegree = 6;

// A monomial of the components of a unit vector.
struct Monomial {
  int power[3];
  int degree;
  double factor; // such that the squares of all of a degree add up to one
};

inline std::vector<Monomial> monomials(int max_order) {
  const double factorial[kMaxDegree + 1] = {1.0, 1.0, 2.0, 6.0, 24.0, 120.0, 720.0};
  std::vector<Monomial> all;
  for (int degree = 0; degree <= max_order; ++degree)
    for (int a = 0; a <= degree; ++a)
      for (int b = 0; a + b <= degree; ++b) {
        const int c = degree - a - b;
        all.push_back(
            {{a, b, c},
             degree,
             std::sqrt(factorial[degree] / (factorial[a] * factorial[b] * factorial[c]))});
      }
  return all;
}

// As many edges from atoms of one species as a vector has lanes. Lanes without an edge repeat
// another, with radial functions that are zero.
struct Tile {
  int64_t edge[kLanes];
  int used;
  Packed u[3]; // unit vector
  Packed inverse;
  Packed pair_slope; // of the terms of two bodies, by the distance
};

// Powers 0 ... kMaxDegree of the components of a tile's unit vectors.
struct Powers {
  Lanes of[3][kMaxDegree + 1];

  Powers(const Tile &tile, int max_order) {
    for (int k = 0; k < 3; ++k) {
      of[k][0] = Lanes{} + 1.0;
      for (int p = 1; p <= max_order; ++p)
        of[k][p] = of[k][p - 1] * tile.u[k].get();
    }
  }
};

class EnergyOfAtoms {
public:
  EnergyOfAtoms(const trajcast_energy_model &model, const EnergyGraph &graph,
                const EnergyResult &result)
      : model(model), graph(graph), result(result), terms(monomials(model.max_order)),
        num_terms(static_cast<int>(terms.size())), width(model.num_species * model.num_radial),
        blocks((width + kLanes - 1) / kLanes),
        products(std::size_t(model.num_species) * (model.max_order + 1) * width * blocks) {
    // Rows filled up with zeros.
    for (std::size_t row = 0; row < products.size() / blocks; ++row)
      for (int j = 0; j < width; ++j)
        products[row * blocks + j / kLanes].lane[j % kLanes] = model.products[row * width + j];
  }

  // Scratch memory of one thread, for an atom of that many edges.
  struct Workspace {
    std::vector<int64_t> sorted;
    std::vector<int> counts;
    std::vector<Tile> tiles;
    std::vector<Packed> values;       // of a tile: radial functions, their slopes, monomials
    std::vector<Packed> sums;         // (terms, radial) of one species
    std::vector<double> moments;      // (terms, width)
    std::vector<Packed> derivatives;  // (terms, blocks) of the energy by them
    std::vector<Packed> basis, slope; // (pair functions,)
  };

  void reserve(Workspace &work, int64_t max_edges) const {
    const int64_t tiles = max_edges / kLanes + model.num_species + 1;
    work.sorted.resize(max_edges);
    work.counts.resize(model.num_species + 1);
    work.tiles.resize(tiles);
    work.values.resize(tiles * values_of_tile());
    work.sums.resize(std::size_t(num_terms) * model.num_radial);
    work.moments.resize(std::size_t(num_terms) * width);
    work.derivatives.resize(std::size_t(num_terms) * blocks);
    work.basis.resize(model.num_pair);
    work.slope.resize(model.num_pair);
  }

  void atom(int64_t i, Workspace &work) const {
    sort_edges(i, work);
    const int64_t species = graph.species[i];
    double energy = model.constants[species];
    int num_tiles = 0;
    for (int b = 0; b < model.num_species; ++b) {
      std::fill(work.sums.begin(), work.sums.end(), Packed(Lanes{}));
      for (int first = work.counts[b]; first < work.counts[b + 1]; first += kLanes) {
        Packed *values = &work.values[num_tiles * values_of_tile()];
        Tile &tile = work.tiles[num_tiles++];
        tile.used = std::min(kLanes, work.counts[b + 1] - first);
        for (int e = 0; e < kLanes; ++e)
          tile.edge[e] = work.sorted[first + std::min(e, tile.used - 1)];
        energy += expand(tile, species, b, values, work);
        add_to_sums(values, work.sums.data());
      }
      for (int c = 0; c < num_terms; ++c)
        for (int k = 0; k < model.num_radial; ++k)
          work.moments[c * width + b * model.num_radial + k] =
              sum(work.sums[c * model.num_radial + k]);
    }
    energy += multiply(species, work);
    result.energies[i] = energy;
    if (result.virials || result.gradients)
      differentiate(i, num_tiles, work);
  }

private:
  int64_t values_of_tile() const { return 2 * model.num_radial + num_terms; }

  // Edges of an atom that are within the cutoff, by the species of the sender.
  void sort_edges(int64_t i, Workspace &work) const {
    std::fill(work.counts.begin(), work.counts.end(), 0);
    const int64_t begin = graph.first_edge[i], end = graph.first_edge[i + 1];
    for (int64_t e = begin; e < end; ++e)
      if (is_near(e))
        ++work.counts[graph.species[graph.senders[e]] + 1];
    for (int b = 0; b < model.num_species; ++b)
      work.counts[b + 1] += work.counts[b];
    for (int64_t e = begin; e < end; ++e)
      if (is_near(e))
        work.sorted[work.counts[graph.species[graph.senders[e]]]++] = e;
    for (int b = model.num_species; b > 0; --b)
      work.counts[b] = work.counts[b - 1];
    work.counts[0] = 0;
  }

  bool is_near(int64_t e) const {
    const double *d = graph.vectors + 3 * e;
    return !(d[0] * d[0] + d[1] * d[1] + d[2] * d[2] >= model.cutoff * model.cutoff);
  }

  // Fill the values of a tile; returns the energy of its terms of two bodies.
  double expand(Tile &tile, int64_t species, int b, Packed *values, Workspace &work) const {
    double lengths[kLanes], mask[kLanes], vectors[3][kLanes];
    for (int e = 0; e < kLanes; ++e) {
      const double *d = graph.vectors + 3 * tile.edge[e];
      lengths[e] = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      mask[e] = e < tile.used ? 1.0 : 0.0;
      for (int k = 0; k < 3; ++k)
        vectors[k][e] = d[k];
    }
    Lanes r, present;
    std::memcpy(&r, lengths, sizeof(r));
    std::memcpy(&present, mask, sizeof(present));
    const Lanes inverse = 1.0 / r;
    tile.inverse = inverse;
    for (int k = 0; k < 3; ++k) {
      Lanes component;
      std::memcpy(&component, vectors[k], sizeof(component));
      tile.u[k] = component * inverse;
    }
    const Lanes s = r / model.cutoff;
    const Lanes below = 1.0 / (1.0 + model.skew * s);
    const Lanes x = 2.0 * (1.0 - s) * below - 1.0;
    const Lanes dx = -2.0 * (1.0 + model.skew) / model.cutoff * below * below;
    const Lanes rest = 1.0 - s * s;
    const Lanes cut = present * rest * rest * rest;
    const Lanes dcut = -6.0 / model.cutoff * present * s * rest * rest;

    // Chebyshev polynomials and their derivatives, then times what takes them to zero at the
    // cutoff.
    Packed *basis = work.basis.data(), *slope = work.slope.data();
    Lanes t = Lanes{} + 1.0, next = x, dt = {}, dnext = Lanes{} + 1.0;
    const double *pair = model.pairs + (species * model.num_species + b) * model.num_pair;
    Lanes energy = {}, pair_slope = {};
    for (int n = 0; n < model.num_pair; ++n) {
      const Lanes value = t * cut, change = dt * dx * cut + t * dcut;
      basis[n] = value;
      slope[n] = change;
      energy += pair[n] * value;
      pair_slope += pair[n] * change;
      const Lanes after = 2.0 * x * next - t;
      const Lanes dafter = 2.0 * (next + x * dnext) - dt;
      t = next;
      dt = dnext;
      next = after;
      dnext = dafter;
    }
    tile.pair_slope = pair_slope;

    for (int k = 0; k < model.num_radial; ++k) {
      Lanes radial = {}, radial_slope = {};
      for (int n = 0; n < model.num_radial; ++n) {
        const double weight = model.radial[n * model.num_radial + k];
        radial += weight * basis[n].get();
        radial_slope += weight * slope[n].get();
      }
      values[k] = radial;
      values[model.num_radial + k] = radial_slope;
    }

    const Powers powers(tile, model.max_order);
    Packed *angular = values + 2 * model.num_radial;
    for (int c = 0; c < num_terms; ++c) {
      const Monomial &term = terms[c];
      angular[c] = term.factor * powers.of[0][term.power[0]] * powers.of[1][term.power[1]] *
                   powers.of[2][term.power[2]];
    }
    return sum(energy);
  }

  void add_to_sums(const Packed *values, Packed *sums) const {
    const Packed *angular = values + 2 * model.num_radial;
    for (int c = 0; c < num_terms; ++c) {
      const Lanes factor = angular[c].get();
      for (int k = 0; k < model.num_radial; ++k)
        sums[c * model.num_radial + k] =
            sums[c * model.num_radial + k].get() + values[k].get() * factor;
    }
  }

  // The energy of the terms of three bodies; leaves its derivatives.
  double multiply(int64_t species, Workspace &work) const {
    double energy = 0.0;
    for (int c = 0; c < num_terms; ++c) {
      const Packed *matrix = &products[(species * (model.max_order + 1) + terms[c].degree) *
                                       std::size_t(width) * blocks];
      const double *moments = &work.moments[c * width];
      Packed *derivatives = &work.derivatives[c * blocks];
      for (int j = 0; j < blocks; ++j) {
        Lanes total = {};
        for (int k = 0; k < width; ++k)
          total += moments[k] * matrix[k * blocks + j].get();
        for (int e = 0; e < kLanes && j * kLanes + e < width; ++e)
          energy += moments[j * kLanes + e] * total[e];
        derivatives[j] = 2.0 * total;
      }
    }
    return energy;
  }

  void differentiate(int64_t i, int num_tiles, Workspace &work) const {
    double virial[6] = {};
    if (result.gradients)
      std::fill(result.gradients + 3 * graph.first_edge[i],
                result.gradients + 3 * graph.first_edge[i + 1], 0.0);
    for (int t = 0; t < num_tiles; ++t) {
      const Tile &tile = work.tiles[t];
      double gradient[3][kLanes] = {};
      gradient_of_tile(tile, &work.values[t * values_of_tile()], work, gradient);
      for (int e = 0; e < kLanes && e < tile.used; ++e) {
        const double *d = graph.vectors + 3 * tile.edge[e];
        const double g[3] = {gradient[0][e], gradient[1][e], gradient[2][e]};
        if (result.gradients)
          std::copy_n(g, 3, result.gradients + 3 * tile.edge[e]);
        virial[0] -= d[0] * g[0];
        virial[1] -= d[1] * g[1];
        virial[2] -= d[2] * g[2];
        virial[3] -= d[0] * g[1];
        virial[4] -= d[0] * g[2];
        virial[5] -= d[1] * g[2];
      }
    }
    if (result.virials)
      std::copy_n(virial, 6, result.virials + 6 * i);
  }

  void gradient_of_tile(const Tile &tile, const Packed *values, const Workspace &work,
                        double (&gradient)[3][kLanes]) const {
    const int first =
        static_cast<int>(graph.species[graph.senders[tile.edge[0]]]) * model.num_radial;
    const Packed *radial = values, *radial_slope = values + model.num_radial,
                 *angular = values + 2 * model.num_radial;
    const Powers powers(tile, model.max_order);
    Lanes along = tile.pair_slope.get(); // derivative by the distance
    Lanes across[3] = {};                // by the unit vector
    Lanes turned = {};                   // what of that points along it
    for (int c = 0; c < num_terms; ++c) {
      const double *derivatives = work.derivatives[c * blocks].lane + first;
      Lanes weight = {}, slope = {};
      for (int k = 0; k < model.num_radial; ++k) {
        weight += derivatives[k] * radial[k].get();
        slope += derivatives[k] * radial_slope[k].get();
      }
      const Monomial &term = terms[c];
      along += slope * angular[c].get();
      turned += double(term.degree) * weight * angular[c].get();
      for (int k = 0; k < 3; ++k) {
        if (term.power[k] == 0)
          continue;
        const int p = (k + 1) % 3, q = (k + 2) % 3;
        across[k] += term.factor * term.power[k] * weight * powers.of[k][term.power[k] - 1] *
                     powers.of[p][term.power[p]] * powers.of[q][term.power[q]];
      }
    }
    for (int k = 0; k < 3; ++k) {
      const Lanes u = tile.u[k].get();
      const Lanes found = along * u + tile.inverse.get() * (across[k] - turned * u);
      std::memcpy(gradient[k], &found, sizeof(found));
    }
  }

  const trajcast_energy_model &model;
  const EnergyGraph &graph;
  const EnergyResult &result;
  const std::vector<Monomial> terms;
  const int num_terms;
  const int width;              // moments of a term: (species, radial function)
  const int blocks;             // vectors that hold them
  std::vector<Packed> products; // as in the model, rows of blocks
};

int energy(const trajcast_energy_model &model, const EnergyGraph &graph, const EnergyResult &result,
           int threads) {
  int64_t max_edges = 0;
  for (int64_t i = 0; i < graph.num_atoms; ++i)
    max_edges = std::max(max_edges, graph.first_edge[i + 1] - graph.first_edge[i]);
  std::unique_ptr<EnergyOfAtoms> energies;
  try {
    energies = std::make_unique<EnergyOfAtoms>(model, graph, result);
  } catch (const std::bad_alloc &) {
    return 1;
  }
  std::atomic<bool> failed{false};
  share_loop(graph.num_atoms, 16, threads, [&](Chunks &chunks) {
    EnergyOfAtoms::Workspace work;
    try {
      energies->reserve(work, max_edges);
    } catch (const std::bad_alloc &) {
      failed = true;
      return;
    }
    for (int64_t begin, end; chunks.next(begin, end);)
      for (int64_t i = begin; i < end; ++i)
        energies->atom(i, work);
  });
  return failed ? 1 : 0;
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast
