// SPDX-License-Identifier: GPL-2.0-or-later

#include "pair_python_ase.h"

#include "launcher.h"
#include "quiet_wait.h"

#include "atom.h"
#include "comm.h"
#include "compute.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "group.h"
#include "library.h"
#include "memory.h"
#include "modify.h"
#include "neighbor.h"
#include "update.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <numeric>

using namespace LAMMPS_NS;

namespace {
// The calculator finds its neighbors itself. LAMMPS needs some cutoff for its ghost atoms.
constexpr double CUTOFF = 1.0;
constexpr int VIRIAL = 6;
enum { EVALUATIONS, SECONDS, NUM_EXTRA };

std::vector<const char *> pointers(const std::vector<std::string> &texts) {
  std::vector<const char *> found;
  for (const auto &text : texts)
    found.push_back(text.c_str());
  return found;
}
} // namespace

/* ---------------------------------------------------------------------- */

PairPythonASE::PairPythonASE(LAMMPS *lmp) : Pair(lmp), message_text(4096, '\0') {
  trajcast::check_launcher(lmp, "Pair style python/ase");
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  unit_convert_flag = utils::get_supported_conversions(utils::ENERGY);
  nextra = NUM_EXTRA;
  pvector = new double[NUM_EXTRA]();
  message = {message_text.data(), static_cast<int64_t>(message_text.size())};
}

/* ---------------------------------------------------------------------- */

PairPythonASE::~PairPythonASE() {
  close_calculator();
  delete[] pvector;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

/* ----------------------------------------------------------------------
   pair_style python/ase MODULE:CALLABLE key value ...
------------------------------------------------------------------------- */

void PairPythonASE::settings(int narg, char **arg) {
  if (narg < 1)
    fail(
        "no calculator is given: write 'pair_style python/ase MODULE:CALLABLE key value ...', e.g. "
        "'pair_style python/ase ase.calculators.emt:EMT'");
  if (narg % 2 == 0)
    fail(fmt::format("keyword '{}' has no value: write one after it", arg[narg - 1]));
  const std::vector<std::string> given(arg, arg + narg);
  // A script that is read again says the same: the calculator, which may have taken minutes to
  // make, stays.
  if (given == words)
    return;
  words = given;
  open_calculator();
}

/* ---------------------------------------------------------------------- */

void PairPythonASE::open_calculator() {
  close_calculator();
  bool failed = false;
  if (comm->me == 0) {
    std::string problem;
    bridge = trajcast::start_calculators(problem);
    failed = bridge == nullptr;
    if (failed)
      snprintf(message.text, message.capacity, "%s", problem.c_str());
  }
  if (comm->me == 0 && !failed) {
    const std::vector<std::string> directories = script_directories();
    std::vector<const char *> keys, values;
    for (std::size_t k = 1; k < words.size(); k += 2) {
      keys.push_back(words[k].c_str());
      values.push_back(words[k + 1].c_str());
    }
    const auto places = pointers(directories);
    trajcast_calculator_config config = {};
    config.callable = words[0].c_str();
    config.num_options = static_cast<int64_t>(keys.size());
    config.keys = keys.data();
    config.values = values.data();
    config.num_directories = static_cast<int64_t>(places.size());
    config.directories = places.data();
    config.num_ranks = comm->nprocs;
    failed = bridge->calculator_open(&config, &calculator, &message) != TRAJCAST_OK;
  }
  if (failed)
    calculator = 0;
  failed = failed_on_rank_0(failed);
  if (failed)
    words.clear();
  share_failure(failed);
}

/* ---------------------------------------------------------------------- */

void PairPythonASE::close_calculator() {
  // LAMMPS may outlive the Python that it was started from.
  if (calculator && trajcast::python_is_running())
    bridge->calculator_close(calculator, &message);
  calculator = 0;
}

/* ----------------------------------------------------------------------
   where modules are looked for, on rank 0: the directory of the input script, or of the file that
   it includes and that has this command, and the current one
------------------------------------------------------------------------- */

std::vector<std::string> PairPythonASE::script_directories() const {
  std::vector<std::string> found;
  char path[PATH_MAX];
  if (infile && infile != stdin) {
    const std::string link = fmt::format("/proc/self/fd/{}", fileno(infile));
    const ssize_t length = readlink(link.c_str(), path, sizeof(path));
    const std::string file(path, length > 0 ? length : 0);
    if (!file.empty() && file[0] == '/' && file.rfind('/') > 0)
      found.push_back(file.substr(0, file.rfind('/')));
  }
  if (getcwd(path, sizeof(path)))
    found.emplace_back(path);
  return found;
}

/* ----------------------------------------------------------------------
   pair_coeff * * El1 El2 ...
------------------------------------------------------------------------- */

void PairPythonASE::coeff(int narg, char **arg) {
  const int ntypes = atom->ntypes;
  if (narg < 2 || std::strcmp(arg[0], "*") != 0 || std::strcmp(arg[1], "*") != 0)
    fail("the calculator is for all pairs of atoms: write 'pair_coeff * * El1 El2 ...'");
  if (narg - 2 != ntypes)
    fail(fmt::format("{} chemical symbol{} given for {} atom type{}: write 'pair_coeff * * El1 El2 "
                     "...' with one symbol, or NULL, for each atom type, in the order of the types",
                     narg - 2, narg == 3 ? "" : "s", ntypes, ntypes == 1 ? "" : "s"));
  check_system();
  check_calculator();

  elements.assign(arg + 2, arg + narg);
  numbers.assign(ntypes, 0);
  const auto symbols = pointers(elements);
  const bool failed =
      comm->me == 0 &&
      bridge->atomic_numbers(ntypes, symbols.data(), numbers.data(), &message) != TRAJCAST_OK;
  share_failure(failed_on_rank_0(failed));
  MPI_Bcast(numbers.data(), ntypes * static_cast<int>(sizeof(int32_t)), MPI_BYTE, 0, world);

  allocate();
  for (int i = 1; i <= ntypes; i++)
    for (int j = i; j <= ntypes; j++)
      setflag[i][j] = numbers[i - 1] > 0 && numbers[j - 1] > 0;
}

/* ---------------------------------------------------------------------- */

void PairPythonASE::allocate() {
  if (allocated)
    return;
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  for (int i = 0; i < n; i++)
    std::fill_n(setflag[i], n, 0);
}

/* ---------------------------------------------------------------------- */

void PairPythonASE::check_system() {
  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    fail(fmt::format("units {} are not supported: write 'units metal' or 'units real'", units));
  if (domain->dimension != 3)
    fail("two-dimensional systems are not supported: write 'dimension 3'");
  if (!atom->tag_enable)
    fail("atom IDs are needed: write 'atom_modify id yes' before the box is created");
  energy_in_units =
      units == "metal" ? 1.0 : utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
}

/* ---------------------------------------------------------------------- */

void PairPythonASE::init_style() {
  check_system();
  check_calculator();
  check_exclusions();
}

/* ----------------------------------------------------------------------
   a program may go on after an error of the pair_style command
------------------------------------------------------------------------- */

void PairPythonASE::check_calculator() {
  if (words.empty())
    fail("there is no calculator, the command pair_style has failed: write it again");
}

/* ----------------------------------------------------------------------
   A calculator knows no pairs. Atoms that are excluded from all others, as those that fix gcmc
   hides while it tries a move, are left out of the system.
------------------------------------------------------------------------- */

void PairPythonASE::check_exclusions() {
  left_out = 0;
  bool partly = neighbor->nex_type || neighbor->nex_mol;
  for (int k = 0; k < neighbor->nex_group; k++) {
    const int one = neighbor->ex1_group[k], other = neighbor->ex2_group[k];
    if (other == 0)
      left_out |= group->bitmask[one];
    else if (one == 0)
      left_out |= group->bitmask[other];
    else
      partly = true;
  }
  if (partly || (left_out & 1))
    fail("the calculator computes all atoms together, so 'neigh_modify exclude' cannot leave out "
         "pairs of them: write 'neigh_modify exclude none'");
}

/* ---------------------------------------------------------------------- */

double PairPythonASE::init_one(int /*i*/, int /*j*/) { return CUTOFF; }

/* ---------------------------------------------------------------------- */

void PairPythonASE::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  width = 3 + (eflag_atom ? 1 : 0) + (vflag_atom ? VIRIAL : 0);
  gather();
  const bool failed = comm->me == 0 && !calculate();
  share_failure(failed_on_rank_0(failed));
  scatter();
}

/* ---------------------------------------------------------------------- */

bool PairPythonASE::takes_part(int i) const {
  return numbers[atom->type[i] - 1] > 0 && !(atom->mask[i] & left_out);
}

/* ----------------------------------------------------------------------
   the atoms of all ranks, on rank 0
------------------------------------------------------------------------- */

void PairPythonASE::gather() {
  mine.clear();
  local.clear();
  for (int i = 0; i < atom->nlocal; i++) {
    if (!takes_part(i))
      continue;
    Row row = {};
    row.id = atom->tag[i];
    row.type = atom->type[i];
    for (int k = 0; k < 3; k++)
      row.position[k] = atom->x[i][k] - domain->boxlo[k];
    mine.push_back(row);
    local.push_back(i);
  }

  const int nprocs = comm->nprocs;
  const int size = sizeof(Row);
  int count = static_cast<int>(mine.size());
  counts.assign(nprocs, count);
  firsts.assign(nprocs, 0);
  if (nprocs == 1) {
    rows = mine;
    return;
  }
  MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, world);
  std::vector<int> bytes(nprocs), starts(nprocs);
  if (comm->me == 0) {
    std::partial_sum(counts.begin(), counts.end() - 1, firsts.begin() + 1);
    rows.resize(firsts.back() + counts.back());
    for (int r = 0; r < nprocs; r++) {
      bytes[r] = size * counts[r];
      starts[r] = size * firsts[r];
    }
  }
  MPI_Gatherv(mine.data(), size * count, MPI_BYTE, rows.data(), bytes.data(), starts.data(),
              MPI_BYTE, 0, world);
}

/* ----------------------------------------------------------------------
   on rank 0: results of all atoms, in the order of rows. Returns whether it went well, else the
   message says what is wrong.
------------------------------------------------------------------------- */

bool PairPythonASE::calculate() {
  const int natoms = static_cast<int>(rows.size());
  all_results.assign(static_cast<std::size_t>(width) * natoms, 0.0);
  if (natoms == 0)
    return true;

  // Results then do not depend on the number of ranks, not even by rounding.
  order.resize(natoms);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [this](int a, int b) { return rows[a].id < rows[b].id; });
  ids.resize(natoms);
  species.resize(natoms);
  positions.resize(3 * natoms);
  forces.resize(3 * natoms);
  energies.resize(natoms);
  virials.resize(VIRIAL * natoms);
  for (int n = 0; n < natoms; n++) {
    const Row &row = rows[order[n]];
    ids[n] = row.id;
    species[n] = numbers[row.type - 1];
    std::copy_n(row.position, 3, &positions[3 * n]);
  }

  trajcast_atoms system = {};
  system.num_atoms = natoms;
  system.ids = ids.data();
  system.numbers = species.data();
  system.positions = positions.data();
  const double *h = domain->h; // xx, yy, zz, yz, xz, xy
  const double cell[9] = {h[0], 0.0, 0.0, h[5], h[1], 0.0, h[4], h[3], h[2]};
  std::copy_n(cell, 9, system.cell);
  std::copy_n(domain->periodicity, 3, system.periodic);

  trajcast_calculation calculation = {};
  const bool looked_at = missing_virial_was_used();
  calculation.wants_virial = looked_at ? 2 : vflag_either ? (virial_is_needed() ? 2 : 1) : 0;
  calculation.wants_atom_virials = vflag_atom != 0;
  calculation.forces = forces.data();
  calculation.atom_energies = eflag_atom ? energies.data() : nullptr;
  calculation.atom_virials = virials.data();
  const double start = MPI_Wtime();
  if (bridge->calculate(calculator, &system, &calculation, &message) != TRAJCAST_OK)
    return false;
  pvector[EVALUATIONS] = static_cast<double>(calculation.evaluations);
  pvector[SECONDS] = MPI_Wtime() - start;

  missing_virial = vflag_either && std::isnan(calculation.virial[0]) ? update->ntimestep : -1;

  if (eflag_global)
    eng_vdwl = energy_in_units * calculation.energy;
  for (int k = 0; vflag_global && k < VIRIAL; k++)
    virial[k] = energy_in_units * calculation.virial[k];
  for (int n = 0; n < natoms; n++) {
    double *result = &all_results[static_cast<std::size_t>(width) * order[n]];
    result = std::copy_n(&forces[3 * n], 3, result);
    if (eflag_atom)
      *result++ = energies[n];
    if (vflag_atom)
      std::copy_n(&virials[VIRIAL * n], VIRIAL, result);
  }
  return true;
}

/* ----------------------------------------------------------------------
   Whether it is an error if there is no virial. LAMMPS asks for it in the first step of each run
   and in those of dumps, for whoever might look at it: that it is not a number is an error as
   soon as somebody has.
------------------------------------------------------------------------- */

bool PairPythonASE::virial_is_needed() const {
  static const std::vector<std::string> columns = {"press", "pxx", "pyy", "pzz",
                                                   "pxy",   "pxz", "pyz", "enthalpy"};
  if (vflag_atom)
    return true;
  if (update->ntimestep != update->firststep)
    return false;
  const auto *count = static_cast<int *>(lammps_last_thermo(lmp, "num", 0));
  for (int k = 0; count && k < *count; k++) {
    const auto *name = static_cast<const char *>(lammps_last_thermo(lmp, "keyword", k));
    if (name && std::find(columns.begin(), columns.end(), utils::lowercase(name)) != columns.end())
      return true;
  }
  return false;
}

/* ---------------------------------------------------------------------- */

bool PairPythonASE::missing_virial_was_used() const {
  const auto &computes = modify->get_compute_list();
  return missing_virial >= 0 &&
         std::any_of(computes.begin(), computes.end(), [this](const Compute *compute) {
           // `lammps-trajcast record` stores no virial where there is none.
           return compute->pressflag && strcmp(compute->id, "trajcast_record_virial") != 0 &&
                  (compute->invoked_scalar == missing_virial ||
                   compute->invoked_vector == missing_virial);
         });
}

/* ----------------------------------------------------------------------
   to each rank the results of its atoms
------------------------------------------------------------------------- */

void PairPythonASE::scatter() {
  const int nprocs = comm->nprocs;
  const int count = width * static_cast<int>(mine.size());
  if (nprocs == 1) {
    results.swap(all_results);
  } else {
    results.resize(count);
    std::vector<int> sizes(nprocs), starts(nprocs);
    for (int r = 0; r < nprocs; r++) {
      sizes[r] = width * counts[r];
      starts[r] = width * firsts[r];
    }
    MPI_Scatterv(all_results.data(), sizes.data(), starts.data(), MPI_DOUBLE, results.data(), count,
                 MPI_DOUBLE, 0, world);
  }

  for (std::size_t n = 0; n < local.size(); n++) {
    const int i = local[n];
    const double *result = &results[width * n];
    for (int k = 0; k < 3; k++)
      atom->f[i][k] += energy_in_units * *result++;
    if (eflag_atom)
      eatom[i] += energy_in_units * *result++;
    for (int k = 0; vflag_atom && k < VIRIAL; k++)
      vatom[i][k] += energy_in_units * *result++;
  }
}

/* ---------------------------------------------------------------------- */

double PairPythonASE::memory_usage() {
  const double per_row = sizeof(Row) + sizeof(double) * width;
  return Pair::memory_usage() + per_row * (mine.capacity() + rows.capacity()) +
         sizeof(double) * (positions.capacity() + forces.capacity() + virials.capacity());
}

/* ----------------------------------------------------------------------
   whether rank 0 has failed, on all ranks, which sleep until it knows
------------------------------------------------------------------------- */

bool PairPythonASE::failed_on_rank_0(bool failed) {
  int status = failed;
  if (comm->nprocs > 1)
    trajcast::broadcast_quietly(&status, sizeof(int), world);
  return status != 0;
}

/* ----------------------------------------------------------------------
   stop on all ranks, which agree on whether to, with the message that rank 0 has
------------------------------------------------------------------------- */

void PairPythonASE::share_failure(bool failed) {
  if (!failed)
    return;
  int length = static_cast<int>(std::strlen(message.text));
  MPI_Bcast(&length, 1, MPI_INT, 0, world);
  MPI_Bcast(message.text, length, MPI_CHAR, 0, world);
  message.text[length] = '\0';
  fail(message.text);
}

/* ----------------------------------------------------------------------
   stop on all ranks; to be called by all of them
------------------------------------------------------------------------- */

void PairPythonASE::fail(const std::string &reason) {
  const bool complete = utils::strmatch(reason, "^Pair style python/ase");
  error->all(FLERR, complete ? reason : "Pair style python/ase: " + reason);
}

/* ---------------------------------------------------------------------- */

extern "C" void *trajcast_create_pair(void *lammps) {
  return new PairPythonASE(static_cast<LAMMPS *>(lammps));
}
