// SPDX-License-Identifier: GPL-2.0-or-later

// Energies on demand: those of the model and of the reference potential, evaluated where somebody
// wants to know them.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "error.h"
#include "force.h"
#include "modify.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace LAMMPS_NS;
using namespace FixConst;

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup_pre_force(int vflag) {
  forces_are_due = true;
  pre_force(vflag);
}

/* ----------------------------------------------------------------------
   LAMMPS is about to compute forces, which move no atom: the reference potential takes part if
   output or another fix has asked for energy or virial of this step
------------------------------------------------------------------------- */

void FixPythonTrajcast::pre_force(int /*vflag*/) {
  if (!moves_atoms || !forces_are_due || others_evaluate())
    return;
  switch_potentials(false);
  if (references.empty())
    return;
  const bigint now = update->ntimestep;
  const bool wanted = update->eflag_global == now || update->eflag_atom == now ||
                      update->vflag_global == now || update->vflag_atom == now || others_use_forces;
  for (auto &reference : references)
    reference.switch_to(wanted);
  reference_evaluations += wanted;
}

/* ----------------------------------------------------------------------
   Whether the forces are computed for another fix. The Monte Carlo fixes call pre_force() and the
   pair style for each move that they try, when atoms are about to be exchanged between ranks, and
   ask for the energy only afterward. They are due then, and not once they have finished.
------------------------------------------------------------------------- */

bool FixPythonTrajcast::others_evaluate() const {
  for (int i = 0; i < modify->nfix; i++) {
    const Fix *other = modify->fix[i];
    if ((modify->fmask[i] & PRE_EXCHANGE) && other->force_reneighbor &&
        other->next_reneighbor == update->ntimestep)
      return true;
  }
  return false;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::switch_potentials(bool on) {
  for (auto &reference : references)
    reference.switch_to(on);
  if (fallback)
    fallback->switch_to(on);
}

/* ----------------------------------------------------------------------
   the forces of the step are there: whoever evaluates the pair style from now on, in any hook of
   another fix or a compute, gets the whole energy
------------------------------------------------------------------------- */

void FixPythonTrajcast::setup_pre_reverse(int eflag, int vflag) { pre_reverse(eflag, vflag); }

void FixPythonTrajcast::pre_reverse(int eflag, int vflag) {
  forces_are_due = false;
  if (moves_atoms)
    switch_potentials(true);
  if (!moves_atoms && !rerun_has_list)
    return;
  ev_init(eflag, vflag);
  if (!evflag || !has_energy)
    return;

  evaluate_energy(vflag_either);
  for (int i = 0; i < atom->nlocal; i++) {
    if (eflag_atom)
      eatom[i] = atom_energies[i];
    if (!vflag_either)
      continue;
    for (int k = 0; k < 6; k++) {
      const double part = atom_virials[6 * static_cast<std::size_t>(i) + k];
      if (vflag_global)
        virial[k] += part;
      if (vflag_atom)
        vatom[i][k] += part;
    }
  }
}

/* ----------------------------------------------------------------------
   whether 'fix_modify' has made energy or virial of the model part of those of the system
------------------------------------------------------------------------- */

bool FixPythonTrajcast::evaluates_energy() const {
  return has_energy && (thermo_energy || thermo_virial);
}

/* ----------------------------------------------------------------------
   how far the neighbor list has to reach: the energy may see farther than the network
------------------------------------------------------------------------- */

double FixPythonTrajcast::reach() const {
  const bool counted = evaluates_energy() || (has_energy && constant_energy && references.empty());
  return counted ? std::max(cutoff, energy_cutoff) : cutoff;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_energy() {
  if (!evaluates_energy())
    return;
  if (update->whichflag == 2)
    fail(fmt::format(
        "a minimization cannot use the energy of the model, which comes without forces: "
        "write 'fix_modify {} energy no virial no' before it, or 'unfix {}'",
        id, id));
  if (!references.empty())
    fail(fmt::format("the energy would be counted twice, as that of the model and as that of the "
                     "potential after the keyword 'energy': write 'fix_modify {} energy no virial "
                     "no', or the fix without that keyword",
                     id));
}

/* ----------------------------------------------------------------------
   for 'conserve yes': whether what is kept is the energy of the model and no other
------------------------------------------------------------------------- */

bool FixPythonTrajcast::energy_is_the_models() const { return has_energy && references.empty(); }

/* ----------------------------------------------------------------------
   'conserve yes' keeps the energy of the sub-styles after 'energy'; others of the pair style would
   be counted, too
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_pair_energy() {
  if (references.empty() || !force->pair)
    return;
  double sums[2] = {force->pair->eng_vdwl + force->pair->eng_coul, 0.0};
  for (const auto &reference : references)
    sums[1] += reference.pair()->eng_vdwl + reference.pair()->eng_coul;
  sum_over_ranks(sums, 2);
  constexpr double ROUNDING = 1e-10;
  const double others = sums[0] - sums[1];
  if (std::abs(others) > ROUNDING * (std::abs(sums[0]) + std::abs(sums[1])))
    fail(fmt::format("'conserve yes' keeps the energy of the sub-styles that are named after "
                     "'energy', but others of pair_style {} have an energy, too, {:.8g}: name them "
                     "as well, or leave them out",
                     force->pair_style, others));
}

/* ----------------------------------------------------------------------
   energy and virial of own atoms, for the positions as they are; all ranks have to call it
------------------------------------------------------------------------- */

void FixPythonTrajcast::evaluate_energy(bool with_virials) {
  const std::size_t nlocal = atom->nlocal;
  atom_energies.resize(nlocal);
  atom_virials.resize(6 * nlocal);
  double sums[2] = {}; // energy, failures
  std::string problem;
  if (atom->natoms > 0) {
    gather_frame(energy_cutoff);
    const trajcast_frame frame = frame_of_model();
    trajcast_potential found = {atom_energies.data(), with_virials ? atom_virials.data() : nullptr};
    message.text[0] = '\0';
    if (bridge->energies(model, &frame, &found, &message) != TRAJCAST_OK) {
      sums[1] = 1.0;
      problem = message.text;
    } else {
      sums[0] = std::accumulate(atom_energies.begin(), atom_energies.end(), 0.0);
    }
  }
  sum_over_ranks(sums, 2);
  if (sums[1] > 0.0)
    fail_if_any(!problem.empty(), problem);
  energy_of_atoms = sums[0];
  energy_is_known = true;
}

/* ----------------------------------------------------------------------
   of the system, as it was when it was last asked for in this step
------------------------------------------------------------------------- */

double FixPythonTrajcast::own_energy() {
  if (!energy_is_known) {
    if (!list_is_current)
      error->all(
          FLERR,
          "Fix {} python/trajcast: the energy of the model is known during a run only: write "
          "'run 0' first",
          id);
    if (energy_cutoff > reach())
      error->all(
          FLERR,
          "Fix {} python/trajcast: the energy of the model needs neighbors up to {}, but this run "
          "keeps those up to {} only: {}write 'fix_modify {} energy yes' and 'pair_style zero {} "
          "full' with 'pair_coeff * *'",
          id, energy_cutoff, reach(),
          references.empty() ? "" : "leave out the keyword 'energy' of the fix, and ", id,
          energy_cutoff);
    evaluate_energy(false);
  }
  return energy_of_atoms;
}

/* ----------------------------------------------------------------------
   for 'conserve yes': of the model, unless a reference potential takes its place, or LAMMPS counts
it among the energies of fixes
------------------------------------------------------------------------- */

double FixPythonTrajcast::extra_energy() {
  return energy_is_the_models() && !thermo_energy ? own_energy() : 0.0;
}
