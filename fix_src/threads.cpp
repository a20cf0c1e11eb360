// SPDX-License-Identifier: GPL-2.0-or-later

#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <string>

namespace {

// The smallest limit on CPU time of this process's control group and those around it, as a
// container or a batch system sets it for all processes of a group together. Rounded down, at
// least 1.
int quota_of_group() {
  int fewest = INT_MAX;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    // Version 2: "0::/path". Version 1: "N:cpu,cpuacct:/path".
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos)
      continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos)
      continue;
    std::string path = line.substr(second + 1);
    while (true) {
      double quota = -1.0, period = 0.0;
      if (unified) {
        std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
        file >> quota >> period; // "max 100000" is no number: no limit
      } else {
        std::ifstream("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_quota_us") >> quota;
        std::ifstream("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_period_us") >> period;
      }
      if (quota > 0.0 && period > 0.0)
        fewest = std::min(fewest, std::max(1, static_cast<int>(quota / period + 1e-6)));
      if (path.empty() || path == "/")
        break;
      path = path.substr(0, path.rfind('/'));
    }
  }
  return fewest;
}

// What a batch system has given to each rank; it need not bind ranks to it.
int cores_of_task() {
  const char *text = std::getenv("SLURM_CPUS_PER_TASK");
  const int found = text ? std::atoi(text) : 0;
  return found > 0 ? found : INT_MAX;
}

} // namespace

namespace trajcast {

NodeLayout node_layout(MPI_Comm world) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof(mine), &mine); // if that fails, the set is empty: one core

#ifdef MPI_STUBS
  (void)world;
  const int allowed = std::max(1, std::min(CPU_COUNT(&mine), quota_of_group()));
  return {0, 1, allowed, std::min(allowed, cores_of_task())};
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
  const int allowed = std::max(1, std::min(CPU_COUNT(&all), quota_of_group()));
  return {rank, ranks, allowed, std::max(1, std::min(allowed / ranks, cores_of_task()))};
#endif
}

} // namespace trajcast
