// SPDX-License-Identifier: GPL-2.0-or-later

#include "fix_python_trajcast.h"

#include "threads.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "input.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "timer.h"
#include "update.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

using namespace LAMMPS_NS;
using namespace FixConst;

namespace {
// Widths of rows forwarded to ghost atoms.
constexpr int OWNER = 2; // rank and index
constexpr int STATE = 6; // position and velocity

const std::vector<std::string> KEYWORDS = {"device", "precision", "kernels",    "threads",
                                           "energy", "conserve",  "reversible", "restart",
                                           "guard",  "limit",     "factor"};

double distance_squared(const double *a, const double *b) {
  const double x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
  return x * x + y * y + z * z;
}

// LAMMPS replaces such letters, or parts of them, before a command sees them.
bool is_ascii(const std::string &text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x80; });
}

bool is_keyword(const std::string &word) {
  return std::find(KEYWORDS.begin(), KEYWORDS.end(), word) != KEYWORDS.end();
}
} // namespace

/* ---------------------------------------------------------------------- */

FixPythonTrajcast::FixPythonTrajcast(LAMMPS *lmp, int narg, char **arg)
    : Fix(lmp, narg, arg), message_text(4096, '\0'), snapshot(lmp) {
  time_integrate = 1;
  dynamic_group_allow = 1;
  scalar_flag = 1;
  extscalar = 1;
  vector_flag = 1;
  size_vector = 15;
  extvector = 0;
  global_freq = 1;
  restart_global = 1;
  comm_forward = STATE;
  maxexchange = trajcast::Snapshot::MAX_EXCHANGE;
  message = {message_text.data(), static_cast<int64_t>(message_text.size())};

  parse(narg, arg);
  if (conserve_energy && references.empty())
    fail("'conserve yes' needs a potential whose energy is kept: write 'energy PAIR conserve yes' "
         "with PAIR a sub-style of pair_style hybrid/overlay");

  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    fail(fmt::format("units {} are not supported: write 'units metal' or 'units real'", units));
  if (domain->dimension != 3)
    fail("two-dimensional systems are not supported: write 'dimension 3'");
  if (!atom->tag_enable)
    fail("atom IDs are needed: write 'atom_modify id yes' before the box is created");

  open_model();
  if (conserve_energy)
    constant_energy = std::make_unique<trajcast::ConstantEnergy>(
        lmp, groupbit, std::string(id) + "_potential_energy");
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
    if (rescue)
      rescue->find(cutoff);
  }
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
  if (!is_ascii(model_path))
    fail("the path of the model holds letters beyond ASCII, which LAMMPS commands change: rename "
         "the file or its directory, or make a symbolic link to it, with plain letters");

  int iarg = 4;
  while (iarg < narg && !is_keyword(arg[iarg]))
    elements.push_back(arg[iarg++]);
  if (static_cast<int>(elements.size()) != atom->ntypes)
    fail(fmt::format("{} elements are given for {} atom types: write one chemical symbol for each "
                     "atom type, in the order of the types, and keywords after them",
                     elements.size(), atom->ntypes));

  while (iarg < narg) {
    const std::string keyword = arg[iarg];
    if (!is_keyword(keyword))
      fail(fmt::format("unknown keyword '{}': write one of {}", keyword,
                       utils::join_words(KEYWORDS, ", ")));
    if (iarg + 1 == narg)
      fail(fmt::format("keyword '{}' has no value: write one after it", keyword));
    const std::string value = arg[iarg + 1];
    if (keyword == "guard") {
      iarg = parse_guard(narg, arg, iarg + 1);
      continue;
    }
    if (keyword == "limit" || keyword == "factor") {
      iarg = parse_limits(narg, arg, iarg);
      continue;
    }
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
    } else if (keyword == "energy") {
      references.emplace_back(lmp, value);
    } else if (keyword == "conserve") {
      if (value != "yes" && value != "no")
        fail(fmt::format("'conserve {}' is unknown: write 'conserve yes' or 'conserve no'", value));
      conserve_energy = value == "yes";
    } else if (keyword == "reversible") {
      if (value != "yes" && value != "no")
        fail(fmt::format("'reversible {}' is unknown: write 'reversible yes' or 'reversible no'",
                         value));
      reversible = value == "yes";
      force_reneighbor = reversible; // see rebuild_before_it_is_late()
    } else if (keyword == "restart") {
      any_model = value == "allow";
      if (value != "check" && value != "allow")
        fail(fmt::format("'restart {}' is unknown: write 'restart check' or 'restart allow'",
                         value));
    } else {
      threads = utils::is_integer(value) && value.size() < 6 ? std::atoi(value.c_str()) : 0;
      if (threads < 1)
        fail(fmt::format("'{}' is no number of threads: write 'threads N' with N at least 1",
                         value));
    }
    iarg += 2;
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::open_model() {
  const trajcast::NodePlace place = trajcast::node_place(world);
  if (threads == 0)
    threads = comm->nthreads > 1 || std::getenv("OMP_NUM_THREADS") ? comm->nthreads : place.cores;

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
  config.num_ranks = comm->nprocs;
  config.node_rank = place.rank;
  config.node_ranks = place.ranks;
#ifndef MPI_STUBS
  char library[MPI_MAX_LIBRARY_VERSION_STRING];
  int length;
  MPI_Get_library_version(library, &length);
  config.communicator = MPI_Comm_c2f(world);
  config.mpi_function = reinterpret_cast<int64_t>(&PMPI_Comm_rank);
  config.mpi_library = library;
#endif
  trajcast::Limits training(atom->ntypes);
  trajcast_model_info info = {};
  info.masses = model_masses.data();
  info.max_displacements = training.displacements.data();
  info.max_speeds = training.speeds.data();
  info.min_distances = training.distances.data();
  info.max_isolations = training.isolations.data();

  const bool failed = bridge->open(&config, &model, &info, &message) != TRAJCAST_OK;
  fail_if_any(failed, message.text);
  model_timestep = info.timestep;
  cutoff = info.cutoff;
  fingerprint = info.fingerprint;
  check_agreement(info);
  if (reversible && info.conserves_angular_momentum)
    fail("'reversible yes' does not keep the angular momentum, which this model of isolated "
         "molecules does: write 'reversible no'");
  set_limits(info, training);
}

/* ----------------------------------------------------------------------
   each rank reads the file where it runs
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_agreement(const trajcast_model_info &info) {
  std::string first = fingerprint;
  MPI_Bcast(&first[0], static_cast<int>(first.size()), MPI_CHAR, 0, world);
  int mine[2] = {first != fingerprint, info.shares_device};
  int any[2];
  MPI_Allreduce(mine, any, 2, MPI_INT, MPI_MAX, world);
  if (any[0])
    fail(fmt::format("the model file {} is not the same on all MPI ranks: copy one and the same "
                     "file to every machine",
                     model_path));
  if (any[1] && comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast: several MPI ranks share a GPU: start as many ranks on "
                   "each machine as it has GPUs",
                   id);
}

/* ---------------------------------------------------------------------- */

int FixPythonTrajcast::setmask() {
  return INITIAL_INTEGRATE | POST_NEIGHBOR | PRE_FORCE | PRE_REVERSE | POST_FORCE | FINAL_INTEGRATE;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init() {
  list_is_current = false;
  forces_are_due = false;
  // Other commands initialise LAMMPS too, in states that only a run has to forbid.
  const bool is_rerun = std::strcmp(input->command, "rerun") == 0;
  moves_atoms = update->whichflag == 1 && !is_rerun;
  if (moves_atoms)
    prepare_run();

  // A request that LAMMPS has not taken would outlive this fix: none is made before the last error,
  // nor by a rerun, which comes here for each state that it reads, but takes requests only once.
  if (!is_rerun)
    neighbor->add_request(this, NeighConst::REQ_FULL);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::init_list(int /*id*/, NeighList *given) { list = given; }

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup_post_neighbor() {
  if (moves_atoms)
    post_neighbor();
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::setup(int vflag) {
  if (!moves_atoms) // a rerun, which may want to know the forces
    return;
  check_start();
  post_force(vflag);
  if (constant_energy)
    constant_energy->setup();
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
  add_impulse();
  gather_frame();
  predict(true);
  if (verdict.refused)
    explain_refusal();
  const std::string problem = objection();
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

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::gather_frame() {
  if (comm->nprocs > 1)
    share_states();

  const double start = MPI_Wtime();
  const int nlocal = atom->nlocal;
  const int ncandidates = static_cast<int>(candidate_ghost.size());
  node_positions.resize(3 * (nlocal + ncandidates));
  for (int i = 0; i < nlocal; i++)
    std::copy_n(atom->x[i], 3, &node_positions[3 * i]);
  for (int r = 0; r < ncandidates; r++)
    std::copy_n(&forwarded[STATE * (nlocal + candidate_ghost[r])], 3,
                &node_positions[3 * (nlocal + r)]);
  edges.update(node_positions.data(), cell(), cutoff);

  const int nnodes = nlocal + static_cast<int>(edges.remote.size());
  types.resize(nnodes);
  moved.resize(nnodes);
  velocities.resize(3 * nnodes);
  masses.resize(nlocal);
  unwrapped.resize(3 * nlocal);
  for (int i = 0; i < nlocal; i++) {
    types[i] = atom->type[i];
    moved[i] = is_moved(i);
    masses[i] = mass_of(i);
    domain->unmap(atom->x[i], atom->image[i], &unwrapped[3 * i]);
    std::copy_n(atom->v[i], 3, &velocities[3 * i]);
  }
  for (int n = nlocal; n < nnodes; n++) {
    const int j = nlocal + candidate_ghost[edges.remote[n - nlocal]];
    types[n] = atom->type[j];
    moved[n] = is_moved(j);
    std::copy_n(&forwarded[STATE * j + 3], 3, &velocities[3 * n]);
  }
  graph_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   position and velocity of each ghost atom's owner, as they are now. LAMMPS has sent positions when
   the last step moved the atoms, but a fix may have changed them, or the box, since.
------------------------------------------------------------------------- */

void FixPythonTrajcast::share_states() {
  forwarded.resize(STATE * (atom->nlocal + atom->nghost));
  for (int i = 0; i < atom->nlocal; i++) {
    std::copy_n(atom->x[i], 3, &forwarded[STATE * i]);
    std::copy_n(atom->v[i], 3, &forwarded[STATE * i + 3]);
  }
  forward(STATE);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::forward(int width) {
  const double start = MPI_Wtime();
  forwarded_width = width;
  comm->forward_comm(this, width);
  forward_seconds += MPI_Wtime() - start;
}

/* ---------------------------------------------------------------------- */

int FixPythonTrajcast::pack_forward_comm(int n, int *sent, double *buffer, int /*pbc_flag*/,
                                         int * /*pbc*/) {
  double *end = buffer;
  for (int k = 0; k < n; k++)
    end = std::copy_n(&forwarded[forwarded_width * sent[k]], forwarded_width, end);
  return static_cast<int>(end - buffer);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::unpack_forward_comm(int n, int first, double *buffer) {
  std::copy_n(buffer, forwarded_width * n, &forwarded[forwarded_width * first]);
}

/* ----------------------------------------------------------------------
   the network's prediction for own atoms, and what all ranks have to say of it, in one reduction;
   judge: compare it with the limits
------------------------------------------------------------------------- */

void FixPythonTrajcast::predict(bool judge) {
  last = {};
  verdict = {};
  guard_sums = {};
  reduction_seconds = 0.0;
  if (atom->natoms == 0)
    return;

  trajcast_frame frame = {};
  frame.num_atoms = atom->nlocal;
  frame.num_remote = static_cast<int64_t>(edges.remote.size());
  frame.remote = edges.remote.data();
  frame.types = types.data();
  frame.positions = unwrapped.data();
  frame.velocities = velocities.data();
  frame.masses = masses.data();
  frame.num_edges = edges.size();
  frame.first_edge = edges.first_edge.data();
  frame.senders = edges.senders.data();
  frame.edge_vectors = edges.vectors.data();
  frame.num_interior = static_cast<int64_t>(edges.interior.size());
  frame.interior = edges.interior.data();
  frame.num_boundary = static_cast<int64_t>(edges.boundary.size());
  frame.boundary = edges.boundary.data();
  judge &= guard != nullptr;
  frame.remote_rows = comm->nprocs > 1 && judge && guard->needs_remote();

  rows.resize(TRAJCAST_ROW * (frame.num_atoms + (frame.remote_rows ? frame.num_remote : 0)));
  last.rows = rows.data();
  message.text[0] = '\0';
  const int status = bridge->predict(model, &frame, &last, &message);
  if (status == TRAJCAST_LOST)
    lose(message.text);
  const bool failed = status != TRAJCAST_OK;

  // What conserve() needs, what the guard needs, and four counts.
  enum { FAILED = TRAJCAST_MAX_SUMS + trajcast::GuardSums::SIZE, REFUSED, UNMOVED, BROKEN, SIZE };
  double sums[SIZE] = {};
  double *guarded = sums + TRAJCAST_MAX_SUMS;
  sums[FAILED] = failed;
  if (!failed) {
    std::copy_n(last.sums, last.num_sums, sums);
    verdict.broken_atom = first_broken_atom();
    if (judge && verdict.broken_atom < 0)
      guard->check(frame, moved, rows.data(), guarded);
    sums[REFUSED] = find_refusal();
    sums[UNMOVED] = std::count(moved.begin(), moved.begin() + atom->nlocal, 0);
    sums[BROKEN] = verdict.broken_atom >= 0;
  }
  sum_over_ranks(sums, SIZE);
  if (sums[FAILED] > 0.0)
    fail_if_any(failed, message.text);

  std::copy_n(sums, last.num_sums, last.sums);
  guard_sums = trajcast::GuardSums(guarded);
  verdict.refused = sums[REFUSED] > 0.0;
  verdict.moves_all = sums[UNMOVED] == 0.0;
  verdict.broken = sums[BROKEN] > 0.0;
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
  if (comm->nprocs == 1)
    return;
  const double start = MPI_Wtime();
  MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, world);
  reduction_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   only if the prediction moves all atoms: what others move has a momentum of its own
------------------------------------------------------------------------- */

void FixPythonTrajcast::conserve_momentum() {
  if (!verdict.moves_all || verdict.broken)
    return;
  while (last.num_sums > 0) {
    if (bridge->conserve(model, &last, &message) != TRAJCAST_OK)
      lose(message.text);
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
   atoms were sorted anew: find out which atom, and which lattice shift, each neighbour is
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_neighbor() {
  list_is_current = true;
  neighbors_are_hidden = hides_neighbors();
  const double start = MPI_Wtime() - forward_seconds;
  find_owners();
  list_remote_atoms();

  const int nlocal = atom->nlocal;
  edges.clear(nlocal, static_cast<int>(candidate_ghost.size()));
  for (int i = 0; i < nlocal; i++) {
    edges.begin_receiver();
    for (int k = 0; k < list->numneigh[i]; k++) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      if (!may_become_edge(i, j))
        continue;
      const int ghost = j - nlocal;
      if (ghost < 0)
        edges.add_candidate(j, {0, 0, 0});
      else if (ghost_candidate[ghost] < 0)
        edges.add_candidate(owner_index[ghost], ghost_shift[ghost]);
      else
        edges.add_candidate(nlocal + ghost_candidate[ghost], ghost_shift[ghost]);
    }
  }
  graph_seconds += MPI_Wtime() - forward_seconds - start;
}

/* ----------------------------------------------------------------------
   a ghost atom is the image of an atom that its owner knows by another index
------------------------------------------------------------------------- */

void FixPythonTrajcast::find_owners() {
  const int nlocal = atom->nlocal;
  const int nghost = atom->nghost;
  forwarded.resize(OWNER * (nlocal + nghost));
  for (int i = 0; i < nlocal; i++) {
    forwarded[OWNER * i] = comm->me;
    forwarded[OWNER * i + 1] = i;
  }
  forward(OWNER);
  owner_rank.resize(nghost);
  owner_index.resize(nghost);
  for (int g = 0; g < nghost; g++) {
    owner_rank[g] = static_cast<int>(forwarded[OWNER * (nlocal + g)]);
    owner_index[g] = static_cast<int>(forwarded[OWNER * (nlocal + g) + 1]);
  }

  share_states();
  const trajcast::Cell box = cell();
  ghost_shift.resize(nghost);
  for (int g = 0; g < nghost; g++) {
    const double *image = atom->x[nlocal + g];
    const double *owner = &forwarded[STATE * (nlocal + g)];
    const double lattice[3] = {image[0] - owner[0], image[1] - owner[1], image[2] - owner[2]};
    ghost_shift[g] = box.nearest(lattice);
  }
}

/* ----------------------------------------------------------------------
   number the distinct atoms of other ranks that the neighbour list refers to, and tell their owners
------------------------------------------------------------------------- */

void FixPythonTrajcast::list_remote_atoms() {
  ghost_candidate.assign(atom->nghost, -1);
  candidate_ranks.clear();
  candidate_indices.clear();
  candidate_ghost.clear();
  if (comm->nprocs == 1)
    return;

  const int nlocal = atom->nlocal;
  std::vector<int> seen; // ghosts of other ranks, each once
  for (int i = 0; i < nlocal; i++)
    for (int k = 0; k < list->numneigh[i]; k++) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      const int ghost = j - nlocal;
      if (ghost < 0 || owner_rank[ghost] == comm->me || ghost_candidate[ghost] == 0 ||
          !may_become_edge(i, j))
        continue;
      ghost_candidate[ghost] = 0;
      seen.push_back(ghost);
    }
  std::sort(seen.begin(), seen.end(), [this](int a, int b) {
    return std::make_pair(owner_rank[a], owner_index[a]) <
           std::make_pair(owner_rank[b], owner_index[b]);
  });

  for (const int ghost : seen) {
    const bool known = !candidate_ghost.empty() && candidate_ranks.back() == owner_rank[ghost] &&
                       candidate_indices.back() == owner_index[ghost];
    if (!known) {
      candidate_ranks.push_back(owner_rank[ghost]);
      candidate_indices.push_back(owner_index[ghost]);
      candidate_ghost.push_back(ghost);
    }
    ghost_candidate[ghost] = static_cast<int>(candidate_ghost.size()) - 1;
  }

  state_bytes = 0;
  for (const int rank : owner_rank)
    if (rank != comm->me)
      state_bytes += STATE * sizeof(double);

  const trajcast_halo halo = {static_cast<int64_t>(candidate_ranks.size()), candidate_ranks.data(),
                              candidate_indices.data()};
  const double start = MPI_Wtime();
  if (bridge->plan(model, &halo, &message) != TRAJCAST_OK)
    lose(message.text);
  forward_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   LAMMPS's list reaches as far as the longest cutoff of the pair style, which may be that of a
   reference potential; pairs that cannot come within the model's before the next rebuild are left
   out of the candidates once, and not looked at in each step
------------------------------------------------------------------------- */

bool FixPythonTrajcast::may_become_edge(int i, int j) const {
  const double reach = cutoff + neighbor->skin;
  return neighbor_list_may_be_late() || !(distance_squared(atom->x[i], atom->x[j]) > reach * reach);
}

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
   ask for the energy only afterwards. They are due then, and not once they have finished.
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
  if (rescue)
    rescue->switch_to(on);
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
  const std::string problem = constant_energy->end_step();
  if (!problem.empty() && !snapshot.taken())
    fail(problem);
}

/* ----------------------------------------------------------------------
   after a run that a guard has stopped: what other fixes did in its last step is undone
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_run() {
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

// Edges in the last prediction, on all ranks.
double FixPythonTrajcast::compute_scalar() {
  double mine = static_cast<double>(edges.size());
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
  const auto nremote = static_cast<double>(edges.remote.size());
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
      {static_cast<double>(num_objections), MPI_MAX},
      {static_cast<double>(num_rescues), MPI_MAX},
      {defect, MPI_MAX},
      {static_cast<double>(num_plain_steps), MPI_MAX},
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

/* ----------------------------------------------------------------------
   stop on all ranks; to be called by all of them
------------------------------------------------------------------------- */

void FixPythonTrajcast::fail(const std::string &reason) {
  const bool complete = utils::strmatch(reason, "^Fix python/trajcast");
  error->all(FLERR, complete ? reason : fmt::format("Fix {} python/trajcast: {}", id, reason));
}

/* ----------------------------------------------------------------------
   stop the job from one rank, which the others may be waiting for
------------------------------------------------------------------------- */

void FixPythonTrajcast::lose(const std::string &reason) {
  if (comm->nprocs == 1)
    fail(reason);
  // The message is written, the exception leaves this function, and main() aborts: a launcher that
  // kills at once may drop what was written last.
  const struct Pause {
    ~Pause() { std::this_thread::sleep_for(std::chrono::milliseconds(500)); }
  } pause;
  error->one(FLERR, fmt::format("Fix {} python/trajcast: {}", id, reason));
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

  fail(from_rank(lowest, reason));
}

/* ---------------------------------------------------------------------- */

// The text that this rank has, on all ranks.
std::string FixPythonTrajcast::from_rank(int rank, const std::string &text) {
  int length = static_cast<int>(text.size());
  MPI_Bcast(&length, 1, MPI_INT, rank, world);
  std::string said = text;
  said.resize(length);
  MPI_Bcast(&said[0], length, MPI_CHAR, rank, world);
  return said;
}

/* ---------------------------------------------------------------------- */

extern "C" void *trajcast_create_fix(void *lammps, int narg, char **arg) {
  return new FixPythonTrajcast(static_cast<LAMMPS *>(lammps), narg, arg);
}
