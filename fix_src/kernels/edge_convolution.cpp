#include "edge_convolution.h"

#include <algorithm>
#include <new>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

// The loops over channels are short and their count must be known to the compiler to become a few
// vector instructions: each body is inlined once for every usual number of channels, and each of
// those is compiled for AVX-512, AVX2 and any x86-64; the loader picks one at run time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TRAJCAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRAJCAST_CLONES
#endif
#define TRAJCAST_INLINE inline __attribute__((always_inline))

namespace {

// sum over b of value * Y[b], for every entry of one edge
template <typename T>
TRAJCAST_INLINE void couplings(const trajcast_paths &paths, const T *__restrict__ harmonics,
                               T *__restrict__ coupling)
{
  for (int32_t t = 0; t < paths.num_entries; ++t) {
    T sum = 0;
    for (int32_t k = paths.first[t]; k < paths.first[t + 1]; ++k)
      sum += static_cast<T>(paths.value[k]) * harmonics[paths.harmonic[k]];
    coupling[t] = sum;
  }
}

template <typename T>
TRAJCAST_INLINE void forward_range(const trajcast_paths &paths, const trajcast_edges &edges,
                                   int64_t begin, int64_t end, int64_t channels, const T *features,
                                   const T *harmonics, const T *weights, T *out, T *coupling,
                                   T *product)
{
  const int64_t in_size = paths.num_inputs * channels;
  const int64_t out_size = paths.num_outputs * channels;
  for (int64_t i = begin; i < end; ++i) {
    T *__restrict__ result = out + i * out_size;
    std::fill(result, result + out_size, T(0));
    for (int64_t e = edges.first_edge[i]; e < edges.first_edge[i + 1]; ++e) {
      const T *__restrict__ h = features + edges.sender[e] * in_size;
      const T *__restrict__ w = weights + e * paths.num_paths * channels;
      couplings(paths, harmonics + e * paths.num_harmonics, coupling);
      for (int32_t t = 0; t < paths.num_entries;) {
        const int32_t p = paths.path[t], a = paths.input[t];
        for (int64_t u = 0; u < channels; ++u)
          product[u] = w[p * channels + u] * h[a * channels + u];
        for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t) {
          const T factor = coupling[t];
          T *__restrict__ row = result + paths.output[t] * channels;
          for (int64_t u = 0; u < channels; ++u) row[u] += factor * product[u];
        }
      }
    }
  }
}

template <typename T>
TRAJCAST_INLINE void backward_range(const trajcast_paths &paths, const trajcast_edges &edges,
                                    int64_t begin, int64_t end, int64_t channels, const T *features,
                                    const T *harmonics, const T *weights, const T *grad_out,
                                    T *grad_features, T *grad_weights, T *coupling, T *product)
{
  const int64_t in_size = paths.num_inputs * channels;
  const int64_t out_size = paths.num_outputs * channels;
  for (int64_t i = begin; i < end; ++i) {
    const T *__restrict__ g = grad_out + i * out_size;
    for (int64_t e = edges.first_edge[i]; e < edges.first_edge[i + 1]; ++e) {
      const int64_t w_start = e * paths.num_paths * channels;
      const T *__restrict__ h = features + edges.sender[e] * in_size;
      const T *__restrict__ w = weights + w_start;
      T *__restrict__ gh = grad_features + edges.sender[e] * in_size;
      T *__restrict__ gw = grad_weights + w_start;
      std::fill(gw, gw + paths.num_paths * channels, T(0));
      couplings(paths, harmonics + e * paths.num_harmonics, coupling);
      for (int32_t t = 0; t < paths.num_entries;) {
        const int32_t p = paths.path[t], a = paths.input[t];
        for (int64_t u = 0; u < channels; ++u) product[u] = T(0);
        for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t) {
          const T factor = coupling[t];
          const T *__restrict__ row = g + paths.output[t] * channels;
          for (int64_t u = 0; u < channels; ++u) product[u] += factor * row[u];
        }
        for (int64_t u = 0; u < channels; ++u) {
          gw[p * channels + u] += h[a * channels + u] * product[u];
          gh[a * channels + u] += w[p * channels + u] * product[u];
        }
      }
    }
  }
}

#define TRAJCAST_BY_CHANNELS(function, ...)                                                        \
  switch (edges.channels) {                                                                        \
  case 8:                                                                                          \
    return function(paths, edges, begin, end, 8, __VA_ARGS__);                                     \
  case 16:                                                                                         \
    return function(paths, edges, begin, end, 16, __VA_ARGS__);                                    \
  case 32:                                                                                         \
    return function(paths, edges, begin, end, 32, __VA_ARGS__);                                    \
  case 64:                                                                                         \
    return function(paths, edges, begin, end, 64, __VA_ARGS__);                                    \
  default:                                                                                         \
    return function(paths, edges, begin, end, edges.channels, __VA_ARGS__);                        \
  }

#define TRAJCAST_DEFINE_RANGES(T)                                                                  \
  TRAJCAST_CLONES void forward_part(const trajcast_paths &paths, const trajcast_edges &edges,      \
                                    int64_t begin, int64_t end, const T *features,                 \
                                    const T *harmonics, const T *weights, T *out, T *coupling,     \
                                    T *product)                                                    \
  {                                                                                                \
    TRAJCAST_BY_CHANNELS(forward_range<T>, features, harmonics, weights, out, coupling, product)   \
  }                                                                                                \
  TRAJCAST_CLONES void backward_part(const trajcast_paths &paths, const trajcast_edges &edges,     \
                                     int64_t begin, int64_t end, const T *features,                \
                                     const T *harmonics, const T *weights, const T *grad_out,      \
                                     T *grad_features, T *grad_weights, T *coupling, T *product)   \
  {                                                                                                \
    TRAJCAST_BY_CHANNELS(backward_range<T>, features, harmonics, weights, grad_out, grad_features, \
                         grad_weights, coupling, product)                                          \
  }

TRAJCAST_DEFINE_RANGES(float)
TRAJCAST_DEFINE_RANGES(double)

// Receivers are dealt out in equal, contiguous parts, so that the order of every sum, and with it
// the last digit of the result, depends on the number of threads alone.
int64_t part_begin(int64_t count, int part, int parts) { return count * part / parts; }

template <typename T>
void convolution(const trajcast_paths &paths, const trajcast_edges &edges, const T *features,
                 const T *harmonics, const T *weights, T *out, int threads)
{
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    std::vector<T> coupling(paths.num_entries), product(edges.channels);
    forward_part(paths, edges, part_begin(edges.num_receivers, part, threads),
                 part_begin(edges.num_receivers, part + 1, threads), features, harmonics, weights,
                 out, coupling.data(), product.data());
  }
}

template <typename T>
int convolution_backward(const trajcast_paths &paths, const trajcast_edges &edges,
                         const T *features, const T *harmonics, const T *weights,
                         const T *grad_out, T *grad_features, T *grad_weights, int threads)
{
  // Two receivers can have one sender, so each thread sums into features of its own.
  const int64_t size = edges.num_senders * paths.num_inputs * edges.channels;
  std::vector<T> partial;
  try {
    partial.assign(size * (threads - 1), T(0));
  } catch (const std::bad_alloc &) {
    return 1;
  }
  std::fill(grad_features, grad_features + size, T(0));
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    std::vector<T> coupling(paths.num_entries), product(edges.channels);
    T *own = part == 0 ? grad_features : partial.data() + size * (part - 1);
    backward_part(paths, edges, part_begin(edges.num_receivers, part, threads),
                  part_begin(edges.num_receivers, part + 1, threads), features, harmonics, weights,
                  grad_out, own, grad_weights, coupling.data(), product.data());
  }
  for (int part = 1; part < threads; ++part) {
    const T *other = partial.data() + size * (part - 1);
    for (int64_t k = 0; k < size; ++k) grad_features[k] += other[k];
  }
  return 0;
}

}    // namespace

void trajcast_convolution_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                              const float *features, const float *harmonics, const float *weights,
                              float *out, int threads)
{
  convolution(*paths, *edges, features, harmonics, weights, out, threads);
}

void trajcast_convolution_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                              const double *features, const double *harmonics,
                              const double *weights, double *out, int threads)
{
  convolution(*paths, *edges, features, harmonics, weights, out, threads);
}

int trajcast_convolution_backward_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const float *features, const float *harmonics,
                                      const float *weights, const float *grad_out,
                                      float *grad_features, float *grad_weights, int threads)
{
  return convolution_backward(*paths, *edges, features, harmonics, weights, grad_out,
                              grad_features, grad_weights, threads);
}

int trajcast_convolution_backward_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const double *features, const double *harmonics,
                                      const double *weights, const double *grad_out,
                                      double *grad_features, double *grad_weights, int threads)
{
  return convolution_backward(*paths, *edges, features, harmonics, weights, grad_out,
                              grad_features, grad_weights, threads);
}
