// SPDX-License-Identifier: GPL-2.0-or-later

// What the input script and the model say.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "update.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

using namespace LAMMPS_NS;

namespace {
const std::vector<std::string> KEYWORDS = {"device", "precision", "kernels",    "threads",
                                           "energy", "conserve",  "reversible", "restart",
                                           "guard",  "limit",     "factor"};

// LAMMPS replaces such letters, or parts of them, before a command sees them.
bool is_ascii(const std::string &text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x80; });
}

bool is_keyword(const std::string &word) {
  return std::find(KEYWORDS.begin(), KEYWORDS.end(), word) != KEYWORDS.end();
}

bool may_be_element(const std::string &word) {
  return word.size() <= 2 && std::isupper(static_cast<unsigned char>(word[0])) &&
         (word.size() == 1 || std::islower(static_cast<unsigned char>(word[1])));
}

std::string counted(std::size_t number, const std::string &what) {
  return fmt::format("{} {}{}", number, what, number == 1 ? "" : "s");
}
} // namespace

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
  const auto ntypes = static_cast<std::size_t>(atom->ntypes);
  // More words than types, the next of which is no symbol: a keyword with a typo.
  if (elements.size() > ntypes && !may_be_element(elements[ntypes]))
    fail(fmt::format("unknown keyword '{}': write one of {}", elements[ntypes],
                     utils::join_words(KEYWORDS, ", ")));
  if (elements.size() != ntypes)
    fail(fmt::format("{} given for {}: write one chemical symbol for each atom type, in the order "
                     "of the types, and keywords after them",
                     counted(elements.size(), "element"), counted(ntypes, "atom type")));

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
      if (value != "model" && value != "single" && value != "double" && value != "tf32")
        fail(fmt::format("unknown precision '{}': write 'precision model', 'precision single', "
                         "'precision double' or 'precision tf32'",
                         value));
    } else if (keyword == "kernels") {
      kernels = value;
      if (value != "fused" && value != "direct" && value != "plain")
        fail(
            fmt::format("unknown kernels '{}': write 'kernels fused', 'kernels direct' or 'kernels "
                        "plain'",
                        value));
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
        fail(fmt::format("'{}' is not a number of threads: write 'threads N' with N at least 1",
                         value));
    }
    iarg += 2;
  }
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::open_model() {
  const trajcast::NodeLayout place = trajcast::node_layout(world);
  if (threads == 0)
    threads = comm->nthreads > 1 || std::getenv("OMP_NUM_THREADS") ? comm->nthreads : place.cores;
  tell_threads(place);

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
  info.max_nearest_distances = training.nearest_distances.data();

  const bool failed = bridge->open(&config, &model, &info, &message) != TRAJCAST_OK;
  fail_if_any(failed, message.text);
  model_timestep = info.timestep;
  cutoff = info.cutoff;
  has_energy = info.has_energy != 0;
  energy_cutoff = info.energy_cutoff;
  fingerprint = info.fingerprint;
  finds_edges = info.finds_edges != 0;
  keeps_rotation = info.conserves_angular_momentum != 0;
  stops_rotation = info.takes_angular_momentum != 0;
  check_agreement(info);
  set_limits(info, training);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::tell_threads(const trajcast::NodeLayout &place) {
  if (device == "cuda")
    return;
  // Of the machine that has most threads for its cores, and of rank 0.
  const int mine = place.ranks * threads - place.allowed;
  int most;
  MPI_Allreduce(&mine, &most, 1, MPI_INT, MPI_MAX, world);
  if (comm->me != 0)
    return;
  const auto number = [](int count, const char *what) {
    return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
  };
  const std::string ranks =
      comm->nprocs > 1 ? " on each of " + number(comm->nprocs, "MPI rank") : "";
  utils::logmesg(lmp, "Fix {} python/trajcast: {}{}; this machine has {} for the run\n", id,
                 number(threads, "thread"), ranks, number(place.allowed, "core"));
  if (most > 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast: one machine runs more threads than cores, {} too many, "
                   "which slows down each step: write 'threads N' with a smaller N, start fewer "
                   "MPI ranks, or give them more cores (mpirun --bind-to none, "
                   "OMP_PROC_BIND=false, a larger request to the batch system)",
                   id, most);
}

/* ----------------------------------------------------------------------
   each rank reads the file where it runs
------------------------------------------------------------------------- */

void FixPythonTrajcast::check_agreement(const trajcast_model_info &info) {
  std::string first = fingerprint;
  MPI_Bcast(&first[0], static_cast<int>(first.size()), MPI_CHAR, 0, world);
  int mine[4] = {first != fingerprint, info.shares_device, info.finds_edges, !info.finds_edges};
  int any[4];
  MPI_Allreduce(mine, any, 4, MPI_INT, MPI_MAX, world);
  if (any[0])
    fail(fmt::format("the model file {} is not the same on all MPI ranks: copy one and the same "
                     "file to every machine",
                     model_path));
  if (any[2] && any[3])
    fail(
        "some MPI ranks run the network on a GPU and others on a CPU: start ranks on machines with "
        "a GPU alone, or write 'device cpu'");
  if (any[1] && comm->me == 0)
    error->warning(FLERR,
                   "Fix {} python/trajcast: several MPI ranks share a GPU: start as many ranks on "
                   "each machine as it has GPUs",
                   id);
}
