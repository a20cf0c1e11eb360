// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_LAUNCHER_H
#define TRAJCAST_LAUNCHER_H

#include <string>

namespace LAMMPS_NS {
class LAMMPS;
}

namespace trajcast {

// A launcher of another MPI than LAMMPS's starts processes each of which is alone: as many copies
// of the same run, which write the same files. Warns of it, and ends a copy whose log file another
// one writes. style: for the message.
void check_launcher(LAMMPS_NS::LAMMPS *lmp, const std::string &style);

} // namespace trajcast

#endif
