// SPDX-License-Identifier: GPL-2.0-or-later

// What the fix asks of an input script: errors before a run, warnings at its start, and what may
// become wrong while it runs.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "info.h"
#include "modify.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace LAMMPS_NS;
using namespace FixConst;

namespace {
constexpr double MASS_TOLERANCE = 1.0e-3;
constexpr double TIMESTEP_TOLERANCE = 1.0e-6;

using Styles = std::vector<std::string>;

// Move atoms, or change their number or type, as the potential energy says.
const Styles MONTE_CARLO = {"gcmc",          "widom", "atom/swap",        "mol/swap",
                            "neighbor/swap", "sgcmc", "charge/regulation"};
const Styles NEEDS_ENERGY_FIXES = {"numdiff", "grem", "hmc"};
const Styles NEEDS_ENERGY_COMPUTES = {"fep", "ti", "born/matrix"};
const Styles CHANGES_ATOMS = {"deposit", "evaporate", "pour", "append/atoms", "bond/"};
const Styles THERMOSTATS = {"temp/", "langevin", "gle", "ttm", "heat", "ehex", "thermal/"};

// Hold atoms, or keep them on a line, in a plane or together, by changing the forces on them.
const Styles HOLDS_BY_FORCES = {"setforce", "freeze", "planeforce",    "lineforce",
                                "aveforce", "pafi",   "manifoldforce", "smd/setvel"};
// Scale or average the forces of the potential.
const Styles CHANGES_FORCES = {"grem",   "ti/spring", "flow/gauss", "damping/cundall",
                               "hyper/", "alchemy"};
// Act when there are forces, but change none. GROUP is that of a dynamic group.
// GPU: it adds the forces of pair styles, which move no atom.
const Styles SETS_NO_FORCES = {"GPU", "GROUP", "numdiff", "sgcmc", "store/force"};

// LAMMPS's patterns (utils::strmatch) know no alternatives.
bool begins_with(const std::string &style, const Styles &beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(), [&style](const std::string &beginning) {
    return style.compare(0, beginning.size(), beginning) == 0;
  });
}
} // namespace

/* ----------------------------------------------------------------------
   before a run: what does not depend on which atoms are in which group
------------------------------------------------------------------------- */

void FixPythonTrajcast::prepare_run() {
  if (utils::strmatch(update->integrate_style, "^respa"))
    fail(fmt::format("run_style {} is not supported: write 'run_style verlet'",
                     update->integrate_style));
  check_accelerators();
  check_timestep();
  check_masses();
  count_molecules();
  find_references();
  find_fallback();
  check_neighbor_cutoff();
  check_special_bonds();
  if (neighbor->includegroup)
    fail("'neigh_modify include' hides neighbors from the model: write the script without it");
  check_nothing_changes_energy();
  check_nobody_needs_energy();
  check_no_streaming();
  check_reversible();
  warn_about_neighbor_settings();

  impulse_per_force = 0.5 * update->dt * force->ftm2v;
}

/* ----------------------------------------------------------------------
   at the start of a run, when other fixes have made their exclusions and dynamic groups have their
   members
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_start() {
  check_exclusions();
  list_exclusive_fixes();
  check_groups();
  check_order_of_integrators();
  warn_about_forces();
  warn_about_frozen_atoms();
  warn_about_temperatures();
}

/* ----------------------------------------------------------------------
   what may have changed since then: atoms that other fixes insert, their types, masses and bonds,
   the members of groups. See has_unfit_atoms(). Of two groups that exclude each other and were both
   empty, one may have got atoms: from now on the other one is watched.
------------------------------------------------------------------------- */

void FixPythonTrajcast::explain_unfit_atoms() {
  check_groups();
  check_masses();
  check_exclusions();
  check_special_bonds();
  neighbors_are_hidden = hides_neighbors();
  fail_if_any(has_unfit_atoms(),
              fmt::format("'neigh_modify exclude' hides neighbors from the model at step {}: write "
                          "'neigh_modify exclude none', or 'unfix' the fix that changes groups",
                          update->ntimestep));
}

/* ----------------------------------------------------------------------
   whether this rank has atoms that explain_unfit_atoms() complains of
------------------------------------------------------------------------- */

bool FixPythonTrajcast::has_unfit_atoms() const {
  if (neighbors_are_hidden)
    return true;
  for (int i = 0; i < atom->nlocal; i++)
    if ((is_moved(i) && (atom->mask[i] & exclusive_bits)) || has_wrong_mass(i))
      return true;
  return false;
}

/* ----------------------------------------------------------------------
   KOKKOS on the cores of a node shares its arrays with LAMMPS. On a GPU it has arrays of its own,
   and does not see what a fix changes between the hooks of a step.
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_accelerators() {
  if (!lmp->kokkos)
    return;
  for (const char *gpu : {"cuda", "hip", "sycl"})
    if (Info::has_accelerator_feature("KOKKOS", "api", gpu))
      fail(fmt::format("KOKKOS keeps the atoms on a GPU ({}) where this fix does not change them: "
                       "start LAMMPS without '-k on'; the network runs on the GPU with 'device "
                       "cuda'",
                       gpu));
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_timestep() {
  const double step_in_units = model_timestep * force->femtosecond;
  if (std::fabs(update->dt - step_in_units) > TIMESTEP_TOLERANCE * step_in_units)
    fail(fmt::format("the time step is {} but the model advances by {} fs: write 'timestep {}'{}",
                     update->dt, model_timestep, step_in_units,
                     // Only a fix changes it while there is a list.
                     list_is_current ? ", and 'unfix' the fix that changes it, as fix dt/reset does"
                                     : ""));
}

/* ----------------------------------------------------------------------
   a model of isolated molecules keeps the momenta of each molecule, as the molecule IDs say
------------------------------------------------------------------------- */

void FixPythonTrajcast::count_molecules() {
  num_systems = num_molecules = 1;
  only_molecule = -1;
  meeting.clear(); // of a run that it ended, in a program that went on
  if (!keeps_rotation || !atom->molecule_flag || atom->natoms == 0)
    return;
  // Largest ID, and minus the smallest.
  bigint mine[2] = {-MAXBIGINT, -MAXBIGINT}, ids[2];
  for (int i = 0; i < atom->nlocal; i++) {
    mine[0] = std::max(mine[0], static_cast<bigint>(atom->molecule[i]));
    mine[1] = std::max(mine[1], -static_cast<bigint>(atom->molecule[i]));
  }
  MPI_Allreduce(mine, ids, 2, MPI_LMP_BIGINT, MPI_MAX, world);
  const bigint last_id = ids[0], first_id = -ids[1];
  if (first_id == last_id) {
    only_molecule = static_cast<tagint>(first_id);
    return;
  }
  if (first_id < 1 || last_id > atom->natoms)
    fail(fmt::format("the model is of isolated molecules and needs molecule IDs from 1 to at most "
                     "the number of atoms, but the molecule IDs are {} to {} with {} atoms: write "
                     "'reset_atoms mol all single yes', or 'set group all mol 1' for one molecule",
                     first_id, last_id, atom->natoms));
  num_systems = last_id;
  std::vector<int> here(last_id, 0), anywhere(last_id, 0);
  for (int i = 0; i < atom->nlocal; i++)
    here[atom->molecule[i] - 1] = 1;
  MPI_Allreduce(here.data(), anywhere.data(), static_cast<int>(last_id), MPI_INT, MPI_MAX, world);
  num_molecules = std::count(anywhere.begin(), anywhere.end(), 1);
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::has_wrong_mass(int i) const {
  const double expected = model_masses[atom->type[i] - 1];
  return std::fabs(mass_of(i) - expected) > MASS_TOLERANCE * expected;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_masses() {
  std::string problem;
  for (int i = 0; i < atom->nlocal && problem.empty(); i++) {
    const int type = atom->type[i];
    const double expected = model_masses[type - 1];
    if (has_wrong_mass(i))
      problem = fmt::format("atoms of type {} ({}) have the mass {} but the model was trained with "
                            "{}: write '{} {}{} {}', or the elements of the fix in the order of "
                            "the atom types",
                            type, elements[type - 1], mass_of(i), expected,
                            atom->rmass ? "set type" : "mass", type, atom->rmass ? " mass" : "",
                            expected);
  }
  fail_if_any(!problem.empty(), problem);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::find_references() {
  for (auto &reference : references) {
    const std::string problem = reference.find(cutoff);
    if (!problem.empty())
      fail(problem);
  }
  // Atoms that are not moved by the network may feel the reference potential, and induced charges
  // are found with it.
  others_use_forces = false;
  for (const auto &other : modify->get_fix_list())
    others_use_forces |=
        (other != this && other->time_integrate) || begins_with(other->style, {"polarize/"});
}

/* ----------------------------------------------------------------------
   LAMMPS builds its neighbor lists for the cutoffs of the pair style
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_neighbor_cutoff() {
  const double needed = reach();
  const bool overlay = force->pair && utils::strmatch(force->pair_style, "^hybrid/overlay");
  const std::string remedy = fmt::format(
      "write 'pair_style {}zero {} full{}' and 'pair_coeff * *{}'",
      overlay ? "hybrid/overlay " : "", needed, overlay ? " ..." : "", overlay ? " zero" : "");
  if (!force->pair)
    fail(fmt::format("there is no pair style, and so no neighbor list: {}", remedy));
  for (int i = 1; i <= atom->ntypes; i++)
    for (int j = i; j <= atom->ntypes; j++)
      if (std::sqrt(force->pair->cutsq[i][j]) < needed * (1.0 - 1.0e-10))
        fail(fmt::format("the pair style's cutoff for atom types {} and {} is {} but {} sees "
                         "neighbors up to {}: {}",
                         i, j, std::sqrt(force->pair->cutsq[i][j]),
                         needed > cutoff ? "the energy of the model" : "the model", needed,
                         remedy));
}

/* ----------------------------------------------------------------------
   pairs of close atoms that 'neigh_modify' keeps out of the neighbor list. The Monte Carlo fixes
   exclude a group of their own, which has members only while they try a move: a group without
   atoms hides nothing, and is watched.
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_exclusions() {
  watched_bits = 0;
  if (neighbor->nex_type || neighbor->nex_mol)
    fail(
        "'neigh_modify exclude' hides neighbors from the model: write 'neigh_modify exclude none'");
  for (int k = 0; k < neighbor->nex_group; k++) {
    const int one = neighbor->ex1_group[k], other = neighbor->ex2_group[k];
    const bigint atoms_of_one = group->count(one);
    if (atoms_of_one && group->count(other))
      fail(fmt::format("'neigh_modify exclude group {} {}' hides neighbors from the model: write "
                       "'neigh_modify exclude none', or 'unfix' the fix that excludes them",
                       group->names[one], group->names[other]));
    watched_bits |= group->bitmask[atoms_of_one ? other : one];
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_special_bonds() {
  fail_if_any(leaves_out_bonded_atoms(),
              "bonded atoms are left out of the neighbor list, because their factors of "
              "'special_bonds' are 0, the default: write 'special_bonds lj/coul 1e-50 1e-50 "
              "1e-50'");
}

/* ----------------------------------------------------------------------
   whether bonds of this rank's atoms keep their neighbors out of the list
------------------------------------------------------------------------- */

bool FixPythonTrajcast::leaves_out_bonded_atoms() const {
  if (atom->molecular == Atom::ATOMIC)
    return false;
  for (int k = 1; k <= 3; k++) {
    if (force->special_lj[k] != 0.0 || force->special_coul[k] != 0.0)
      continue;
    if (atom->molecular == Atom::TEMPLATE)
      return true; // the bonds are in the templates, which no rank has to use
    if (!atom->nspecial)
      continue;
    for (int i = 0; i < atom->nlocal; i++)
      if (atom->nspecial[i][k - 1] > (k > 1 ? atom->nspecial[i][k - 2] : 0))
        return true;
  }
  return false;
}

/* ----------------------------------------------------------------------
   whether something hides neighbors from the model in the list that has just been built
------------------------------------------------------------------------- */

bool FixPythonTrajcast::hides_neighbors() const {
  for (int i = 0; watched_bits && i < atom->nlocal; i++)
    if (atom->mask[i] & watched_bits)
      return true;
  return leaves_out_bonded_atoms();
}

/* ----------------------------------------------------------------------
   the network has to see all atoms at time t
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_order_of_integrators() {
  for (int i = 0; i < modify->nfix && modify->fix[i] != this; i++) {
    const Fix *other = modify->fix[i];
    if (other->time_integrate)
      fail(
          fmt::format("fix {} (style {}) moves its atoms before the model sees them: define fix {} "
                      "before fix {}",
                      other->id, other->style, id, other->id));
  }
}

/* ----------------------------------------------------------------------
   fixes that must not have atoms in common with this one
------------------------------------------------------------------------- */

void FixPythonTrajcast::list_exclusive_fixes() {
  exclusive_fixes.clear();
  exclusive_bits = 0;
  const auto exclude = [this](const Fix *other, const std::string &reason) {
    exclusive_fixes.push_back({other, reason});
    exclusive_bits |= other->groupbit;
  };
  for (const auto &other : modify->get_fix_list()) {
    if (other == this)
      continue;
    if (begins_with(other->style, {"shake", "rattle"}))
      exclude(other, fmt::format("fix {} (style {}) constrains the same atoms, whose bonds the "
                                 "model moves itself: write 'unfix {}'",
                                 other->id, other->style, other->id));
    else if (other->time_integrate)
      exclude(other, fmt::format("fix {} (style {}) integrates the same atoms: write 'unfix {}' or "
                                 "give the two fixes groups without common atoms",
                                 other->id, other->style, other->id));
    else if (constant_energy && is_thermostat(other))
      exclude(other, conserve_problem(other));
  }
}

/* ----------------------------------------------------------------------
   the members of groups as they are now
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_groups() {
  // LAMMPS changes the members of a dynamic group in post_force() of a fix of its own. Had it been
  // defined after this one, atoms that join the group would keep the forces of pair styles.
  const Fix *members = modify->get_fix_by_id(fmt::format("GROUP_{}", group->names[igroup]));
  if (group->dynamic[igroup] && members)
    for (int i = 0; i < modify->nfix && modify->fix[i] != members; i++)
      if (modify->fix[i] == this)
        fail(fmt::format("the group {} has become a dynamic one after this fix was defined: write "
                         "'group {} dynamic ...' before it",
                         group->names[igroup], group->names[igroup]));
  for (const auto &exclusive : exclusive_fixes)
    fail_if_any(shares_atoms(exclusive.fix), exclusive.problem);
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::is_thermostat(const Fix *other) {
  return other->ecouple_flag || begins_with(other->style, THERMOSTATS);
}

std::string FixPythonTrajcast::conserve_problem(const Fix *other) {
  return fmt::format("'conserve yes' keeps the energy, which fix {} (style {}) is there to "
                     "change: write 'unfix {}' or 'conserve no'",
                     other->id, other->style, other->id);
}

/* ----------------------------------------------------------------------
   'conserve yes' would undo what a thermostat, a barostat or an exchange of atoms does
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_nothing_changes_energy() {
  if (!constant_energy)
    return;
  for (const auto &other : modify->get_fix_list()) {
    const bool barostat = utils::strmatch(other->style, "^press/") ||
                          (other->box_change & ~BOX_CHANGE_DOMAIN) != NO_BOX_CHANGE;
    if (barostat || begins_with(other->style, MONTE_CARLO) ||
        begins_with(other->style, CHANGES_ATOMS))
      fail(conserve_problem(other));
    if (other != this && other->time_integrate)
      fail(fmt::format("'conserve yes' needs all moving atoms in the group of this fix, but fix {} "
                       "(style {}) moves others: write 'unfix {}' or 'conserve no'",
                       other->id, other->style, other->id));
  }
}

/* ----------------------------------------------------------------------
   with pair_style zero the potential energy is zero, and every Monte Carlo move is accepted
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_nobody_needs_energy() {
  if (std::strcmp(force->pair_style, "zero") != 0)
    return;
  const auto refuse = [this](const std::string &kind, const char *name, const char *style) {
    fail(fmt::format("{} {} (style {}) needs a potential energy, which the network does not have: "
                     "write 'pair_style hybrid/overlay zero {} full PAIR ...' and 'energy PAIR' "
                     "after the elements of fix {}",
                     kind, name, style, cutoff, id));
  };
  for (const auto &other : modify->get_fix_list())
    if (begins_with(other->style, MONTE_CARLO) || begins_with(other->style, NEEDS_ENERGY_FIXES))
      refuse("fix", other->id, other->style);
  for (const auto &compute : modify->get_compute_list())
    if (begins_with(compute->style, NEEDS_ENERGY_COMPUTES))
      refuse("compute", compute->id, compute->style);
}

/* ----------------------------------------------------------------------
   with 'remap v' an image across a boundary that is sheared has another velocity than its atom, and
   all velocities contain the flow, which models have not seen
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_no_streaming() {
  if (!domain->deform_vremap)
    return;
  for (const auto &other : modify->get_fix_list())
    if (begins_with(other->style, {"deform"}))
      fail(fmt::format("fix {} (style {}) with 'remap v' adds the velocities of a flow, which the "
                       "model does not know: write 'remap x'",
                       other->id, other->style));
}

/* ----------------------------------------------------------------------
   a step there and back has to be one of all atoms that move, and within the neighbor list
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_reversible() {
  if (!reversible)
    return;
  if (neighbor_list_may_be_late() || !neighbor->dist_check)
    fail(
        "'reversible yes' needs a neighbor list that is rebuilt in time: write 'neigh_modify every "
        "1 delay 0 check yes once no'");
  for (const auto &other : modify->get_fix_list())
    if (other != this && other->time_integrate)
      fail(fmt::format(
          "'reversible yes' needs all moving atoms in the group of this fix, but fix {} "
          "(style {}) moves others: write 'unfix {}' or 'reversible no'",
          other->id, other->style, other->id));
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_neighbor_settings() {
  if (neighbor_list_may_be_late() && comm->me == 0)
    error->warning(
        FLERR,
        "Fix {} python/trajcast may miss neighbors between rebuilds of the neighbor list: "
        "write 'neigh_modify every 1 delay 0 check yes once no'",
        id);
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::neighbor_list_may_be_late() const {
  return neighbor->every > 1 || neighbor->delay > 0 || neighbor->build_once;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_forces() {
  if (igroup == 0 && references.empty() && !fallback &&
      std::strcmp(force->pair_style, "zero") != 0 && comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast uses no forces, so those of pair_style {} cost time for "
                   "nothing: write 'pair_style zero {} full' and 'pair_coeff * *'",
                   id, force->pair_style, reach());
  for (int i = 0; i < modify->nfix && modify->fix[i] != this; i++) {
    const Fix *other = modify->fix[i];
    if ((modify->fmask[i] & POST_FORCE) && !begins_with(other->style, SETS_NO_FORCES) &&
        shares_atoms_anywhere(other) && comm->me == 0)
      error->warning(FLERR,
                     "Forces of fix {} (style {}) do not act on the atoms of fix {} "
                     "python/trajcast, which is defined after it: define fix {} after fix {}",
                     other->id, other->style, id, other->id, id);
  }
}

/* ----------------------------------------------------------------------
   atoms that a script means to hold, or forces that it means to change, in ways that work only if
   forces move atoms
------------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_frozen_atoms() {
  std::vector<const Fix *> integrators;
  for (const auto &other : modify->get_fix_list()) {
    if (other->time_integrate)
      integrators.push_back(other);
    const bool holds = begins_with(other->style, HOLDS_BY_FORCES);
    if (!holds && !begins_with(other->style, CHANGES_FORCES))
      continue;
    if (!shares_atoms_anywhere(other) || comm->me != 0)
      continue;
    if (holds)
      error->warning(FLERR,
                     "Fix {} (style {}) does not hold atoms that fix {} python/trajcast moves "
                     "without forces: write 'group mobile subtract {} {}' and define fix {} for "
                     "the group mobile",
                     other->id, other->style, id, group->names[igroup], group->names[other->igroup],
                     id);
    else
      error->warning(FLERR,
                     "Fix {} (style {}) changes the forces of a potential, which do not act on the "
                     "atoms of fix {} python/trajcast: write 'unfix {}'",
                     other->id, other->style, id, other->id);
  }

  std::string integrated_groups;
  for (const Fix *fix : integrators)
    integrated_groups += fmt::format(" {}", group->names[fix->igroup]);

  bigint mine = 0;
  for (int i = 0; i < atom->nlocal; i++) {
    const double *v = atom->v[i];
    const bool integrated =
        std::any_of(integrators.begin(), integrators.end(),
                    [this, i](const Fix *fix) { return atom->mask[i] & fix->groupbit; });
    mine += !integrated && (v[0] != 0.0 || v[1] != 0.0 || v[2] != 0.0);
  }
  bigint count;
  MPI_Allreduce(&mine, &count, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  if (count && comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast: no fix moves {} of the atoms, but the model sees their "
                   "velocities, which are not zero: write 'group frozen subtract all{}' and "
                   "'velocity frozen set 0 0 0'",
                   id, count, integrated_groups);
}

/* ----------------------------------------------------------------------
   temperatures that count motions of isolated molecules which the model never changes: a thermostat
   would hold small molecules too hot. What acts on each atom makes them turn, unless the model
   stops that; they never move on.
------------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_temperatures() {
  if (!keeps_rotation)
    return;
  bool heats_rotation = false;
  for (const auto &other : modify->get_fix_list())
    heats_rotation |= !stops_rotation && utils::strmatch(other->style, "^(langevin|gle|ttm)") &&
                      shares_atoms_anywhere(other);
  const bigint fixed = (heats_rotation ? 3 : 6) * num_molecules;
  if (fixed == 3) // which LAMMPS takes away by itself
    return;
  const std::string whose = num_molecules > 1 ? "each molecule" : "the molecule";
  const std::string where =
      (heats_rotation ? "linear momentum of " : "linear and angular momentum of ") + whose;
  const std::string linear = heats_rotation      ? ""
                             : num_molecules > 1 ? " (one less for each linear molecule)"
                                                 : " (5 if it is linear)";
  const auto counted = 3.0 * static_cast<double>(group->count(igroup)) - 3.0;
  for (const auto &compute : modify->get_compute_list()) {
    if (!compute->tempflag || std::strcmp(compute->style, "temp") != 0 || compute->igroup != igroup)
      continue;
    compute->setup(); // counts the degrees of freedom
    if (compute->dof == counted && comm->me == 0)
      error->warning(FLERR,
                     "Fix {} python/trajcast does not change the {}, but compute {} counts these "
                     "degrees of freedom, which makes its temperature wrong: write "
                     "'compute_modify {} extra/dof {}'{}",
                     id, where, compute->id, compute->id, fixed, linear);
  }
}

/* ----------------------------------------------------------------------
   whether any atom of this rank is in the groups of both fixes
------------------------------------------------------------------------- */

bool FixPythonTrajcast::shares_atoms(const Fix *other) const {
  for (int i = 0; i < atom->nlocal; i++)
    if (is_moved(i) && (atom->mask[i] & other->groupbit))
      return true;
  return false;
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::shares_atoms_anywhere(const Fix *other) const {
  int mine = shares_atoms(other), any;
  MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, world);
  return any != 0;
}
