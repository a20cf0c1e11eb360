// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_PYTHON_HOST_H
#define TRAJCAST_PYTHON_HOST_H

#include "trajcast_bridge.h"

#include <string>

namespace trajcast {

// Find Python, start it unless the process runs it already, and load the bridge library.
//
// Neither this library nor LAMMPS is linked to Python, so that a missing libpython can be reported.
// The interpreter is, in this order: the one of the process; $LAMMPS_TRAJCAST_PYTHON; the one in
// whose site-packages this library lies; the one that built it.
//
// Returns the same functions on every call; nullptr, and a message with the remedy, on failure.
const trajcast_functions *start_python(std::string &message);

// The same for the functions of ASE calculators, which need neither torch nor a model.
const trajcast_calculator_functions *start_calculators(std::string &message);

bool python_is_running();

} // namespace trajcast

#endif
