// SPDX-License-Identifier: GPL-2.0-or-later

// Errors of one rank end all of them, and say why once.

#include "fix_python_trajcast.h"

#include "comm.h"
#include "error.h"

#include <chrono>
#include <thread>

using namespace LAMMPS_NS;

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

void FixPythonTrajcast::abort_all(const std::string &reason) {
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
