#include "energy_interface.h"
#include "processor.h"

int trajcast_energy(const trajcast_energy_model *model, int64_t num_atoms, const int64_t *species,
                    const int64_t *first_edge, const int64_t *senders, const double *vectors,
                    double *energies, double *virials, double *gradients, int threads) {
  const trajcast::EnergyGraph graph = {num_atoms, species, first_edge, senders, vectors};
  const trajcast::EnergyResult result = {energies, virials, gradients};
#ifdef TRAJCAST_X86
  const trajcast::Instructions chosen = trajcast::instructions();
  if (chosen == trajcast::Instructions::avx512)
    return trajcast::avx512::energy(*model, graph, result, threads);
  if (chosen == trajcast::Instructions::avx2)
    return trajcast::avx2::energy(*model, graph, result, threads);
#endif
  return trajcast::portable::energy(*model, graph, result, threads);
}
