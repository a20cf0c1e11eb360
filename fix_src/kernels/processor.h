// Which of the sets of instructions that kernels are compiled for this processor has.

#ifndef TRAJCAST_PROCESSOR_H
#define TRAJCAST_PROCESSOR_H

#include <cstdint>

namespace trajcast {

enum class Instructions { portable, avx2, avx512 };

// asked: 0: the best, 1: portable, 2: AVX2 at most.
inline Instructions instructions(int32_t asked = 0) {
#ifdef TRAJCAST_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (asked == 0 && has_avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return Instructions::avx512;
  if (asked != 1 && has_avx2)
    return Instructions::avx2;
#else
  (void)asked;
#endif
  return Instructions::portable;
}

} // namespace trajcast

#endif
