#include "network_interface.h"
#include "processor.h"

#include <new>

trajcast_network *trajcast_network_create(const trajcast_ends *ends, const trajcast_layer *layers,
                                          int32_t num_layers, int32_t is_double,
                                          int32_t instructions) {
  try {
#ifdef TRAJCAST_X86
    const trajcast::Instructions chosen = trajcast::instructions(instructions);
    if (chosen == trajcast::Instructions::avx512)
      return trajcast::avx512::create(*ends, layers, num_layers, is_double).release();
    if (chosen == trajcast::Instructions::avx2)
      return trajcast::avx2::create(*ends, layers, num_layers, is_double).release();
#else
    (void)instructions;
#endif
    return trajcast::portable::create(*ends, layers, num_layers, is_double).release();
  } catch (const std::bad_alloc &) {
    return nullptr;
  }
}

void trajcast_network_free(trajcast_network *network) { delete network; }

int64_t trajcast_network_width(const trajcast_network *network, int32_t layer) {
  return network->width(layer);
}

int64_t trajcast_network_edge_rows(const trajcast_network *network) { return network->edge_rows(); }

const char *trajcast_network_instructions(const trajcast_network *network) {
  return network->instructions();
}

int64_t trajcast_network_bytes(const trajcast_network *network) { return network->bytes(); }

void trajcast_network_edges(const trajcast_network *network, int64_t num_edges,
                            const double *vectors, int64_t stride, void *edges, int threads) {
  network->edges(num_edges, vectors, stride, edges, threads);
}

void trajcast_network_embed(const trajcast_network *network, int64_t num_nodes,
                            const int64_t *species, const void *velocities, void *features,
                            int threads) {
  network->embed(num_nodes, species, velocities, features, threads);
}

int trajcast_network_layer(const trajcast_network *network, int32_t layer,
                           const trajcast_step *step, int threads) {
  return network->layer(layer, *step, threads) ? 0 : 1;
}

void trajcast_network_read_out(const trajcast_network *network, int64_t num_atoms,
                               const void *features, void *targets, int threads) {
  network->read_out(num_atoms, features, targets, threads);
}
