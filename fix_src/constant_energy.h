// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_CONSTANT_ENERGY_H
#define TRAJCAST_CONSTANT_ENERGY_H

#include "pointers.h"

#include <string>

namespace LAMMPS_NS {
class Compute;
}

namespace trajcast {

// Keeps the total energy, kinetic and potential, at the value that it has when a run begins, by
// scaling the velocities of a group relative to its center of mass, which keeps its momentum.
class ConstantEnergy : protected LAMMPS_NS::Pointers {
public:
  // compute_id: a free ID, for the compute that asks LAMMPS for the energy in each step.
  ConstantEnergy(LAMMPS_NS::LAMMPS *lammps, int groupbit, const std::string &compute_id);
  ~ConstantEnergy() override;
  ConstantEnergy(const ConstantEnergy &) = delete;
  ConstantEnergy &operator=(const ConstantEnergy &) = delete;

  // Collective, and in this order: before a run, when forces have been computed, ...
  // extra: a potential energy that LAMMPS does not count; alone: it is the only one, those of pair
  // styles, bonds and so on have to be zero. Returns what is wrong, on all ranks; else nothing.
  std::string setup(double extra, bool alone);
  // ... before velocities or positions change in a step, ...
  void begin_step();
  // ... and when forces of all fixes and velocities are those at its end. Returns what is wrong, on
  // all ranks; else nothing.
  std::string end_step(double extra, bool alone);

private:
  // Of all atoms: sums of m v^2 / 2 in units of energy, of the group also mass and momentum.
  struct Motion {
    double kinetic; // of all atoms
    double mass, momentum[3], kinetic_of_group;
  };
  Motion motion() const;
  std::string of_styles(bool alone, double &energy) const;
  double mass_of(int atom) const;

  int groupbit;
  std::string compute_id;
  LAMMPS_NS::Compute *compute;
  double total = 0.0;       // the energy to keep
  bool fixes_count = false; // whether it includes the energies of other fixes already
};

} // namespace trajcast

#endif
