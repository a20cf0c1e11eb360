// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_QUIET_WAIT_H
#define TRAJCAST_QUIET_WAIT_H

#include <mpi.h>

namespace trajcast {

// MPI_Bcast of bytes from rank 0, for which the other ranks wait asleep: MPI's own wait keeps a
// core busy, which whoever is waited for may need. Collective.
void broadcast_quietly(void *data, int bytes, MPI_Comm world);

} // namespace trajcast

#endif
