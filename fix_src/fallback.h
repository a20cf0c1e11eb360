// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_FALLBACK_H
#define TRAJCAST_FALLBACK_H

#include "pointers.h"

#include "reference_potential.h"

#include <string>

namespace trajcast {

// Velocity Verlet in small steps with the forces of an ordinary potential, which takes the place of
// a prediction that is not to be trusted.
class Fallback : protected LAMMPS_NS::Pointers {
public:
  // steps: that a time step is divided into
  // name: of the potential, see ReferencePotential
  Fallback(LAMMPS_NS::LAMMPS *lammps, int steps, const std::string &name, int groupbit);

  // To be called before each run. Returns what is wrong, on all ranks; else nothing.
  std::string find(double cutoff);

  // Whether LAMMPS evaluates the potential the next time.
  void switch_to(bool on) { potential.switch_to(on); }

  // Collective: advance the atoms of the group by a time step. Ghost atoms follow, and neighbor
  // lists are built anew where they have to be. Returns what is wrong, on all ranks; else nothing.
  std::string advance();

  int steps() const { return num_steps; }
  const std::string &name() const { return potential.name(); }

private:
  void kick(double half_step);
  void drift(double step);
  void update_ghosts();
  void rebuild_neighbors();
  void compute_forces();
  bool is_finite() const;

  int num_steps;
  ReferencePotential potential;
  int groupbit;
};

} // namespace trajcast

#endif
