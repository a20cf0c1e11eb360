// SPDX-License-Identifier: GPL-2.0-or-later

#include "fix_python_trajcast.h"

#include "launcher.h"
#include "older_lammps.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "modify.h"
#include "neighbor.h"
#include "pair.h"
#include "timer.h"
#include "update.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

using namespace LAMMPS_NS;
using namespace FixConst;

/* ---------------------------------------------------------------------- */

FixPythonTrajcast::FixPythonTrajcast(LAMMPS *lmp, int narg, char **arg)
    : Fix(lmp, narg, arg), message_text(4096, '\0'), snapshot(lmp) {
  trajcast::check_launcher(lmp, "Fix python/trajcast");
  time_integrate = 1;
  dynamic_group_allow = 1;
  scalar_flag = 1;
  extscalar = 1;
  vector_flag = 1;
  size_vector = 16;
  extvector = 0;
  global_freq = 1;
  restart_global = 1;
  comm_forward = STATE;
  maxexchange = trajcast::Snapshot::MAX_EXCHANGE;
  message = {message_text.data(), static_cast<int64_t>(message_text.size())};

  parse(narg, arg);
  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    fail(fmt::format("units {} are not supported: write 'units metal' or 'units real'", units));
  if (domain->dimension != 3)
    fail("two-dimensional systems are not supported: write 'dimension 3'");
  if (!atom->tag_enable)
    fail("atom IDs are needed: write 'atom_modify id yes' before the box is created");

  open_model();
  if (conserve_energy && references.empty() && !has_energy)
    fail("'conserve yes' needs a potential energy, which the model file does not hold: add one "
         "with 'lammps-trajcast add-energy', or write 'energy PAIR conserve yes', where PAIR is a "
         "sub-style of pair_style hybrid/overlay");
  if (conserve_energy)
    constant_energy = std::make_unique<trajcast::ConstantEnergy>(
        lmp, groupbit, std::string(id) + "_potential_energy");
  energy_global_flag = energy_peratom_flag = has_energy;
  virial_global_flag = virial_peratom_flag = has_energy;
  atom->add_callback(Atom::GROW);
}

/* ---------------------------------------------------------------------- */

FixPythonTrajcast::~FixPythonTrajcast() {
  if (modify->get_fix_by_id(id))
    atom->delete_callback(id, Atom::GROW);
  // A run that an error ended may have left them switched off. LAMMPS may have no pair style any
  // more.
  if (force) {
    for (auto &reference : references)
      reference.find(cutoff);
    if (fallback)
      fallback->find(cutoff);
  }
  // LAMMPS may outlive the Python that it was started from.
  if (model && trajcast::python_is_running())
    bridge->close(model, &message);
}

/* ---------------------------------------------------------------------- */

int FixPythonTrajcast::setmask() {
  return INITIAL_INTEGRATE | POST_NEIGHBOR | PRE_FORCE | PRE_REVERSE | POST_FORCE | FINAL_INTEGRATE;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init() {
  list_is_current = false;
  forces_are_due = false;
  // Other commands initialize LAMMPS too, in states that only a run has to forbid.
  const bool is_rerun = std::strcmp(trajcast::InputAccess::command_of(input), "rerun") == 0;
  moves_atoms = update->whichflag == 1 && !is_rerun;
  energy_is_known = false;
  check_energy();
  if (moves_atoms)
    prepare_run();
  else if (is_rerun && evaluates_energy())
    check_neighbor_cutoff();

  // A request that LAMMPS has not taken would outlive this fix: none is made before the last error.
  // A rerun comes here for each state that it reads, but takes requests only once.
  if (!is_rerun || (evaluates_energy() && !rerun_has_list))
    neighbor->add_request(this, NeighConst::REQ_FULL);
  rerun_has_list = is_rerun && evaluates_energy();
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init_list(int /*id*/, NeighList *given) { list = given; }

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup_post_neighbor() {
  if (moves_atoms || rerun_has_list)
    post_neighbor();
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup(int vflag) {
  if (!moves_atoms) // a rerun, which may want to know the forces
    return;
  check_start();
  post_force(vflag);
  if (constant_energy) {
    check_pair_energy();
    const std::string problem = constant_energy->setup(extra_energy(), energy_is_the_models());
    if (!problem.empty())
      fail(problem);
  }
}

/* ----------------------------------------------------------------------
   a step: x(t), v(t) -> x(t + dt), v(t + dt)
------------------------------------------------------------------------- */

void FixPythonTrajcast::initial_integrate(int /*vflag*/) {
  if (!list_is_current)
    fail("'run ... pre no' follows a command that may have put the atoms in another order "
         "(write_restart, write_data, ...): write 'run ... pre yes'");
  forces_are_due = true;
  graph_seconds = 0.0;
  forward_seconds = 0.0;
  if (response == Response::STOP)
    remember_velocities();
  if (constant_energy)
    constant_energy->begin_step();
  energy_is_known = false;
  add_impulse();
  gather_step();
  predict(true);
  if (outcome.unfit)
    explain_unfit_atoms();
  const std::string problem = violation();
  if (!problem.empty())
    respond(problem);
  else if (reversible && atom->natoms > 0)
    move_reversibly();
  else
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

/* ----------------------------------------------------------------------
   the network's prediction for own atoms, and what all ranks have to say of it, in one reduction;
   judge: compare it with the limits
------------------------------------------------------------------------- */

void FixPythonTrajcast::predict(bool judge) {
  last = {};
  outcome = {};
  guard_sums = {};
  reduction_seconds = 0.0;
  if (atom->natoms == 0)
    return;

  judge &= guard != nullptr;
  trajcast_frame frame = frame_of_step(judge);
  num_remote = frame.num_remote;
  frame.remote_rows = comm->nprocs > 1 && judge && guard->needs_remote();

  rows.resize(TRAJCAST_ROW * (frame.num_atoms + (frame.remote_rows ? frame.num_remote : 0)));
  last.rows = rows.data();
  const auto room = TRAJCAST_MAX_SUMS * static_cast<std::size_t>(num_systems);
  momenta.resize(room);
  last.sums = momenta.data();
  message.text[0] = '\0';
  const int status = bridge->predict(model, &frame, &last, &message);
  if (status == TRAJCAST_ABORT)
    abort_all(message.text);
  const bool failed = status != TRAJCAST_OK;
  num_edges = finds_edges ? last.num_edges : frame.num_edges;

  // What the guard needs, five counts, and what conserve() needs.
  enum { FAILED = trajcast::GuardSums::SIZE, UNFIT, UNMOVED, BROKEN, MEETINGS, SIZE };
  all_sums.assign(SIZE + room, 0.0);
  double *sums = all_sums.data();
  sums[FAILED] = failed;
  if (!failed) {
    std::copy_n(last.sums, last.num_sums, sums + SIZE);
    check_prediction(frame, judge, sums);
    sums[UNFIT] = has_unfit_atoms();
    sums[UNMOVED] = std::count(moved.begin(), moved.begin() + atom->nlocal, 0);
    sums[BROKEN] = outcome.broken_atom >= 0;
    sums[MEETINGS] = !meeting.empty();
  }
  sum_over_ranks(sums, static_cast<int>(all_sums.size()));
  if (sums[FAILED] > 0.0)
    fail_if_any(failed, message.text);

  if (sums[MEETINGS] > 0.0)
    fail_if_any(!meeting.empty(), meeting);
  std::copy_n(sums + SIZE, last.num_sums, last.sums);
  guard_sums = trajcast::GuardSums(sums);
  outcome.unfit = sums[UNFIT] > 0.0;
  outcome.moves_all = sums[UNMOVED] == 0.0;
  outcome.broken = sums[BROKEN] > 0.0;
  if (finds_edges && (!outcome.moves_all || outcome.broken))
    fetch_rows(); // which conserve() would fill
}

/* ----------------------------------------------------------------------
   whether this rank's predictions are numbers, and what the guard says of them
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_prediction(const trajcast_frame &frame, bool judge, double *sums) {
  if (finds_edges) {
    take_checks(judge, sums);
    return;
  }
  outcome.broken_atom = first_broken_atom();
  if (judge && outcome.broken_atom < 0)
    guard->check(frame, moved, rows.data(), sums);
}

/* ----------------------------------------------------------------------
   the same for a model on a device: it has counted, and says more only where there is more to say
------------------------------------------------------------------------- */

void FixPythonTrajcast::take_checks(bool judge, double *sums) {
  static_assert(int(trajcast::GuardSums::SIZE) == int(TRAJCAST_CHECKS), "the same sums");
  if (last.num_broken > 0) {
    fetch_rows();
    outcome.broken_atom = first_broken_atom();
  } else if (judge) {
    std::copy_n(last.checks, TRAJCAST_CHECKS, sums);
    guard->worst = {};
    if (trajcast::GuardSums(sums).violated)
      find_worst(sums);
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::fetch_rows() {
  if (bridge->rows(model, &last, &message) != TRAJCAST_OK)
    abort_all(message.text);
}

/* ---------------------------------------------------------------------- */

// The place of the first own atom whose prediction is not a number; -1 if there is none.
int64_t FixPythonTrajcast::first_broken_atom() const {
  const std::size_t size = TRAJCAST_ROW * static_cast<std::size_t>(atom->nlocal);
  for (std::size_t k = 0; k < size; k++)
    if (!std::isfinite(rows[k]))
      return static_cast<int64_t>(k / TRAJCAST_ROW);
  return -1;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::sum_over_ranks(double *values, int count) {
  if (comm->nprocs == 1 || count == 0)
    return;
  const double start = MPI_Wtime();
  MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, world);
  reduction_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   only if the prediction moves all atoms: what others move has a momentum of its own
------------------------------------------------------------------------- */

void FixPythonTrajcast::conserve_momentum() {
  if (!outcome.moves_all || outcome.broken)
    return;
  while (last.num_sums > 0) {
    if (bridge->conserve(model, &last, &message) != TRAJCAST_OK)
      abort_all(message.text);
    sum_over_ranks(last.sums, static_cast<int>(last.num_sums));
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::move_atoms() {
  conserve_momentum();
  double **x = atom->x;
  double **v = atom->v;
  for (int i = 0; i < atom->nlocal; i++) {
    if (!is_moved(i))
      continue;
    const double *row = &rows[TRAJCAST_ROW * i];
    for (int k = 0; k < 3; k++) {
      x[i][k] += row[k];
      v[i][k] = row[3 + k];
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

void FixPythonTrajcast::final_integrate() {
  add_impulse();
  if (!constant_energy)
    return;
  const std::string problem = constant_energy->end_step(extra_energy(), energy_is_the_models());
  if (!problem.empty() && !snapshot.taken())
    fail(problem);
}

/* ----------------------------------------------------------------------
   after a run that a guard has stopped: what other fixes did in its last step is undone
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_run() {
  rerun_has_list = false;
  if (!snapshot.taken())
    return;
  snapshot.restore();
  timer->reset_timeout();
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::reset_dt() {
  // The command 'timestep' comes here too, and the fix may be deleted before the next run.
  if (update->whichflag == 1)
    check_timestep();
}

/* ----------------------------------------------------------------------
   atoms change their order and rank: so does the state that is kept of them
------------------------------------------------------------------------- */

void FixPythonTrajcast::grow_arrays(int nmax) { snapshot.grow(nmax); }

void FixPythonTrajcast::copy_arrays(int from, int to, int /*delflag*/) { snapshot.copy(from, to); }

int FixPythonTrajcast::pack_exchange(int i, double *buffer) { return snapshot.pack(i, buffer); }

int FixPythonTrajcast::unpack_exchange(int i, double *buffer) { return snapshot.unpack(i, buffer); }

/* ----------------------------------------------------------------------
   the state is that of the atoms: all there is to know is which model moved them
------------------------------------------------------------------------- */

void FixPythonTrajcast::write_restart(FILE *file) {
  if (comm->me != 0)
    return;
  const int size = static_cast<int>(fingerprint.size()) + 1;
  fwrite(&size, sizeof(int), 1, file);
  fwrite(fingerprint.c_str(), 1, size, file);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::restart(char *written) {
  if (fingerprint == written)
    return;
  if (!any_model)
    fail(fmt::format("the restart file was written with another model (SHA-256 {:.12}...) than {} "
                     "(SHA-256 {:.12}...): give the path of that model, or write 'restart allow' "
                     "to continue with this one",
                     written, model_path, fingerprint));
  if (comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast continues the restart file of another model (SHA-256 "
                   "{:.12}...) with {} (SHA-256 {:.12}...)",
                   id, written, model_path, fingerprint);
}

/* ---------------------------------------------------------------------- */

// The model's potential energy; without one, edges in the last prediction, on all ranks.
double FixPythonTrajcast::compute_scalar() {
  if (has_energy)
    return own_energy();
  const double mine = static_cast<double>(num_edges);
  double all;
  MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, world);
  return all;
}

/* ---------------------------------------------------------------------- */

// What the last step took, and how the atoms are distributed.
double FixPythonTrajcast::compute_vector(int n) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const double kilobyte = 1024.0;
  const auto nremote = static_cast<double>(num_remote);
  const struct {
    double mine;
    MPI_Op over_ranks;
  } values[] = {
      {graph_seconds, MPI_MAX},
      {last.network_seconds, MPI_MAX},
      {forward_seconds + last.exchange_seconds, MPI_MAX},
      {reduction_seconds, MPI_MAX},
      {static_cast<double>(state_bytes + last.bytes_received), MPI_SUM},
      {static_cast<double>(last.rows_sent), MPI_SUM},
      {nremote, MPI_SUM},
      {static_cast<double>(atom->nlocal), MPI_MAX},
      {nremote, MPI_MAX},
      {kilobyte * usage.ru_maxrss, MPI_MAX},
      {static_cast<double>(reference_evaluations), MPI_MAX},
      {static_cast<double>(num_violations), MPI_MAX},
      {static_cast<double>(num_fallbacks), MPI_MAX},
      {defect, MPI_MAX},
      {static_cast<double>(num_plain_steps), MPI_MAX},
      {static_cast<double>(num_edges), MPI_SUM},
  };
  double all;
  MPI_Allreduce(&values[n].mine, &all, 1, MPI_DOUBLE, values[n].over_ranks, world);
  return all;
}

/* ---------------------------------------------------------------------- */

double FixPythonTrajcast::memory_usage() {
  const double per_edge = sizeof(int64_t) + 3 * sizeof(double);
  const double per_atom = 15 * sizeof(double) + sizeof(int32_t) + sizeof(double);
  return per_edge * edges.senders.capacity() + per_atom * types.capacity() +
         sizeof(double) * forwarded.capacity();
}

/* ---------------------------------------------------------------------- */

bool FixPythonTrajcast::is_moved(int i) const { return atom->mask[i] & groupbit; }

double FixPythonTrajcast::mass_of(int i) const {
  return atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
}

trajcast::Cell FixPythonTrajcast::cell() const {
  const double *h = domain->h; // xx, yy, zz, yz, xz, xy
  return {h[0], h[1], h[2], h[3], h[4], h[5]};
}

/* ---------------------------------------------------------------------- */

extern "C" void *trajcast_create_fix(void *lammps, int narg, char **arg) {
  return new FixPythonTrajcast(static_cast<LAMMPS *>(lammps), narg, arg);
}
