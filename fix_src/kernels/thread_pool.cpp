// SPDX-License-Identifier: GPL-2.0-or-later

#include "thread_pool.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <pthread.h>
#include <signal.h>
#ifdef __linux__
#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <string>
#endif

namespace {

// The loops of one step follow one another within microseconds; steps do not.
constexpr auto SPIN = std::chrono::microseconds(30);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `done` was true within SPIN.
template <typename Done> bool spin_until(const Done &done) {
  const auto end = std::chrono::steady_clock::now() + SPIN;
  do {
    for (int k = 0; k < 32; ++k) {
      if (done())
        return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

#ifdef __linux__
// With OMP_PROC_BIND an OpenMP library, of LAMMPS or torch, binds the first thread of the process
// to one core, and threads that this one starts are born there. The library knows the others.
// Returns false if no such library has bound anything.
bool cores_of_openmp(cpu_set_t &cores) {
  std::string path;
  const auto look = [](dl_phdr_info *info, size_t, void *found) {
    const std::string name = info->dlpi_name ? info->dlpi_name : "";
    const std::string file = name.substr(name.rfind('/') + 1);
    if (file.find("gomp") == std::string::npos && file.find("omp.so") == std::string::npos &&
        file.find("omp5.so") == std::string::npos)
      return 0;
    *static_cast<std::string *>(found) = name;
    return 1;
  };
  if (!dl_iterate_phdr(look, &path))
    return false;
  void *library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (!library)
    return false;
  const auto get = [library](const char *name) { return dlsym(library, name); };
  const auto bound = reinterpret_cast<int (*)()>(get("omp_get_proc_bind"));
  const auto places = reinterpret_cast<int (*)()>(get("omp_get_num_places"));
  const auto size = reinterpret_cast<int (*)(int)>(get("omp_get_place_num_procs"));
  const auto procs = reinterpret_cast<void (*)(int, int *)>(get("omp_get_place_proc_ids"));
  bool any = false;
  CPU_ZERO(&cores);
  if (bound && places && size && procs && bound() != 0)
    for (int place = 0; place < places(); ++place) {
      std::vector<int> ids(size(place));
      procs(place, ids.data());
      for (const int id : ids) {
        CPU_SET(id, &cores);
        any = true;
      }
    }
  dlclose(library);
  return any;
}
#endif

// Threads that sleep until there is a loop.
class Pool {
public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      ending = true;
    }
    wake.notify_all();
    for (std::thread &worker : workers)
      worker.join();
  }

  void run(int threads, void (*body)(void *), void *context) {
    std::unique_lock<std::mutex> alone(owner, std::try_to_lock);
    if (threads < 2 || !alone.owns_lock()) {
      body(context);
      return;
    }
    grow(threads - 1);
    call = body;
    argument = context;
    wanted = threads - 1;
    round.fetch_add(1); // odd: open
    if (sleeping.load() > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex);
      } // a worker is either asleep or has seen it
      wake.notify_all();
    }
    body(context);
    round.fetch_add(1); // even: nobody comes in any more
    const auto empty = [this] { return inside.load() == 0; };
    if (!spin_until(empty)) {
      std::unique_lock<std::mutex> lock(mutex);
      waiting = true;
      left.wait(lock, empty);
      waiting = false;
    }
  }

private:
  void grow(int number) {
    if (static_cast<int>(workers.size()) >= number || refused)
      return;
    // Signals are for the threads of the host.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (static_cast<int>(workers.size()) < number)
        workers.emplace_back(&Pool::work, this, static_cast<int>(workers.size()));
    } catch (const std::system_error &) {
      refused = true; // no more threads for this user: those that there are do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void work(int number) {
#ifdef __linux__
    cpu_set_t cores;
    if (cores_of_openmp(cores))
      sched_setaffinity(0, sizeof(cores), &cores); // what it may not have, the system takes off
#endif
    uint64_t seen = 0;
    while (true) {
      const auto open = [this, &seen] {
        const uint64_t now = round.load();
        return now % 2 == 1 && now != seen;
      };
      if (!spin_until(open)) {
        std::unique_lock<std::mutex> lock(mutex);
        sleeping.fetch_add(1);
        wake.wait(lock, [&] { return ending || open(); });
        sleeping.fetch_sub(1);
        if (ending)
          return;
      }
      const uint64_t now = round.load();
      if (now % 2 == 0 || now == seen)
        continue;
      seen = now;
      inside.fetch_add(1);
      // Whoever is counted before the loop is closed is waited for.
      if (round.load() == now && number < wanted)
        call(argument);
      if (inside.fetch_sub(1) == 1) {
        std::lock_guard<std::mutex> lock(mutex);
        if (waiting)
          left.notify_one();
      }
    }
  }

  std::mutex owner; // of the one loop that can go on
  std::vector<std::thread> workers;
  bool refused = false;
  void (*call)(void *) = nullptr;
  void *argument = nullptr;
  int wanted = 0;
  std::atomic<uint64_t> round{0};
  std::atomic<int> inside{0}, sleeping{0};
  std::mutex mutex; // of what follows, and of who falls asleep
  std::condition_variable wake, left;
  bool ending = false, waiting = false;
};

Pool *pool = nullptr;

// Of the thread that forks, a child process has a copy, of the others none.
void forget() { pool = new Pool; }

struct AtExit {
  AtExit() {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, forget);
  }
  ~AtExit() {
    delete pool;
    pool = nullptr;
  }
} at_exit;

} // namespace

namespace trajcast {

void on_threads(int threads, void (*body)(void *context), void *context) {
  if (threads < 2 || !pool)
    body(context);
  else
    pool->run(threads, body, context);
}

} // namespace trajcast
