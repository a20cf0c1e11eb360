// SPDX-License-Identifier: GPL-2.0-or-later
// Loops on several threads. OpenMP's threads spin between loops: on cores that others need, too, a
// step takes several times as long. These wait for a moment, then sleep; and nobody waits for a
// thread that has not got a core: whoever comes first does its part.

#ifndef TRAJCAST_THREAD_POOL_H
#define TRAJCAST_THREAD_POOL_H

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace trajcast {

// The indices 0 ... count - 1 of a loop, dealt out in chunks.
class Chunks {
public:
  Chunks(int64_t count, int64_t chunk) : count(count), chunk(chunk) {}

  // Sets begin and end to the next chunk; false if there is none left.
  bool next(int64_t &begin, int64_t &end) {
    begin = first.fetch_add(chunk, std::memory_order_relaxed);
    if (begin >= count)
      return false;
    end = std::min(count, begin + chunk);
    return true;
  }

private:
  std::atomic<int64_t> first{0};
  const int64_t count, chunk;
};

// Calls body(context) on this thread and on up to threads - 1 others, and returns when all calls
// have come to their ends. Fewer take part where the system gives no more threads, and one while
// another thread of the program is in here.
void on_threads(int threads, void (*body)(void *context), void *context);

// Calls body(chunks) on up to `threads` threads; each takes chunks as long as there are any.
// Exceptions must not leave it.
template <typename Body>
void share_loop(int64_t count, int64_t chunk, int threads, const Body &body) {
  struct Context {
    const Body &body;
    Chunks chunks;
  } context{body, {count, chunk}};
  const auto call = [](void *given) {
    auto *mine = static_cast<Context *>(given);
    mine->body(mine->chunks);
  };
  const int64_t parts = (count + chunk - 1) / chunk;
  on_threads(static_cast<int>(std::min<int64_t>(threads, parts)), call, &context);
}

} // namespace trajcast

#endif
