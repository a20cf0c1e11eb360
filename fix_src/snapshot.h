// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_SNAPSHOT_H
#define TRAJCAST_SNAPSHOT_H

#include "pointers.h"

#include <vector>

namespace trajcast {

// A state of all atoms and of the box, to return to. Atoms may change their order and rank in
// between: a fix hands on what it is asked for each atom.
class Snapshot : protected LAMMPS_NS::Pointers {
public:
  explicit Snapshot(LAMMPS_NS::LAMMPS *lmp) : Pointers(lmp) {}

  // velocities: (number of own atoms, 3), instead of the present ones
  void take(const std::vector<double> &velocities);
  void restore();
  bool taken() const { return is_taken; }

  // See Fix::grow_arrays(), copy_arrays(), pack_exchange(), unpack_exchange().
  void grow(int num_atoms);
  void copy(int from, int to);
  int pack(int atom, double *buffer) const;
  int unpack(int atom, const double *buffer);

  static constexpr int MAX_EXCHANGE = 7; // doubles of an atom, as pack() counts them

private:
  struct AtomState {
    double position[3], velocity[3];
    LAMMPS_NS::imageint image;
  };
  struct Box {
    double low[3], high[3], xy, xz, yz;
  };
  static_assert(sizeof(AtomState) == MAX_EXCHANGE * sizeof(double), "whole doubles are exchanged");

  Box present_box() const;
  void restore_box();

  bool is_taken = false;
  std::vector<AtomState> atoms;
  Box box;
};

} // namespace trajcast

#endif
