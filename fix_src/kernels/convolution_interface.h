// What the files compiled for different processors offer to edge_convolution.cpp.

#ifndef TRAJCAST_CONVOLUTION_INTERFACE_H
#define TRAJCAST_CONVOLUTION_INTERFACE_H

#include "edge_convolution.h"

namespace trajcast {

// See trajcast_convolution_f32().
template <typename T> struct Convolution {
  const trajcast_paths &paths;
  const trajcast_edges &edges;
  const T *features;
  const T *own; // may be null
  const T *harmonics;
  const T *weights;
};

// Gradients are added to those that are there.
template <typename T> struct ConvolutionGradients {
  const T *out;
  T *features;
  T *own; // null where there are no own features
  T *weights;
};

// Of receivers begin ... end - 1 alone; std::bad_alloc where there is no memory.
#define TRAJCAST_DECLARE_CONVOLUTION(name)                                                         \
  namespace name {                                                                                 \
  void convolve(const Convolution<float> &given, int64_t begin, int64_t end, float *out);          \
  void convolve(const Convolution<double> &given, int64_t begin, int64_t end, double *out);        \
  void differentiate(const Convolution<float> &given, int64_t begin, int64_t end,                  \
                     const ConvolutionGradients<float> &gradients);                                \
  void differentiate(const Convolution<double> &given, int64_t begin, int64_t end,                 \
                     const ConvolutionGradients<double> &gradients);                               \
  }
TRAJCAST_DECLARE_CONVOLUTION(portable)
#ifdef TRAJCAST_X86
TRAJCAST_DECLARE_CONVOLUTION(avx2)
TRAJCAST_DECLARE_CONVOLUTION(avx512)
#endif
#undef TRAJCAST_DECLARE_CONVOLUTION

} // namespace trajcast

#endif
