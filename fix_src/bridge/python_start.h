/* SPDX-License-Identifier: GPL-2.0-or-later */

#ifndef TRAJCAST_PYTHON_START_H
#define TRAJCAST_PYTHON_START_H

#include "trajcast_bridge.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Start Python where the process has none, and ask a module of the package for its functions.

   executable: the interpreter of the environment that holds lammps_trajcast. It decides sys.prefix,
   and so what can be imported. Not used when the process runs Python already.
   module_name: its register() gets the address of the structure `functions` and fills it.
   Returns a trajcast_status. The GIL is not held afterward. */
int trajcast_python_start(const char *executable, const char *module_name, void *functions,
                          trajcast_message *message);

#ifdef __cplusplus
}
#endif

#endif
