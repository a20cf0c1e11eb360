// SPDX-License-Identifier: GPL-2.0-or-later
// Members that LAMMPS releases before 2025 protect. A derived class may name them, and the pointer
// to a member that it gets fits every object of the base.

#ifndef TRAJCAST_OLDER_LAMMPS_H
#define TRAJCAST_OLDER_LAMMPS_H

#include "input.h"
#include "pair.h"

namespace trajcast {

struct PairAccess : LAMMPS_NS::Pair {
  static int flags(LAMMPS_NS::Pair *pair) { return pair->*(&PairAccess::suffix_flag); }
};

struct InputAccess : LAMMPS_NS::Input {
  // Name of the command that is being carried out.
  static const char *command_of(LAMMPS_NS::Input *input) { return input->*(&InputAccess::command); }
};

} // namespace trajcast

#endif
