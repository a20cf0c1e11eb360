// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_THREADS_H
#define TRAJCAST_THREADS_H

#include <mpi.h>

namespace trajcast {

// Cores that each of the ranks on this node can have for itself, at least 1. Collective.
int cores_per_rank(MPI_Comm world);

} // namespace trajcast

#endif
