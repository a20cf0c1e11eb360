// SPDX-License-Identifier: GPL-2.0-or-later

#include "fallback.h"

#include "older_lammps.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "force.h"
#include "modify.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace LAMMPS_NS;

namespace trajcast {

namespace {
// Bits of Pair::suffix_flag: gpu, omp, intel. These styles, and those of KOKKOS, expect other parts
// of LAMMPS to prepare and complete each evaluation.
constexpr int ACCELERATED = 1 << 1 | 1 << 2 | 1 << 3;
} // namespace

Fallback::Fallback(LAMMPS *lammps, int steps, const std::string &name, int groupbit)
    : Pointers(lammps), num_steps(steps), potential(lammps, name), groupbit(groupbit) {}

/* ---------------------------------------------------------------------- */

std::string Fallback::find(double cutoff) {
  if (force->kspace)
    return "'guard fallback' does not compute long-range forces: write 'kspace_style none', or "
           "'guard stop'";
  if (force->bond && std::strcmp(force->bond_style, "zero") != 0)
    return "'guard fallback' does not compute forces of bonds: write 'bond_style zero', or 'guard "
           "stop'";
  const std::string problem = potential.find(cutoff);
  if (!problem.empty())
    return problem;
  if ((trajcast::PairAccess::flags(potential.pair()) & ACCELERATED) || potential.pair()->kokkosable)
    return fmt::format(
        "'guard fallback' cannot use an accelerated variant of {}: write 'suffix off' "
        "before 'pair_style', and the style there without /gpu, /intel, /kk or /omp",
        name());
  return "";
}

/* ---------------------------------------------------------------------- */

std::string Fallback::advance() {
  const double step = update->dt / num_steps;
  // Where a list is built anew soon after the last time, LAMMPS would count a danger.
  const bigint dangerous_builds = neighbor->ndanger;
  update_ghosts();
  compute_forces();
  for (int n = 0; n < num_steps; n++) {
    kick(0.5 * step);
    drift(step);
    update_ghosts();
    compute_forces();
    kick(0.5 * step);
  }
  neighbor->ndanger = dangerous_builds;
  if (is_finite())
    return "";
  return fmt::format(
      "positions are not numbers after the {} steps of {} that replace a prediction: check the "
      "state before step {} for atoms that nearly touch, or write 'guard fallback N {}' with a "
      "larger N",
      num_steps, name(), update->ntimestep, name());
}

/* ---------------------------------------------------------------------- */

void Fallback::kick(double half_step) {
  for (int i = 0; i < atom->nlocal; i++) {
    if (!(atom->mask[i] & groupbit))
      continue;
    const double mass = atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
    for (int k = 0; k < 3; k++)
      atom->v[i][k] += half_step * force->ftm2v / mass * atom->f[i][k];
  }
}

/* ---------------------------------------------------------------------- */

void Fallback::drift(double step) {
  for (int i = 0; i < atom->nlocal; i++)
    if (atom->mask[i] & groupbit)
      for (int k = 0; k < 3; k++)
        atom->x[i][k] += step * atom->v[i][k];
}

/* ---------------------------------------------------------------------- */

void Fallback::update_ghosts() {
  // Without 'check yes' LAMMPS keeps no positions to compare with.
  if (!neighbor->dist_check || neighbor->check_distance())
    rebuild_neighbors();
  else
    comm->forward_comm();
}

/* ----------------------------------------------------------------------
   as in a step of LAMMPS, but for fixes that insert or exchange atoms at that time
------------------------------------------------------------------------- */

void Fallback::rebuild_neighbors() {
  if (domain->triclinic)
    domain->x2lamda(atom->nlocal);
  domain->pbc();
  if (domain->box_change) {
    domain->reset_box();
    comm->setup();
    if (neighbor->style)
      neighbor->setup_bins();
  }
  comm->exchange();
  comm->borders();
  if (domain->triclinic)
    domain->lamda2x(atom->nlocal + atom->nghost);
  modify->pre_neighbor();
  neighbor->build(1);
  modify->post_neighbor();
}

/* ---------------------------------------------------------------------- */

void Fallback::compute_forces() {
  for (int i = 0; i < atom->nlocal + atom->nghost; i++)
    std::fill_n(atom->f[i], 3, 0.0);
  potential.pair()->compute(0, 0);
  if (force->newton)
    comm->reverse_comm();
}

/* ---------------------------------------------------------------------- */

bool Fallback::is_finite() const {
  int lost = 0;
  for (int i = 0; i < atom->nlocal; i++)
    for (int k = 0; k < 3; k++)
      lost |= !std::isfinite(atom->x[i][k]) || !std::isfinite(atom->v[i][k]);
  int lost_anywhere;
  MPI_Allreduce(&lost, &lost_anywhere, 1, MPI_INT, MPI_MAX, world);
  return !lost_anywhere;
}

} // namespace trajcast
