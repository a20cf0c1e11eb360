// SPDX-License-Identifier: GPL-2.0-or-later

#include "quiet_wait.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace trajcast {

#ifdef MPI_STUBS

void broadcast_quietly(void *, int, MPI_Comm) {}

#else

namespace {
constexpr double BUSY = 5.0e-5;    // seconds before the first sleep, which takes as long anyway
constexpr double LATE = 0.05;      // a sleep may prolong the wait by this part
constexpr double LONGEST = 2.0e-3; // seconds
} // namespace

void broadcast_quietly(void *data, int bytes, MPI_Comm world) {
  int rank;
  MPI_Comm_rank(world, &rank);
  MPI_Request request;
  MPI_Ibcast(data, bytes, MPI_BYTE, 0, world, &request);
  if (rank == 0) {
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    return;
  }
  const double start = MPI_Wtime();
  int done = 0;
  while (MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done) {
    const double waited = MPI_Wtime() - start;
    if (waited > BUSY)
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(LATE * waited, LONGEST)));
  }
}

#endif

} // namespace trajcast
