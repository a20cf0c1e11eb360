// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_THREADS_H
#define TRAJCAST_THREADS_H

#include <mpi.h>

namespace trajcast {

// This rank's place among those on the same machine.
struct NodeLayout {
  int rank;    // from 0
  int ranks;   // on this machine
  int allowed; // cores that all of them together may use
  int cores;   // that each of them can have for itself, at least 1
};

// Collective.
NodeLayout node_layout(MPI_Comm world);

} // namespace trajcast

#endif
