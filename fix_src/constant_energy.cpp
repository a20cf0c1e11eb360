// SPDX-License-Identifier: GPL-2.0-or-later

#include "constant_energy.h"

#include "atom.h"
#include "compute.h"
#include "force.h"
#include "modify.h"
#include "update.h"

#include <cmath>

using namespace LAMMPS_NS;

namespace trajcast {

ConstantEnergy::ConstantEnergy(LAMMPS *lammps, int groupbit, const std::string &compute_id)
    : Pointers(lammps), groupbit(groupbit), compute_id(compute_id),
      compute(
          modify->add_compute(compute_id + " all pe pair bond angle dihedral improper kspace")) {}

/* ---------------------------------------------------------------------- */

ConstantEnergy::~ConstantEnergy() { modify->delete_compute(compute_id); }

/* ---------------------------------------------------------------------- */

std::string ConstantEnergy::setup(double extra, bool alone) {
  double styles;
  std::string problem = of_styles(alone, styles);
  total = motion().kinetic + styles + extra;
  // Other fixes have not computed theirs yet.
  fixes_count = false;
  compute->addstep(update->ntimestep + 1);
  return problem;
}

/* ---------------------------------------------------------------------- */

std::string ConstantEnergy::of_styles(bool alone, double &energy) const {
  energy = compute->compute_scalar();
  if (!alone || energy == 0.0)
    return "";
  return fmt::format(
      "'conserve yes' would keep the sum of two potential energies, that of the model "
      "and {:.8g} of pair_style {}, bonds, angles, dihedrals, impropers or "
      "kspace_style, whose forces move no atom: write 'pair_style zero', 'bond_style zero' and so "
      "on and 'kspace_style none', or name the reference potential after the keyword 'energy'",
      energy, force->pair_style);
}

/* ---------------------------------------------------------------------- */

void ConstantEnergy::begin_step() {
  if (!fixes_count)
    total += modify->energy_global();
  fixes_count = true;
}

/* ---------------------------------------------------------------------- */

std::string ConstantEnergy::end_step(double extra, bool alone) {
  double styles;
  const std::string problem = of_styles(alone, styles);
  if (!problem.empty())
    return problem;
  const double potential = styles + modify->energy_global() + extra;
  compute->addstep(update->ntimestep + 1);

  const Motion now = motion();
  if (now.mass == 0.0)
    return "";
  double velocity[3];
  double drift = 0.0; // kinetic energy of the center of mass
  for (int k = 0; k < 3; k++) {
    velocity[k] = now.momentum[k] / now.mass;
    drift += 0.5 * force->mvv2e * now.momentum[k] * velocity[k];
  }
  const double relative = now.kinetic_of_group - drift;
  const double wanted = relative + total - potential - now.kinetic;
  if (!(wanted >= 0.0) || !(relative > 0.0))
    return fmt::format("the potential energy at step {} is {:.8g}, which leaves no kinetic energy "
                       "to reach the total energy of {:.8g} that 'conserve yes' keeps: check the "
                       "state for atoms that nearly touch, or write 'conserve no'",
                       update->ntimestep, potential, total);

  const double factor = std::sqrt(wanted / relative);
  double **v = atom->v;
  for (int i = 0; i < atom->nlocal; i++)
    if (atom->mask[i] & groupbit)
      for (int k = 0; k < 3; k++)
        v[i][k] = velocity[k] + factor * (v[i][k] - velocity[k]);
  return "";
}

/* ---------------------------------------------------------------------- */

ConstantEnergy::Motion ConstantEnergy::motion() const {
  double mine[6] = {}; // kinetic, then of the group: kinetic, mass, momentum
  for (int i = 0; i < atom->nlocal; i++) {
    const double mass = mass_of(i);
    const double *v = atom->v[i];
    const double kinetic = 0.5 * force->mvv2e * mass * (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    mine[0] += kinetic;
    if (!(atom->mask[i] & groupbit))
      continue;
    mine[1] += kinetic;
    mine[2] += mass;
    for (int k = 0; k < 3; k++)
      mine[3 + k] += mass * v[k];
  }
  double all[6];
  MPI_Allreduce(mine, all, 6, MPI_DOUBLE, MPI_SUM, world);
  return {all[0], all[2], {all[3], all[4], all[5]}, all[1]};
}

/* ---------------------------------------------------------------------- */

double ConstantEnergy::mass_of(int i) const {
  return atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
}

} // namespace trajcast
