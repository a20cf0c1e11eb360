// SPDX-License-Identifier: GPL-2.0-or-later

#include "python_host.h"

#include "bridge/python_start.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace trajcast {

namespace {

constexpr const char *PYTHON_VARIABLE = "LAMMPS_TRAJCAST_PYTHON";
constexpr const char *PYTHON_NAME = "python" TRAJCAST_PYTHON_VERSION;

template <typename Function> Function *lookup(void *library, const char *name) {
  return reinterpret_cast<Function *>(dlsym(library, name));
}

bool exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

// The directory `levels` above a path.
std::string parent(std::string path, int levels = 1) {
  for (; levels > 0; levels--) {
    const auto slash = path.rfind('/');
    if (slash == std::string::npos)
      return "";
    path.erase(slash);
  }
  return path;
}

std::string resolved(const std::string &path) {
  char buffer[PATH_MAX];
  return realpath(path.c_str(), buffer) ? buffer : path;
}

std::string own_path() {
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&own_path), &here);
  return resolved(here.dli_fname);
}

// The first executable file of this name in the directories of PATH; empty if there is none.
std::string on_path(const std::string &name) {
  const char *path = std::getenv("PATH");
  std::istringstream directories(path ? path : "");
  std::string directory;
  while (std::getline(directories, directory, ':')) {
    const std::string file = directory + "/" + name;
    if (!directory.empty() && exists(file) && access(file.c_str(), X_OK) == 0)
      return file;
  }
  return "";
}

// The interpreter to start; empty if there is none.
std::string find_executable() {
  if (const char *wanted = std::getenv(PYTHON_VARIABLE))
    return wanted;
  // PREFIX/lib/pythonX.Y/site-packages/lammps_trajcast/trajcast_fix.so
  const std::string packages = parent(own_path(), 2), ending = "-packages";
  const bool installed =
      packages.size() > ending.size() &&
      packages.compare(packages.size() - ending.size(), std::string::npos, ending) == 0;
  const std::string mine = parent(packages, 3) + "/bin/python3";
  if (installed && exists(mine))
    return mine;
  // Packages of a user, or of Debian's Python, are not beside their interpreter.
  const std::string builder = TRAJCAST_PYTHON_EXECUTABLE;
  return builder.empty() ? on_path(PYTHON_NAME) : builder;
}

// The directory of the interpreter that a virtual environment was made from; empty outside of one.
std::string base_of_environment(const std::string &executable) {
  std::ifstream settings(parent(executable, 2) + "/pyvenv.cfg");
  std::string line;
  while (std::getline(settings, line)) {
    const auto equals = line.find('=');
    if (equals == std::string::npos || line.compare(0, 4, "home") != 0)
      continue;
    const auto start = line.find_first_not_of(" \t", equals + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

// "3.12" for an interpreter that is called so, or that its environment says it is; else empty.
std::string version_of(const std::string &executable) {
  const std::string real = resolved(executable), name = real.substr(real.rfind('/') + 1);
  if (name.compare(0, 7, "python3") == 0 && name.size() > 8 && name[7] == '.')
    return name.substr(6, name.find_first_not_of("0123456789", 8) - 6);
  std::ifstream settings(parent(executable, 2) + "/pyvenv.cfg");
  std::string key, equals, value;
  while (settings >> key >> equals && std::getline(settings >> std::ws, value))
    if (key == "version" || key == "version_info") {
      const auto second = value.find('.', value.find('.') + 1);
      return value.substr(0, second);
    }
  return "";
}

// Load libpython with its symbols visible: torch's extension modules look them up.
bool load_libpython(const std::string &executable) {
  std::vector<std::string> prefixes;
  const std::string home = base_of_environment(executable);
  if (!home.empty())
    prefixes.push_back(parent(home));
  prefixes.push_back(parent(resolved(executable), 2));

  std::vector<std::string> candidates;
  for (const auto &prefix : prefixes)
    for (const char *directory : {"/lib/", "/lib64/", "/lib/" TRAJCAST_MULTIARCH "/"})
      candidates.push_back(prefix + directory + TRAJCAST_LIBPYTHON);
  candidates.push_back(TRAJCAST_LIBPYTHON); // where the system's linker looks

  for (const auto &path : candidates)
    if ((path.find('/') == std::string::npos || exists(path)) &&
        dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL))
      return true;
  return false;
}

// who: for messages, "Fix python/trajcast" or the like.
bool load(const std::string &who, const char *module, void *functions, std::string &message) {
  std::string executable = find_executable();
  if (python_is_running()) {
    executable = "of this process";
  } else {
    if (!exists(executable)) {
      const std::string where = executable.empty()
                                    ? std::string(PYTHON_NAME) + " in the directories of PATH"
                                    : "Python interpreter at " + executable;
      message = who + " finds no " + where + ": set the environment variable " + PYTHON_VARIABLE +
                " to the python3 of the environment that has lammps-trajcast";
      return false;
    }
    const std::string version = version_of(executable);
    if (!version.empty() && version != TRAJCAST_PYTHON_VERSION) {
      message = who + " was built for Python " TRAJCAST_PYTHON_VERSION ", but " + executable +
                " is Python " + version + ": set " + PYTHON_VARIABLE +
                " to a python" TRAJCAST_PYTHON_VERSION
                " with lammps-trajcast, or install lammps-trajcast for Python " +
                version;
      return false;
    }
    if (!load_libpython(executable)) {
      message = who + " finds no " TRAJCAST_LIBPYTHON " for " + executable +
                ": install Python's shared library (Debian, Ubuntu: apt install "
                "libpython" TRAJCAST_PYTHON_VERSION
                "; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), or "
                "set " +
                PYTHON_VARIABLE + " to a python" TRAJCAST_PYTHON_VERSION " that has it";
      return false;
    }
  }

  auto *version = lookup<const char *()>(RTLD_DEFAULT, "Py_GetVersion");
  const std::string running = version ? version() : "unknown";
  if (running.compare(0, sizeof(TRAJCAST_PYTHON_VERSION), TRAJCAST_PYTHON_VERSION ".") != 0) {
    message = who +
              " was built for Python " TRAJCAST_PYTHON_VERSION ", but this process runs Python " +
              running.substr(0, running.find(' ')) +
              ": use python" TRAJCAST_PYTHON_VERSION
              ", or install lammps-trajcast with the Python of this process";
    return false;
  }

  const std::string path = parent(own_path()) + "/_trajcast_bridge.so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    message = who + " cannot load its bridge to Python (" + std::string(dlerror()) +
              "): install lammps-trajcast there again, with pip install --force-reinstall";
    return false;
  }

  std::vector<char> text(4096, '\0');
  trajcast_message answer = {text.data(), static_cast<int64_t>(text.size())};
  auto *start = lookup<decltype(trajcast_python_start)>(library, "trajcast_python_start");
  if (start(executable.c_str(), module, functions, &answer) != TRAJCAST_OK) {
    message =
        who + " cannot use the Python " + executable + " (" + text.data() +
        "): pip install lammps-trajcast, from its source tree or its wheel, in that environment";
    if (executable != "of this process")
      message += std::string(", or set ") + PYTHON_VARIABLE +
                 " to the python3 of the environment that has it";
    return false;
  }
  return true;
}

} // namespace

bool python_is_running() {
  auto *initialized = lookup<int()>(RTLD_DEFAULT, "Py_IsInitialized");
  return initialized && initialized();
}

const trajcast_functions *start_python(std::string &message) {
  static trajcast_functions functions;
  static bool started = false;
  if (!started)
    started = load("Fix python/trajcast", "lammps_trajcast.runtime.bridge", &functions, message);
  return started ? &functions : nullptr;
}

const trajcast_calculator_functions *start_calculators(std::string &message) {
  static trajcast_calculator_functions functions;
  static bool started = false;
  if (!started)
    started = load("Pair style python/ase", "lammps_trajcast.runtime.calculator_bridge", &functions,
                   message);
  return started ? &functions : nullptr;
}

} // namespace trajcast
