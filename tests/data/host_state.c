/* SPDX-License-Identifier: GPL-2.0-or-later

   Writes what a process could notice of a change: `plugin load host_state.so` calls the function
   below, which appends one line for each property to the file $HOST_STATE, after a line "state". */

#define _GNU_SOURCE
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static int compare(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static void write_stream(FILE *out, const char *name, FILE *stream) {
  fprintf(out, "stream %s: buffer of %zu bytes, by lines %d, descriptor flags %d\n", name,
          __fbufsize(stream), __flbf(stream) != 0, fcntl(fileno(stream), F_GETFL));
}

void lammpsplugin_init(void *lammps, void *handle, void *registration) {
  (void)lammps, (void)handle, (void)registration;
  FILE *out = fopen(getenv("HOST_STATE"), "a");
  fprintf(out, "state\n");

  for (int number = 1; number < NSIG; number++) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) == 0)
      fprintf(out, "signal %d: handler %p, flags %x\n", number, (void *)action.sa_handler,
              (unsigned)action.sa_flags &
                  ~0x4000000u); /* not SA_RESTORER, which the C library sets */
  }
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, NULL, &blocked);
  fprintf(out, "blocked signals:");
  for (int number = 1; number < NSIG; number++)
    if (sigismember(&blocked, number) == 1)
      fprintf(out, " %d", number);
  fprintf(out, "\n");

  fprintf(out, "locale: %s\n", setlocale(LC_ALL, NULL));
  fprintf(out, "decimal point: %s\n", localeconv()->decimal_point);
  fprintf(out, "rounding: %d\n", fegetround());
  fprintf(out, "floating-point traps: %d\n", fegetexcept());
#ifdef __SSE__
  /* Without the flags of what has happened, the lowest six bits. */
  fprintf(out, "SSE control: %x\n", __builtin_ia32_stmxcsr() & ~0x3fu);
#endif

  char *directory = getcwd(NULL, 0);
  fprintf(out, "directory: %s\n", directory);
  free(directory);
  const mode_t mask = umask(0);
  umask(mask);
  fprintf(out, "umask: %o\n", (unsigned)mask);

  cpu_set_t cores;
  sched_getaffinity(0, sizeof(cores), &cores);
  fprintf(out, "cores:");
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &cores))
      fprintf(out, " %d", core);
  fprintf(out, "\n");
  fprintf(out, "priority: %d\n", getpriority(PRIO_PROCESS, 0));
  for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
    struct rlimit limit;
    if (getrlimit(resource, &limit) == 0)
      fprintf(out, "limit %d: %llu %llu\n", resource, (unsigned long long)limit.rlim_cur,
              (unsigned long long)limit.rlim_max);
  }

  write_stream(out, "stdin", stdin);
  write_stream(out, "stdout", stdout);
  write_stream(out, "stderr", stderr);

  int count = 0;
  while (environ[count])
    count++;
  char **sorted = malloc(count * sizeof(char *));
  memcpy(sorted, environ, count * sizeof(char *));
  qsort(sorted, count, sizeof(char *), compare);
  for (int k = 0; k < count; k++)
    fprintf(out, "variable %s\n", sorted[k]);
  free(sorted);
  fclose(out);
}
