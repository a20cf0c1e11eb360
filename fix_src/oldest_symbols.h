// SPDX-License-Identifier: GPL-2.0-or-later

// Included before everything else in wheels for x86-64 Linux: functions of the C and C++ libraries
// under the versions that RHEL 8 has (glibc 2.28, GCC 8), where newer ones offer the same function
// under a new version only because it has moved to another library or got another type. On such an
// old system dlopen() and the like are in libdl, which every Python and LAMMPS has loaded.

#ifndef TRAJCAST_OLDEST_SYMBOLS_H
#define TRAJCAST_OLDEST_SYMBOLS_H

#define TRAJCAST_OLD(name, version) __asm__(".symver " #name "," #name "@" version)

TRAJCAST_OLD(dladdr, "GLIBC_2.2.5");
TRAJCAST_OLD(dlclose, "GLIBC_2.2.5");
TRAJCAST_OLD(dlerror, "GLIBC_2.2.5");
TRAJCAST_OLD(dlopen, "GLIBC_2.2.5");
TRAJCAST_OLD(dlsym, "GLIBC_2.2.5");
TRAJCAST_OLD(pthread_mutex_trylock, "GLIBC_2.2.5");
TRAJCAST_OLD(pthread_sigmask, "GLIBC_2.2.5");

#ifdef __cplusplus
#include <new>

// condition_variable::wait(unique_lock<mutex> &)
TRAJCAST_OLD(_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, "GLIBCXX_3.4.11");

#if defined(__GLIBCXX__) && __GNUC__ >= 11
// Called by 'new T[n]' with too large a number; old libraries do not have it.
namespace std {
__attribute__((weak, visibility("hidden"))) void __throw_bad_array_new_length() {
  throw bad_array_new_length();
}
} // namespace std
#endif
#endif

#endif
