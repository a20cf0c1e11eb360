// The kernel of energy.h. Included by one file for each set of instructions, which names the set in
// TRAJCAST_INSTRUCTIONS and is compiled for it.
//
// The edges of an atom are sorted by the species of their senders and worked on in tiles of eight,
// one in each lane: loops over lanes have a constant length, and compilers make vector instructions
// of them.

#include "energy_interface.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

namespace trajcast {
namespace TRAJCAST_INSTRUCTIONS {

constexpr int kLanes = 8;
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

// Eight edges from atoms of one species. Lanes without an edge repeat another, with radial
// functions that are zero.
struct Tile {
  int64_t edge[kLanes];
  int used;
  double u[3][kLanes]; // unit vector
  double inverse[kLanes];
  double pair_slope[kLanes]; // of the terms of two bodies, by the distance
};

// Powers 0 ... kMaxDegree of the components of a tile's unit vectors.
struct Powers {
  double of[3][kMaxDegree + 1][kLanes];

  Powers(const Tile &tile, int max_order) {
    for (int k = 0; k < 3; ++k) {
      for (int e = 0; e < kLanes; ++e)
        of[k][0][e] = 1.0;
      for (int p = 1; p <= max_order; ++p)
        for (int e = 0; e < kLanes; ++e)
          of[k][p][e] = of[k][p - 1][e] * tile.u[k][e];
    }
  }
};

class EnergyOfAtoms {
public:
  EnergyOfAtoms(const trajcast_energy_model &model, const EnergyGraph &graph,
                const EnergyResult &result)
      : model(model), graph(graph), result(result), terms(monomials(model.max_order)),
        num_terms(static_cast<int>(terms.size())), width(model.num_species * model.num_radial) {}

  // Scratch memory of one thread, for an atom of that many edges.
  struct Workspace {
    std::vector<int64_t> sorted;
    std::vector<int> counts;
    std::vector<Tile> tiles;
    std::vector<double> values;       // of a tile: radial functions, their slopes, monomials
    std::vector<double> sums;         // (terms, radial, lanes) of one species
    std::vector<double> moments;      // (terms, width)
    std::vector<double> derivatives;  // (terms, width) of the energy by them
    std::vector<double> basis, slope; // (pair functions, lanes)
  };

  void reserve(Workspace &work, int64_t max_edges) const {
    const int64_t tiles = max_edges / kLanes + model.num_species + 1;
    work.sorted.resize(max_edges);
    work.counts.resize(model.num_species + 1);
    work.tiles.resize(tiles);
    work.values.resize(tiles * values_of_tile());
    work.sums.resize(std::size_t(num_terms) * model.num_radial * kLanes);
    work.moments.resize(std::size_t(num_terms) * width);
    work.derivatives.resize(std::size_t(num_terms) * width);
    work.basis.resize(std::size_t(model.num_pair) * kLanes);
    work.slope.resize(std::size_t(model.num_pair) * kLanes);
  }

  void atom(int64_t i, Workspace &work) const {
    sort_edges(i, work);
    const int64_t species = graph.species[i];
    double energy = model.constants[species];
    int num_tiles = 0;
    for (int b = 0; b < model.num_species; ++b) {
      std::fill(work.sums.begin(), work.sums.end(), 0.0);
      for (int first = work.counts[b]; first < work.counts[b + 1]; first += kLanes) {
        double *values = &work.values[num_tiles * values_of_tile()];
        Tile &tile = work.tiles[num_tiles++];
        tile.used = std::min(kLanes, work.counts[b + 1] - first);
        for (int e = 0; e < kLanes; ++e)
          tile.edge[e] = work.sorted[first + std::min(e, tile.used - 1)];
        energy += expand(tile, species, b, values, work);
        add_to_sums(values, work.sums.data());
      }
      for (int c = 0; c < num_terms; ++c)
        for (int k = 0; k < model.num_radial; ++k) {
          const double *lanes = &work.sums[(c * model.num_radial + k) * kLanes];
          double sum = 0.0;
          for (int e = 0; e < kLanes; ++e)
            sum += lanes[e];
          work.moments[c * width + b * model.num_radial + k] = sum;
        }
    }
    energy += multiply(species, work);
    result.energies[i] = energy;
    if (result.virials || result.gradients)
      differentiate(i, num_tiles, work);
  }

private:
  int64_t values_of_tile() const { return int64_t(2 * model.num_radial + num_terms) * kLanes; }

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
  double expand(Tile &tile, int64_t species, int b, double *values, Workspace &work) const {
    double x[kLanes], dx[kLanes], cut[kLanes], dcut[kLanes], present[kLanes];
    for (int e = 0; e < kLanes; ++e) {
      const double *d = graph.vectors + 3 * tile.edge[e];
      const double r = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
      tile.inverse[e] = 1.0 / r;
      for (int k = 0; k < 3; ++k)
        tile.u[k][e] = d[k] * tile.inverse[e];
      present[e] = e < tile.used ? 1.0 : 0.0;
      const double s = r / model.cutoff;
      const double below = 1.0 / (1.0 + model.skew * s);
      x[e] = 2.0 * (1.0 - s) * below - 1.0;
      dx[e] = -2.0 * (1.0 + model.skew) * below * below / model.cutoff;
      const double rest = 1.0 - s * s;
      cut[e] = present[e] * rest * rest * rest;
      dcut[e] = -6.0 * present[e] * s * rest * rest / model.cutoff;
    }

    // Chebyshev polynomials and their derivatives, then times what takes them to zero at the
    // cutoff.
    double *basis = work.basis.data(), *slope = work.slope.data();
    for (int e = 0; e < kLanes; ++e) {
      basis[e] = 1.0;
      slope[e] = 0.0;
      basis[kLanes + e] = x[e];
      slope[kLanes + e] = 1.0;
    }
    for (int n = 2; n < model.num_pair; ++n) {
      double *t = basis + n * kLanes, *dt = slope + n * kLanes;
      for (int e = 0; e < kLanes; ++e) {
        t[e] = 2.0 * x[e] * t[e - kLanes] - t[e - 2 * kLanes];
        dt[e] = 2.0 * (t[e - kLanes] + x[e] * dt[e - kLanes]) - dt[e - 2 * kLanes];
      }
    }
    for (int n = 0; n < model.num_pair; ++n) {
      double *t = basis + n * kLanes, *dt = slope + n * kLanes;
      for (int e = 0; e < kLanes; ++e) {
        dt[e] = dt[e] * dx[e] * cut[e] + t[e] * dcut[e];
        t[e] *= cut[e];
      }
    }

    const double *pair = model.pairs + (species * model.num_species + b) * model.num_pair;
    double energy[kLanes] = {};
    std::fill_n(tile.pair_slope, kLanes, 0.0);
    for (int n = 0; n < model.num_pair; ++n)
      for (int e = 0; e < kLanes; ++e) {
        energy[e] += pair[n] * basis[n * kLanes + e];
        tile.pair_slope[e] += pair[n] * slope[n * kLanes + e];
      }

    double *radial = values, *radial_slope = values + model.num_radial * kLanes;
    std::fill_n(values, 2 * model.num_radial * kLanes, 0.0);
    for (int n = 0; n < model.num_radial; ++n)
      for (int k = 0; k < model.num_radial; ++k) {
        const double weight = model.radial[n * model.num_radial + k];
        for (int e = 0; e < kLanes; ++e) {
          radial[k * kLanes + e] += weight * basis[n * kLanes + e];
          radial_slope[k * kLanes + e] += weight * slope[n * kLanes + e];
        }
      }

    const Powers powers(tile, model.max_order);
    double *angular = values + 2 * model.num_radial * kLanes;
    for (int c = 0; c < num_terms; ++c) {
      const Monomial &term = terms[c];
      const double *px = powers.of[0][term.power[0]], *py = powers.of[1][term.power[1]],
                   *pz = powers.of[2][term.power[2]];
      for (int e = 0; e < kLanes; ++e)
        angular[c * kLanes + e] = term.factor * px[e] * py[e] * pz[e];
    }
    double sum = 0.0;
    for (int e = 0; e < kLanes; ++e)
      sum += energy[e];
    return sum;
  }

  void add_to_sums(const double *values, double *sums) const {
    const double *angular = values + 2 * model.num_radial * kLanes;
    for (int c = 0; c < num_terms; ++c)
      for (int k = 0; k < model.num_radial; ++k)
        for (int e = 0; e < kLanes; ++e)
          sums[(c * model.num_radial + k) * kLanes + e] +=
              values[k * kLanes + e] * angular[c * kLanes + e];
  }

  // The energy of the terms of three bodies; leaves its derivatives.
  double multiply(int64_t species, Workspace &work) const {
    double energy = 0.0;
    for (int c = 0; c < num_terms; ++c) {
      const double *matrix = model.products + (species * (model.max_order + 1) + terms[c].degree) *
                                                  int64_t(width) * width;
      const double *moments = &work.moments[c * width];
      double *derivatives = &work.derivatives[c * width];
      std::fill_n(derivatives, width, 0.0);
      for (int k = 0; k < width; ++k)
        for (int j = 0; j < width; ++j)
          derivatives[j] += moments[k] * matrix[k * width + j];
      for (int k = 0; k < width; ++k) {
        energy += moments[k] * derivatives[k];
        derivatives[k] *= 2.0;
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
      double gradient[3][kLanes];
      gradient_of_tile(tile, &work.values[t * values_of_tile()], work, gradient);
      for (int e = 0; e < tile.used; ++e) {
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

  void gradient_of_tile(const Tile &tile, const double *values, const Workspace &work,
                        double (&gradient)[3][kLanes]) const {
    const int first =
        static_cast<int>(graph.species[graph.senders[tile.edge[0]]]) * model.num_radial;
    const double *radial = values, *radial_slope = values + model.num_radial * kLanes,
                 *angular = values + 2 * model.num_radial * kLanes;
    const Powers powers(tile, model.max_order);
    double along[kLanes]; // derivative by the distance
    std::copy_n(tile.pair_slope, kLanes, along);
    double across[3][kLanes] = {}; // by the unit vector
    double turned[kLanes] = {};    // what of that points along it
    for (int c = 0; c < num_terms; ++c) {
      double weight[kLanes] = {}, slope[kLanes] = {};
      for (int k = 0; k < model.num_radial; ++k) {
        const double derivative = work.derivatives[c * width + first + k];
        for (int e = 0; e < kLanes; ++e) {
          weight[e] += derivative * radial[k * kLanes + e];
          slope[e] += derivative * radial_slope[k * kLanes + e];
        }
      }
      const Monomial &term = terms[c];
      for (int e = 0; e < kLanes; ++e) {
        along[e] += slope[e] * angular[c * kLanes + e];
        turned[e] += term.degree * weight[e] * angular[c * kLanes + e];
      }
      for (int k = 0; k < 3; ++k) {
        if (term.power[k] == 0)
          continue;
        const int p = (k + 1) % 3, q = (k + 2) % 3;
        const double factor = term.factor * term.power[k];
        const double *lower = powers.of[k][term.power[k] - 1], *one = powers.of[p][term.power[p]],
                     *other = powers.of[q][term.power[q]];
        for (int e = 0; e < kLanes; ++e)
          across[k][e] += weight[e] * factor * lower[e] * one[e] * other[e];
      }
    }
    for (int k = 0; k < 3; ++k)
      for (int e = 0; e < kLanes; ++e)
        gradient[k][e] =
            along[e] * tile.u[k][e] + tile.inverse[e] * (across[k][e] - turned[e] * tile.u[k][e]);
  }

  const trajcast_energy_model &model;
  const EnergyGraph &graph;
  const EnergyResult &result;
  const std::vector<Monomial> terms;
  const int num_terms;
  const int width; // moments of a term: (species, radial function)
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
  bool failed = false;
#pragma omp parallel num_threads(threads) reduction(|| : failed)
  {
    EnergyOfAtoms::Workspace work;
    try {
      energies->reserve(work, max_edges);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
#pragma omp for schedule(dynamic, 16)
    for (int64_t i = 0; i < graph.num_atoms; ++i)
      if (!failed)
        energies->atom(i, work);
  }
  return failed ? 1 : 0;
}

} // namespace TRAJCAST_INSTRUCTIONS
} // namespace trajcast
