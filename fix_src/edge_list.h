// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_EDGE_LIST_H
#define TRAJCAST_EDGE_LIST_H

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

// The graph of a rank: edges between atoms closer than the cutoff, every periodic image its own
// edge.
//
// Candidates come from a neighbour list with a skin and stay valid until atoms are sorted anew.
// Each refers to the atom itself and counts lattice vectors, so its edge vector follows the box and
// needs no ghost atom's position.
class EdgeList {
public:
  // Forget all candidates; those of atoms 0, 1, ... num_atoms - 1 follow, in this order.
  void clear(int num_atoms);
  void begin_receiver();
  void add_candidate(int sender, const std::array<int, 3> &shift);

  // Fill the arrays below with the candidates that are closer than the cutoff.
  // positions: (num_atoms, 3), rows one after the other.
  void update(const double *positions, const Cell &cell, double cutoff);

  std::int64_t size() const { return static_cast<std::int64_t>(receivers.size()); }

  std::vector<std::int64_t> receivers; // (size(),) sorted
  std::vector<std::int64_t> senders;   // (size(),)
  std::vector<double> vectors;         // (size(), 3) from receiver to sender's image

private:
  struct Candidate {
    int sender;
    int shift; // index into shifts
  };

  std::vector<Candidate> candidates;
  std::vector<std::size_t> first; // first[i]: where the candidates of receiver i begin
  std::vector<std::array<int, 3>> shifts;
};

} // namespace trajcast

#endif
