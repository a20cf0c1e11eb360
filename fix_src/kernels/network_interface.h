// What the files compiled for different processors offer to network.cpp.

#ifndef TRAJCAST_NETWORK_INTERFACE_H
#define TRAJCAST_NETWORK_INTERFACE_H

#include "network.h"

#include <memory>

struct trajcast_network {
  virtual ~trajcast_network() = default;
  virtual const char *instructions() const = 0;
  virtual int64_t bytes() const = 0;
  virtual int64_t width(int layer) const = 0;
  virtual int64_t edge_rows() const = 0;
  virtual void edges(int64_t num_edges, const double *vectors, int64_t stride, void *edges,
                     int threads) const = 0;
  virtual void embed(int64_t num_nodes, const int64_t *species, const void *velocities,
                     void *features, int threads) const = 0;
  virtual bool layer(int k, const trajcast_step &step, int threads) const = 0;
  virtual void read_out(int64_t num_atoms, const void *features, void *targets,
                        int threads) const = 0;
};

namespace trajcast {

#define TRAJCAST_DECLARE_CREATE(name)                                                              \
  namespace name {                                                                                 \
  std::unique_ptr<trajcast_network>                                                                \
  create(const trajcast_ends &ends, const trajcast_layer *layers, int num_layers, bool is_double); \
  }
TRAJCAST_DECLARE_CREATE(portable)
#ifdef TRAJCAST_X86
TRAJCAST_DECLARE_CREATE(avx2)
TRAJCAST_DECLARE_CREATE(avx512)
#endif
#undef TRAJCAST_DECLARE_CREATE

} // namespace trajcast

#endif
