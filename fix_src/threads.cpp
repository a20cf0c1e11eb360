// SPDX-License-Identifier: GPL-2.0-or-later

#include "threads.h"

#include <sched.h>

#include <algorithm>

namespace trajcast {

NodeLayout node_layout(MPI_Comm world) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof(mine), &mine); // if that fails, the set is empty: one core

#ifdef MPI_STUBS
  (void)world;
  return {0, 1, std::max(1, CPU_COUNT(&mine))};
#else
  // Ranks may be bound to cores of their own or share all of them: the union of the sets, divided
  // by the ranks, is right either way.
  MPI_Comm node;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int rank, ranks;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_size(node, &ranks);
  cpu_set_t all;
  MPI_Allreduce(&mine, &all, sizeof(cpu_set_t), MPI_BYTE, MPI_BOR, node);
  MPI_Comm_free(&node);
  return {rank, ranks, std::max(1, CPU_COUNT(&all) / ranks)};
#endif
}

} // namespace trajcast
