#include "energy_interface.h"

int trajcast_energy(const trajcast_energy_model *model, int64_t num_atoms, const int64_t *species,
                    const int64_t *first_edge, const int64_t *senders, const double *vectors,
                    double *energies, double *virials, double *gradients, int threads) {
  const trajcast::EnergyGraph graph = {num_atoms, species, first_edge, senders, vectors};
  const trajcast::EnergyResult result = {energies, virials, gradients};
#ifdef TRAJCAST_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return trajcast::avx512::energy(*model, graph, result, threads);
  if (has_avx2)
    return trajcast::avx2::energy(*model, graph, result, threads);
#endif
  return trajcast::portable::energy(*model, graph, result, threads);
}
