// SPDX-License-Identifier: GPL-2.0-or-later
//
// The door: what LAMMPS loads at every start. It uses nothing of LAMMPS but its C library
// interface, so that it can be loaded by any version and say so when the fix was built for another
// one. The fix itself is in a second library, loaded when an input script first asks for it.

#include <dlfcn.h>

#include <string>

namespace {

// The structure and the functions that LAMMPS's plugin loader expects (docs: Developer_plugins).
using Factory = void *(void *, int, char **);

struct Plugin {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  Factory *creator;
  void *handle;
};

using RegisterFunction = void (*)(Plugin *, void *);

// Error style of lammps_error(): all ranks of this LAMMPS world stop.
constexpr int ERROR_ALL_WORLD = 2 | 4;

template <typename Function> Function *lookup(void *library, const char *name) {
  return reinterpret_cast<Function *>(dlsym(library, name));
}

std::string own_directory() {
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&own_directory), &here);
  const std::string path = here.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

void *stop(void *lammps, const std::string &message) {
  auto *error = lookup<void(void *, int, const char *)>(RTLD_DEFAULT, "lammps_error");
  if (error)
    error(lammps, ERROR_ALL_WORLD, message.c_str());
  return nullptr;
}

// "20250722" as it is written for people and for pip: "22 Jul 2025".
std::string date(int version) {
  static const char *const months[] = {"???", "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const int month = version / 100 % 100;
  return std::to_string(version % 100) + " " + months[month <= 12 ? month : 0] + " " +
         std::to_string(version / 10000);
}

// Text that can be found in the library, and volatile so that it is read from there: that is how
// the tests make a plugin for another LAMMPS.
const volatile char built_for[] = "trajcast built for LAMMPS:" TRAJCAST_LAMMPS_VERSION;

int built_for_version() {
  int version = 0;
  for (const volatile char *c = built_for; *c; c++)
    if (*c >= '0' && *c <= '9')
      version = 10 * version + (*c - '0');
  return version;
}

void *create_fix(void *lammps, int narg, char **arg) {
  auto *version = lookup<int(void *)>(RTLD_DEFAULT, "lammps_version");
  const int running = version ? version(lammps) : 0;
  if (running != built_for_version())
    return stop(lammps, "Fix python/trajcast was built for LAMMPS " + date(built_for_version()) +
                            " but this is LAMMPS " + date(running) +
                            ": " TRAJCAST_LAMMPS_REMEDY
                            ", or build lammps-trajcast again for this one with pip install . "
                            "-C cmake.define.LAMMPS_SOURCE_DIR=<LAMMPS source tree>");

  const std::string path = own_directory() + "trajcast_fix.so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  auto *create = library ? lookup<Factory>(library, "trajcast_create_fix") : nullptr;
  if (!create)
    return stop(lammps,
                "Fix python/trajcast cannot be loaded (" + std::string(dlerror()) +
                    "): install it again with pip install --force-reinstall lammps-trajcast");
  return create(lammps, narg, arg);
}

} // namespace

extern "C" void lammpsplugin_init(void *lammps, void *handle, void *register_function) {
  // LAMMPS forgets a plugin and closes its library when the first of several instances in a process
  // goes, while the others still run its code.
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&own_directory), &here);
  dlopen(here.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);

  static const std::string version = date(built_for_version());
  static Plugin plugin;
  plugin.version = version.c_str();
  plugin.style = "fix";
  plugin.name = "python/trajcast";
  plugin.info = "fix python/trajcast: force-free dynamics with a TrajCast network";
  plugin.author = "the lammps-trajcast authors";
  plugin.creator = &create_fix;
  plugin.handle = handle;
  reinterpret_cast<RegisterFunction>(register_function)(&plugin, lammps);
}
