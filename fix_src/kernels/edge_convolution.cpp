#include "convolution_interface.h"
#include "processor.h"

#include <algorithm>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace trajcast {
namespace {

// What is compiled for this processor.
template <typename T> struct Kernels {
  void (*convolve)(const Convolution<T> &, int64_t, int64_t, T *);
  void (*differentiate)(const Convolution<T> &, int64_t, int64_t, const ConvolutionGradients<T> &);
};

template <typename T> Kernels<T> kernels(int32_t asked) {
#ifdef TRAJCAST_X86
  const Instructions chosen = instructions(asked);
  if (chosen == Instructions::avx512)
    return {avx512::convolve, avx512::differentiate};
  if (chosen == Instructions::avx2)
    return {avx2::convolve, avx2::differentiate};
#else
  (void)asked;
#endif
  return {portable::convolve, portable::differentiate};
}

// Receivers are dealt out in equal, contiguous parts, so that the order of every sum, and with it
// the last digit of the result, depends on the number of threads alone.
int64_t part_begin(int64_t count, int part, int parts) { return count * part / parts; }

// Returns false if there is no memory.
template <typename T> bool convolution(const Convolution<T> &given, T *out, int threads) {
  const Kernels<T> chosen = kernels<T>(given.edges.instructions);
  const int64_t count = given.edges.num_receivers;
  bool failed = false;
#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(|| : failed)
  for (int part = 0; part < threads; ++part) {
    try {
      chosen.convolve(given, part_begin(count, part, threads), part_begin(count, part + 1, threads),
                      out);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
  }
  return !failed;
}

template <typename T>
bool convolution_backward(const Convolution<T> &given, const T *grad_out, T *grad_features,
                          T *grad_own, T *grad_weights, int threads) {
  const Kernels<T> chosen = kernels<T>(given.edges.instructions);
  const trajcast_edges &edges = given.edges;
  const int64_t count = edges.num_receivers;
  const int64_t row = given.paths.num_inputs * edges.channels;
  const int64_t weights_row = given.paths.num_paths * edges.channels;
  // Two receivers can have one sender, so each thread sums into features of its own; and two edges
  // one node of the table.
  const int64_t size = edges.num_senders * row;
  const int64_t table_size = edges.node ? edges.num_nodes * weights_row : 0;
  std::vector<T> partial;
  try {
    partial.assign((size + table_size) * (threads - 1), T(0));
  } catch (const std::bad_alloc &) {
    return false;
  }
  std::fill(grad_features, grad_features + size, T(0));
  std::fill(grad_weights, grad_weights + (edges.node ? table_size : edges.num_edges * weights_row),
            T(0));
  if (given.own)
    std::fill(grad_own, grad_own + count * row, T(0));
  bool failed = false;
#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(|| : failed)
  for (int part = 0; part < threads; ++part) {
    T *own_part = partial.data() + (size + table_size) * (part - 1);
    const ConvolutionGradients<T> gradients = {
        grad_out, part == 0 ? grad_features : own_part, given.own ? grad_own : nullptr,
        part == 0 || !edges.node ? grad_weights : own_part + size};
    try {
      chosen.differentiate(given, part_begin(count, part, threads),
                           part_begin(count, part + 1, threads), gradients);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
  }
  for (int part = 1; part < threads; ++part) {
    const T *other = partial.data() + (size + table_size) * (part - 1);
    for (int64_t k = 0; k < size; ++k)
      grad_features[k] += other[k];
    for (int64_t k = 0; k < table_size; ++k)
      grad_weights[k] += other[size + k];
  }
  return !failed;
}

} // namespace
} // namespace trajcast

using trajcast::convolution;
using trajcast::convolution_backward;

int trajcast_convolution_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                             const float *features, const float *own, const float *harmonics,
                             const float *weights, float *out, int threads) {
  return convolution<float>({*paths, *edges, features, own, harmonics, weights}, out, threads) ? 0
                                                                                               : 1;
}

int trajcast_convolution_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                             const double *features, const double *own, const double *harmonics,
                             const double *weights, double *out, int threads) {
  return convolution<double>({*paths, *edges, features, own, harmonics, weights}, out, threads) ? 0
                                                                                                : 1;
}

int trajcast_convolution_backward_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const float *features, const float *own,
                                      const float *harmonics, const float *weights,
                                      const float *grad_out, float *grad_features, float *grad_own,
                                      float *grad_weights, int threads) {
  return convolution_backward<float>({*paths, *edges, features, own, harmonics, weights}, grad_out,
                                     grad_features, grad_own, grad_weights, threads)
             ? 0
             : 1;
}

int trajcast_convolution_backward_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const double *features, const double *own,
                                      const double *harmonics, const double *weights,
                                      const double *grad_out, double *grad_features,
                                      double *grad_own, double *grad_weights, int threads) {
  return convolution_backward<double>({*paths, *edges, features, own, harmonics, weights}, grad_out,
                                      grad_features, grad_own, grad_weights, threads)
             ? 0
             : 1;
}
