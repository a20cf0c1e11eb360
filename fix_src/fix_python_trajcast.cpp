// SPDX-License-Identifier: GPL-2.0-or-later

#include "fix_python_trajcast.h"

#include "threads.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

using namespace LAMMPS_NS;
using namespace FixConst;

namespace {
constexpr double MASS_TOLERANCE = 1.0e-3;
constexpr double TIMESTEP_TOLERANCE = 1.0e-6;

bool is_keyword(const std::string &word) {
  return word == "device" || word == "precision" || word == "kernels" || word == "threads";
}
} // namespace

/* ---------------------------------------------------------------------- */

FixPythonTrajcast::FixPythonTrajcast(LAMMPS *lmp, int narg, char **arg)
    : Fix(lmp, narg, arg), message_text(4096, '\0') {
  time_integrate = 1;
  dynamic_group_allow = 1;
  scalar_flag = 1;
  extscalar = 1;
  global_freq = 1;
  message = {message_text.data(), static_cast<int64_t>(message_text.size())};

  parse(narg, arg);

  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    fail(fmt::format("units {} are not supported: write 'units metal' or 'units real'", units));
  if (domain->dimension != 3)
    fail("two-dimensional systems are not supported: write 'dimension 3'");
  if (!atom->tag_enable)
    fail("atom IDs are needed: write 'atom_modify id yes' before the box is created");
  if (comm->nprocs > 1)
    fail("several MPI ranks are not yet supported: run on one MPI rank, with the keyword 'threads' "
         "for more cores");

  open_model();
}

/* ---------------------------------------------------------------------- */

FixPythonTrajcast::~FixPythonTrajcast() {
  // LAMMPS may outlive the Python that it was started from.
  if (model && trajcast::python_is_running())
    bridge->close(model, &message);
}

/* ----------------------------------------------------------------------
   fix ID group python/trajcast MODEL El1 El2 ... keyword value ...
------------------------------------------------------------------------- */

void FixPythonTrajcast::parse(int narg, char **arg) {
  if (narg < 5)
    fail("a model file and one element for each atom type are needed: write 'fix ID group "
         "python/trajcast MODEL El1 El2 ...'");
  model_path = arg[3];

  int iarg = 4;
  while (iarg < narg && !is_keyword(arg[iarg]))
    elements.push_back(arg[iarg++]);
  if (static_cast<int>(elements.size()) != atom->ntypes)
    fail(fmt::format("{} elements are given for {} atom types: write one chemical symbol for each "
                     "atom type, in the order of the types, and keywords after them",
                     elements.size(), atom->ntypes));

  for (; iarg < narg; iarg += 2) {
    const std::string keyword = arg[iarg];
    if (!is_keyword(keyword))
      fail(fmt::format("unknown keyword '{}': write 'device', 'precision', 'kernels' or 'threads'",
                       keyword));
    if (iarg + 1 == narg)
      fail(fmt::format("keyword '{}' has no value: write one after it", keyword));
    const std::string value = arg[iarg + 1];
    if (keyword == "device") {
      device = value;
      if (value != "auto" && value != "cpu" && value != "cuda")
        fail(fmt::format("unknown device '{}': write 'device auto', 'device cpu' or 'device cuda'",
                         value));
    } else if (keyword == "precision") {
      precision = value;
      if (value != "model" && value != "single" && value != "double")
        fail(fmt::format("unknown precision '{}': write 'precision model', 'precision single' or "
                         "'precision double'",
                         value));
    } else if (keyword == "kernels") {
      kernels = value;
      if (value != "fused" && value != "plain")
        fail(fmt::format("unknown kernels '{}': write 'kernels fused' or 'kernels plain'", value));
    } else {
      threads = utils::is_integer(value) && value.size() < 6 ? std::atoi(value.c_str()) : 0;
      if (threads < 1)
        fail(fmt::format("'{}' is no number of threads: write 'threads N' with N at least 1",
                         value));
    }
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::open_model() {
  if (threads == 0)
    threads = comm->nthreads > 1 || std::getenv("OMP_NUM_THREADS")
                  ? comm->nthreads
                  : trajcast::cores_per_rank(world);

  std::string problem;
  bridge = trajcast::start_python(problem);
  fail_if_any(bridge == nullptr, problem);

  std::vector<const char *> symbols;
  for (const auto &element : elements)
    symbols.push_back(element.c_str());
  model_masses.resize(elements.size());

  trajcast_config config = {};
  config.model_path = model_path.c_str();
  config.elements = symbols.data();
  config.num_types = static_cast<int64_t>(symbols.size());
  config.units = update->unit_style;
  config.device = device.c_str();
  config.precision = precision.c_str();
  config.kernels = kernels.c_str();
  config.num_threads = threads;
#ifndef MPI_STUBS
  config.communicator = MPI_Comm_c2f(world);
#endif
  trajcast_model_info info = {};
  info.masses = model_masses.data();

  const bool failed = bridge->open(&config, &model, &info, &message) != TRAJCAST_OK;
  fail_if_any(failed, message.text);
  model_timestep = info.timestep;
  cutoff = info.cutoff;
}

/* ---------------------------------------------------------------------- */

int FixPythonTrajcast::setmask() {
  return INITIAL_INTEGRATE | POST_NEIGHBOR | POST_FORCE | FINAL_INTEGRATE;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init() {
  neighbor->add_request(this, NeighConst::REQ_FULL);

  // Other commands initialise LAMMPS too, in states that only a run has to forbid.
  if (update->whichflag != 1)
    return;

  if (utils::strmatch(update->integrate_style, "^respa"))
    fail(fmt::format("run_style {} is not supported: write 'run_style verlet'",
                     update->integrate_style));
  check_timestep();
  check_masses();
  check_neighbor_cutoff();
  check_exclusions();
  check_integrators();
  warn_about_neighbor_settings();
  warn_about_forces();

  conserve = moves_all_atoms();
  impulse_per_force = 0.5 * update->dt * force->ftm2v;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_timestep() {
  const double step_in_units = model_timestep * force->femtosecond;
  if (std::fabs(update->dt - step_in_units) > TIMESTEP_TOLERANCE * step_in_units)
    fail(fmt::format("the time step is {} but the model advances by {} fs: write 'timestep {}'",
                     update->dt, model_timestep, step_in_units));
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::check_masses() {
  std::string problem;
  for (int i = 0; i < atom->nlocal && problem.empty(); i++) {
    const int type = atom->type[i];
    const double expected = model_masses[type - 1];
    if (std::fabs(mass_of(i) - expected) > MASS_TOLERANCE * expected)
      problem = fmt::format("atoms of type {} ({}) have the mass {} but the model was trained with "
                            "{}: write 'mass {} {}'",
                            type, elements[type - 1], mass_of(i), expected, type, expected);
  }
  fail_if_any(!problem.empty(), problem);
}

/* ----------------------------------------------------------------------
   LAMMPS builds its neighbour lists for the cutoffs of the pair style
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_neighbor_cutoff() {
  const std::string remedy =
      fmt::format("write 'pair_style zero {} full' and 'pair_coeff * *'", cutoff);
  if (!force->pair)
    fail(fmt::format("there is no pair style, and so no neighbor list: {}", remedy));
  for (int i = 1; i <= atom->ntypes; i++)
    for (int j = i; j <= atom->ntypes; j++)
      if (std::sqrt(force->pair->cutsq[i][j]) < cutoff * (1.0 - 1.0e-10))
        fail(
            fmt::format("the neighbor cutoff of types {} and {} is {} but the model sees neighbors "
                        "up to {}: {}",
                        i, j, std::sqrt(force->pair->cutsq[i][j]), cutoff, remedy));
}

/* ----------------------------------------------------------------------
   anything that keeps pairs of close atoms out of the neighbour list
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_exclusions() {
  if (neighbor->nex_type || neighbor->nex_group || neighbor->nex_mol)
    fail(
        "'neigh_modify exclude' hides neighbors from the model: write 'neigh_modify exclude none'");
  if (neighbor->includegroup)
    fail("'neigh_modify include' hides neighbors from the model: write the script without it");

  if (atom->molecular == Atom::ATOMIC)
    return;
  bool excluded = false;
  for (int k = 1; k <= 3; k++) {
    if (force->special_lj[k] != 0.0 || force->special_coul[k] != 0.0)
      continue;
    if (atom->molecular == Atom::TEMPLATE)
      excluded = true; // the bonds are in the templates, which no rank has to use
    else if (atom->nspecial)
      for (int i = 0; i < atom->nlocal; i++)
        excluded |= atom->nspecial[i][k - 1] > (k > 1 ? atom->nspecial[i][k - 2] : 0);
  }
  fail_if_any(excluded,
              "bonded atoms are left out of the neighbor list: write 'special_bonds lj/coul "
              "1e-50 1e-50 1e-50'");
}

/* ----------------------------------------------------------------------
   an atom has one integrator, and the network has to see all atoms at time t
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_integrators() {
  bool after_me = false;
  for (const auto &other : modify->get_fix_list()) {
    after_me |= other == this;
    if (other == this || !other->time_integrate)
      continue;
    fail_if_any(shares_atoms(other),
                fmt::format("fix {} (style {}) integrates the same atoms: write 'unfix {}' or "
                            "give the two fixes groups without common atoms",
                            other->id, other->style, other->id));
    if (!after_me)
      fail(
          fmt::format("fix {} (style {}) moves its atoms before the model sees them: define fix {} "
                      "before fix {}",
                      other->id, other->style, id, other->id));
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_neighbor_settings() {
  if (comm->me != 0)
    return;
  const bool may_be_late = neighbor->every > 1 || neighbor->delay > 0 || neighbor->build_once;
  if (may_be_late)
    error->warning(
        FLERR,
        "Fix {} python/trajcast may miss neighbors between rebuilds of the neighbor list: "
        "write 'neigh_modify every 1 delay 0 check yes once no'",
        id);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::warn_about_forces() {
  if (igroup == 0 && std::strcmp(force->pair_style, "zero") != 0 && comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast uses no forces, those of pair_style {} are computed in "
                   "vain: write 'pair_style zero {} full' and 'pair_coeff * *'",
                   id, force->pair_style, cutoff);
  for (int i = 0; i < modify->nfix && modify->fix[i] != this; i++) {
    const Fix *other = modify->fix[i];
    int lost = (modify->fmask[i] & POST_FORCE) && shares_atoms(other);
    int lost_anywhere;
    MPI_Allreduce(&lost, &lost_anywhere, 1, MPI_INT, MPI_MAX, world);
    if (lost_anywhere && comm->me == 0)
      error->warning(FLERR,
                     "Forces of fix {} (style {}) do not act on the atoms of fix {} "
                     "python/trajcast: define it after fix {}",
                     other->id, other->style, id, id);
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init_list(int /*id*/, NeighList *given) { list = given; }

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup_post_neighbor() { post_neighbor(); }

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup(int vflag) { post_force(vflag); }

/* ----------------------------------------------------------------------
   a step: x(t), v(t) -> x(t + dt), v(t + dt)
------------------------------------------------------------------------- */

void FixPythonTrajcast::initial_integrate(int /*vflag*/) {
  add_impulse();
  gather_frame();
  predict();
  move_atoms();
}

/* ----------------------------------------------------------------------
   half of the impulse that the forces of other fixes give in a step
------------------------------------------------------------------------- */

void FixPythonTrajcast::add_impulse() {
  double **v = atom->v;
  double **f = atom->f;
  for (int i = 0; i < atom->nlocal; i++) {
    if (!is_moved(i))
      continue;
    const double scale = impulse_per_force / mass_of(i);
    for (int k = 0; k < 3; k++)
      v[i][k] += scale * f[i][k];
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::gather_frame() {
  const int nlocal = atom->nlocal;
  types.resize(nlocal);
  masses.resize(nlocal);
  unwrapped.resize(3 * nlocal);
  velocities.resize(3 * nlocal);
  displacements.resize(3 * nlocal);
  new_velocities.resize(3 * nlocal);

  for (int i = 0; i < nlocal; i++) {
    types[i] = atom->type[i];
    masses[i] = mass_of(i);
    domain->unmap(atom->x[i], atom->image[i], &unwrapped[3 * i]);
    std::copy_n(atom->v[i], 3, &velocities[3 * i]);
  }
  // Local atoms' positions lie one after the other: Memory::create() makes arrays so.
  edges.update(nlocal ? atom->x[0] : nullptr, cell(), cutoff);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::predict() {
  if (atom->natoms == 0)
    return;

  trajcast_frame frame = {};
  frame.num_atoms = atom->nlocal;
  frame.types = types.data();
  frame.positions = unwrapped.data();
  frame.velocities = velocities.data();
  frame.masses = masses.data();
  frame.num_edges = edges.size();
  frame.receivers = edges.receivers.data();
  frame.senders = edges.senders.data();
  frame.edge_vectors = edges.vectors.data();
  frame.conserve = conserve;

  trajcast_prediction prediction = {displacements.data(), new_velocities.data()};
  const bool failed = bridge->step(model, &frame, &prediction, &message) != TRAJCAST_OK;
  fail_if_any(failed, message.text);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::move_atoms() {
  double **x = atom->x;
  double **v = atom->v;
  tagint broken = 0;
  for (int i = 0; i < atom->nlocal; i++) {
    if (!is_moved(i))
      continue;
    for (int k = 0; k < 3; k++) {
      if (!std::isfinite(displacements[3 * i + k]) || !std::isfinite(new_velocities[3 * i + k]))
        broken = atom->tag[i];
      x[i][k] += displacements[3 * i + k];
      v[i][k] = new_velocities[3 * i + k];
    }
  }
  fail_if_any(
      broken != 0,
      fmt::format("the model's prediction for atom {} at step {} is not a number: check the "
                  "state before it for atoms that nearly touch and for velocities beyond those "
                  "that the model was trained with",
                  broken, update->ntimestep));
}

/* ----------------------------------------------------------------------
   atoms were sorted anew: find out which atom, and which lattice shift, each neighbour is
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_neighbor() {
  const int nlocal = atom->nlocal;
  double **x = atom->x;
  const trajcast::Cell box = cell();

  std::unordered_map<tagint, int> owner;
  owner.reserve(nlocal);
  for (int i = 0; i < nlocal; i++)
    owner.emplace(atom->tag[i], i);

  const int nghost = atom->nghost;
  std::vector<int> ghost_owner(nghost);
  std::vector<std::array<int, 3>> ghost_shift(nghost);
  for (int g = 0; g < nghost; g++) {
    const int j = nlocal + g;
    const int i = owner.at(atom->tag[j]);
    const double lattice[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
    ghost_owner[g] = i;
    ghost_shift[g] = box.nearest(lattice);
  }

  edges.clear(nlocal);
  for (int i = 0; i < nlocal; i++) {
    edges.begin_receiver();
    for (int k = 0; k < list->numneigh[i]; k++) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      if (j < nlocal)
        edges.add_candidate(j, {0, 0, 0});
      else
        edges.add_candidate(ghost_owner[j - nlocal], ghost_shift[j - nlocal]);
    }
  }
}

/* ----------------------------------------------------------------------
   pair styles' forces do not count; what fixes defined later add to f stays
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_force(int /*vflag*/) {
  for (int i = 0; i < atom->nlocal; i++)
    if (is_moved(i))
      std::fill_n(atom->f[i], 3, 0.0);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::final_integrate() { add_impulse(); }

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::reset_dt() {
  // The command 'timestep' comes here too, and the fix may be deleted before the next run.
  if (update->whichflag == 1)
    check_timestep();
}

/* ---------------------------------------------------------------------- */

// Edges in the last prediction, on all ranks.
double FixPythonTrajcast::compute_scalar() {
  double mine = static_cast<double>(edges.size());
  double all;
  MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, world);
  return all;
}

/* ---------------------------------------------------------------------- */

double FixPythonTrajcast::memory_usage() {
  const double per_edge = 2 * sizeof(int64_t) + 3 * sizeof(double);
  const double per_atom = 12 * sizeof(double) + sizeof(int32_t) + sizeof(double);
  return per_edge * edges.receivers.capacity() + per_atom * types.capacity();
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::is_moved(int i) const { return atom->mask[i] & groupbit; }

// Whether any atom of this rank is in the groups of both fixes.
bool FixPythonTrajcast::shares_atoms(const Fix *other) const {
  for (int i = 0; i < atom->nlocal; i++)
    if (is_moved(i) && (atom->mask[i] & other->groupbit))
      return true;
  return false;
}

double FixPythonTrajcast::mass_of(int i) const {
  return atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
}

bool FixPythonTrajcast::moves_all_atoms() const {
  return igroup == 0 || (!group->dynamic[igroup] && group->count(igroup) == atom->natoms);
}

trajcast::Cell FixPythonTrajcast::cell() const {
  const double *h = domain->h; // xx, yy, zz, yz, xz, xy
  return {h[0], h[1], h[2], h[3], h[4], h[5]};
}

/* ----------------------------------------------------------------------
   stop on all ranks; to be called by all of them
------------------------------------------------------------------------- */

void FixPythonTrajcast::fail(const std::string &reason) {
  const bool complete = utils::strmatch(reason, "^Fix python/trajcast");
  error->all(FLERR, complete ? reason : fmt::format("Fix {} python/trajcast: {}", id, reason));
}

/* ----------------------------------------------------------------------
   stop on all ranks if something is wrong on any; the lowest such rank says what
------------------------------------------------------------------------- */

void FixPythonTrajcast::fail_if_any(bool wrong, const std::string &reason) {
  int mine = wrong ? comm->me : comm->nprocs;
  int lowest;
  MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, world);
  if (lowest == comm->nprocs)
    return;

  int length = static_cast<int>(reason.size());
  MPI_Bcast(&length, 1, MPI_INT, lowest, world);
  std::string said = reason;
  said.resize(length);
  MPI_Bcast(&said[0], length, MPI_CHAR, lowest, world);
  fail(said);
}

/* ---------------------------------------------------------------------- */

extern "C" void *trajcast_create_fix(void *lammps, int narg, char **arg) {
  return new FixPythonTrajcast(static_cast<LAMMPS *>(lammps), narg, arg);
}
