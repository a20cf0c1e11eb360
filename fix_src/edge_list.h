// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_EDGE_LIST_H
#define TRAJCAST_EDGE_LIST_H

#include "trajcast_bridge.h"

#include <array>
#include <cstdint>
#include <vector>

namespace trajcast {

// Lattice vectors as rows, the way LAMMPS restricts them: a = (xx, 0, 0), b = (xy, yy, 0), c = (xz,
// yz, zz).
struct Cell {
  double xx, yy, zz, yz, xz, xy;

  // Cartesian vector of n[0] a + n[1] b + n[2] c.
  std::array<double, 3> vector(const std::array<int, 3> &n) const;

  // The integers n whose vector() is nearest to r: r has to be a lattice vector up to rounding.
  std::array<int, 3> nearest(const double r[3]) const;
};

// The graph of a rank: edges to its own atoms from atoms closer than the cutoff, every periodic
// image its own edge.
//
// Candidates come from a neighbor list with a skin and stay valid until atoms are sorted anew.
// Each refers to the atom itself and counts lattice vectors, so its edge vector follows the box and
// needs no ghost atom's position. Senders are own atoms, 0, 1, ... num_own - 1, or atoms of other
// ranks, num_own + r for the candidate r of those.
class EdgeList {
public:
  // Forget all candidates; those of own atoms 0, 1, ... num_own - 1 follow, in this order.
  void clear(int num_own, int num_remote_candidates);
  void begin_receiver();
  void add_candidate(int sender, const std::array<int, 3> &shift);

  // Fill the arrays below with the candidates that are closer than the cutoff.
  // positions: (num_own + num_remote_candidates, 3), rows one after the other.
  void update(const double *positions, const Cell &cell, double cutoff);

  std::int64_t size() const { return num_edges; }

  // The candidates, for somebody else who finds edges among them.
  trajcast_neighbors all_candidates() const;

  std::vector<std::int64_t> first_edge; // (num_own + 1,) first edge of each receiver
  std::vector<std::int64_t> senders;    // (at least size(),) num_own + n is remote[n]
  std::vector<double> vectors;          // (at least size(), 3) from receiver to sender's image
  std::vector<std::int64_t> remote;     // candidates that an edge refers to, ascending
  std::vector<std::int64_t> interior;   // receivers that see own atoms only, ascending
  std::vector<std::int64_t> boundary;   // the other receivers, ascending

private:
  void number_remote();

  // Two numbers without a gap, as in trajcast_neighbors.
  struct Candidate {
    std::int32_t sender;
    std::int32_t shift; // index into shifts
  };

  static_assert(sizeof(Candidate) == 2 * sizeof(std::int32_t) &&
                    sizeof(std::array<std::int32_t, 3>) == 3 * sizeof(std::int32_t),
                "as in trajcast_neighbors");

  std::int64_t num_edges = 0;
  std::vector<Candidate> candidates;
  std::vector<std::int64_t> first = {0}; // (num_own + 1,) where those of a receiver begin
  std::vector<std::int64_t> number;      // of each remote candidate among the nodes; -1: no edge
  std::vector<std::array<std::int32_t, 3>> shifts;
};

} // namespace trajcast

#endif
