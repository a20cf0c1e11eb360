// What the files compiled for different processors offer to energy.cpp.

#ifndef TRAJCAST_ENERGY_INTERFACE_H
#define TRAJCAST_ENERGY_INTERFACE_H

#include "energy.h"

namespace trajcast {

// See trajcast_energy().
struct EnergyGraph {
  int64_t num_atoms;
  const int64_t *species, *first_edge, *senders;
  const double *vectors;
};

struct EnergyResult {
  double *energies;
  double *virials;   // may be null
  double *gradients; // may be null
};

#define TRAJCAST_DECLARE_ENERGY(name)                                                              \
  namespace name {                                                                                 \
  int energy(const trajcast_energy_model &model, const EnergyGraph &graph,                         \
             const EnergyResult &result, int threads);                                             \
  }
TRAJCAST_DECLARE_ENERGY(portable)
#ifdef TRAJCAST_X86
TRAJCAST_DECLARE_ENERGY(avx2)
TRAJCAST_DECLARE_ENERGY(avx512)
#endif
#undef TRAJCAST_DECLARE_ENERGY

} // namespace trajcast

#endif
