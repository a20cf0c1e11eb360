// SPDX-License-Identifier: GPL-2.0-or-later

// Energies on demand: the reference potential is evaluated where somebody wants to know its energy.

#include "fix_python_trajcast.h"

#include "modify.h"
#include "pair.h"
#include "update.h"

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

void FixPythonTrajcast::pre_reverse(int /*eflag*/, int /*vflag*/) {
  forces_are_due = false;
  if (moves_atoms)
    switch_potentials(true);
}
