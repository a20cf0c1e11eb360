// SPDX-License-Identifier: GPL-2.0-or-later
//
// The door: what LAMMPS loads at every start. It uses nothing of LAMMPS but its C library
// interface, so that it can be loaded by any version and say so when the styles were built for
// another one. The styles themselves, fix python/trajcast and pair_style python/ase, are in a
// second library, loaded when an input script first asks for one.

#include <dlfcn.h>
#include <mpi.h> // its macros: nothing of MPI is called by name

#include <string>
#include <vector>

namespace {

// The structure and the functions that LAMMPS's plugin loader expects (docs: Developer_plugins).
using PairFactory = void *(void *);
using FixFactory = void *(void *, int, char **);

struct Plugin {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    PairFactory *pair;
    FixFactory *fix;
  } creator;
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

// The integers of the LAMMPS that it was built for: one of the letters of name_of_sizes(), as
// above.
#if defined(LAMMPS_BIGBIG)
const volatile char built_sizes[] = "trajcast built with IDs:L";
#elif defined(LAMMPS_SMALLSMALL)
const volatile char built_sizes[] = "trajcast built with IDs:T";
#else
const volatile char built_sizes[] = "trajcast built with IDs:S";
#endif

const char *name_of_sizes(char letter) {
  return letter == 'L' ? "bigbig" : letter == 'T' ? "smallsmall" : "smallbig";
}

// Those of this LAMMPS; 0 if it does not say.
char running_sizes(void *lammps) {
  auto *setting = lookup<int(void *, const char *)>(RTLD_DEFAULT, "lammps_extract_setting");
  const int tag = setting ? setting(lammps, "tagint") : 0;
  const int big = setting ? setting(lammps, "bigint") : 0;
  return tag == 8 ? 'L' : tag == 4 && big == 4 ? 'T' : tag == 4 ? 'S' : 0;
}

// The library was compiled with the mpi.h of one MPI; handles of another mean something else, and
// are of another size. "trajcast built with MPI:" and one letter of those of family(); volatile as
// above.
#if defined(OPEN_MPI)
const volatile char built_with[] = "trajcast built with MPI:O";
#elif defined(MPI_STUBS)
const volatile char built_with[] = "trajcast built with MPI:S";
#else
const volatile char built_with[] = "trajcast built with MPI:M";
#endif

char built_with_family() { return built_with[sizeof(built_with) - 2]; }

const char *name_of_family(char family) {
  return family == 'O'   ? "Open MPI"
         : family == 'S' ? "no MPI (LAMMPS's STUBS)"
                         : "MPICH, or an MPI that is compatible with it";
}

// What the MPI library of this process calls itself; empty if it does not say.
std::string running_mpi() {
  auto *get = lookup<int(char *, int *)>(RTLD_DEFAULT, "MPI_Get_library_version");
  if (!get)
    return "";
  std::vector<char> text(1 << 14); // more than any of them asks for
  int length = 0;
  get(text.data(), &length);
  const std::string all = text.data();
  return all.substr(0, all.find_first_of("\n,"));
}

// 'O' for Open MPI, 'S' for LAMMPS's stubs, 'M' for all that have the binary interface of MPICH.
char family(const std::string &library) {
  const auto has = [&library](const char *words) {
    return library.find(words) != std::string::npos;
  };
  return has("Open MPI") || has("Spectrum") ? 'O' : has("STUBS") ? 'S' : 'M';
}

// A function of the library with the styles; nullptr after an error.
// who: for messages, "Fix python/trajcast" or the like.
template <typename Factory>
Factory *find_factory(void *lammps, const std::string &who, const char *function) {
  auto *version = lookup<int(void *)>(RTLD_DEFAULT, "lammps_version");
  const int running = version ? version(lammps) : 0;
  if (running != built_for_version()) {
    stop(lammps, who + " was built for LAMMPS " + date(built_for_version()) +
                     " but this is LAMMPS " + date(running) +
                     ": " TRAJCAST_LAMMPS_REMEDY
                     ", or build lammps-trajcast for this one: in its own source tree, run pip "
                     "install . -C cmake.define.LAMMPS_SOURCE_DIR=<LAMMPS source tree>");
    return nullptr;
  }

  const char expected = built_sizes[sizeof(built_sizes) - 2], sizes = running_sizes(lammps);
  if (sizes && sizes != expected) {
    stop(lammps, who + " was built for integers of the size " + name_of_sizes(expected) +
                     " but this LAMMPS has " + name_of_sizes(sizes) +
                     ": in the source tree of lammps-trajcast, run pip install . -C "
                     "cmake.define.LAMMPS_SOURCE_DIR=<LAMMPS source tree> -C "
                     "cmake.define.LAMMPS_SIZES=" +
                     name_of_sizes(sizes));
    return nullptr;
  }

  const std::string library_of_mpi = running_mpi();
  if (!library_of_mpi.empty() && family(library_of_mpi) != built_with_family()) {
    const char found = family(library_of_mpi);
    stop(lammps, who + " was built with " + name_of_family(built_with_family()) +
                     " but this LAMMPS uses " + name_of_family(found) + " (" + library_of_mpi +
                     "): in the source tree of lammps-trajcast, run pip install . -C "
                     "cmake.define.LAMMPS_SOURCE_DIR=<LAMMPS source tree> -C cmake.define." +
                     (found == 'S' ? "BUILD_MPI=off" : "MPI_CXX_COMPILER=<mpicxx of that MPI>"));
    return nullptr;
  }

  const std::string path = own_directory() + "trajcast_fix.so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  auto *create = library ? lookup<Factory>(library, function) : nullptr;
  if (!create)
    stop(lammps, who + " cannot be loaded (" + std::string(dlerror()) +
                     "): install lammps-trajcast there again, with pip install --force-reinstall");
  return create;
}

void *create_fix(void *lammps, int narg, char **arg) {
  auto *create = find_factory<FixFactory>(lammps, "Fix python/trajcast", "trajcast_create_fix");
  return create ? create(lammps, narg, arg) : nullptr;
}

void *create_pair(void *lammps) {
  auto *create = find_factory<PairFactory>(lammps, "Pair style python/ase", "trajcast_create_pair");
  return create ? create(lammps) : nullptr;
}

} // namespace

extern "C" void lammpsplugin_init(void *lammps, void *handle, void *register_function) {
  // LAMMPS forgets a plugin and closes its library when the first of several instances in a process
  // goes, while the others still run its code.
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&own_directory), &here);
  dlopen(here.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);

  static const std::string version = date(built_for_version());
  auto *add = reinterpret_cast<RegisterFunction>(register_function);
  static Plugin plugin;
  plugin.version = version.c_str();
  plugin.author = "the lammps-trajcast authors";
  plugin.handle = handle;

  plugin.style = "fix";
  plugin.name = "python/trajcast";
  plugin.info = "fix python/trajcast: force-free dynamics with a TrajCast network";
  plugin.creator.fix = &create_fix;
  add(&plugin, lammps);

  plugin.style = "pair";
  plugin.name = "python/ase";
  plugin.info = "pair_style python/ase: energies and forces of an ASE calculator";
  plugin.creator.pair = &create_pair;
  add(&plugin, lammps);
}
