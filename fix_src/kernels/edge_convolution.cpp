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
#define TRAJCAST_CLONES                                                                            \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRAJCAST_CLONES
#endif
#define TRAJCAST_INLINE inline __attribute__((always_inline))

namespace {

// So many edges share one pass over the table of coefficients: a vector register of floats.
constexpr int kLanes = 16;

// Scratch memory of one thread.
template <typename T> struct Workspace {
  std::vector<T> value;    // coefficients in the precision of the features
  std::vector<T> harmonic; // (num_harmonics, kLanes)
  std::vector<T> coupling; // (num_entries, kLanes): sum over b of value * Y[b]
  std::vector<T> product;  // (channels)
  std::vector<T> row;      // (num_inputs, channels): what the neighbor and the atom give together
  std::vector<T> gradient; // the same, its gradient

  Workspace(const trajcast_paths &paths, int64_t channels)
      : value(paths.value, paths.value + paths.first[paths.num_entries]),
        harmonic(paths.num_harmonics * kLanes), coupling(paths.num_entries * kLanes),
        product(channels), row(paths.num_inputs * channels), gradient(paths.num_inputs * channels) {
  }
};

// Fill the couplings of up to kLanes consecutive edges.
template <typename T>
TRAJCAST_INLINE void couple(const trajcast_paths &paths, const T *harmonics, int lanes,
                            Workspace<T> &work) {
  T *__restrict__ transposed = work.harmonic.data();
  T *__restrict__ coupling = work.coupling.data();
  const T *__restrict__ value = work.value.data();
  for (int32_t b = 0; b < paths.num_harmonics; ++b)
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane)
      transposed[b * kLanes + lane] =
          lane < lanes ? harmonics[lane * paths.num_harmonics + b] : T(0);
  for (int32_t t = 0; t < paths.num_entries; ++t) {
    T sum[kLanes] = {};
    for (int32_t k = paths.first[t]; k < paths.first[t + 1]; ++k) {
      const T *__restrict__ y = transposed + paths.harmonic[k] * kLanes;
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane)
        sum[lane] += value[k] * y[lane];
    }
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane)
      coupling[t * kLanes + lane] = sum[lane];
  }
}

// What an edge's tensor product takes: the sender's features, plus the receiver's own share if
// there is one.
template <typename T>
TRAJCAST_INLINE const T *joined(const T *sender, const T *own, int64_t receiver, int64_t size,
                                T *__restrict__ row) {
  if (!own)
    return sender;
  const T *const share = own + receiver * size;
#pragma omp simd
  for (int64_t k = 0; k < size; ++k)
    row[k] = sender[k] + share[k];
  return row;
}

template <typename T>
TRAJCAST_INLINE void forward_range(const trajcast_paths &paths, const trajcast_edges &edges,
                                   int64_t begin, int64_t end, int64_t channels, const T *features,
                                   const T *own, const T *harmonics, const T *weights, T *out,
                                   Workspace<T> &work) {
  const int64_t in_size = paths.num_inputs * channels;
  const int64_t out_size = paths.num_outputs * channels;
  const int64_t last = edges.first_edge[end];
  T *__restrict__ product = work.product.data();
  std::fill(out + begin * out_size, out + end * out_size, T(0));
  int64_t i = begin;
  for (int64_t start = edges.first_edge[begin]; start < last; start += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - start));
    couple(paths, harmonics + start * paths.num_harmonics, lanes, work);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t e = start + lane;
      while (e >= edges.first_edge[i + 1])
        ++i;
      const T *__restrict__ coupling = work.coupling.data() + lane;
      const T *__restrict__ h =
          joined(features + edges.sender[e] * in_size, own, i, in_size, work.row.data());
      const T *__restrict__ w = weights + e * paths.num_paths * channels;
      T *__restrict__ result = out + i * out_size;
      for (int32_t t = 0; t < paths.num_entries;) {
        const int32_t p = paths.path[t], a = paths.input[t];
#pragma omp simd
        for (int64_t u = 0; u < channels; ++u)
          product[u] = w[p * channels + u] * h[a * channels + u];
        for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t) {
          const T factor = coupling[t * kLanes];
          T *__restrict__ row = result + paths.output[t] * channels;
#pragma omp simd
          for (int64_t u = 0; u < channels; ++u)
            row[u] += factor * product[u];
        }
      }
    }
  }
}

template <typename T>
TRAJCAST_INLINE void backward_range(const trajcast_paths &paths, const trajcast_edges &edges,
                                    int64_t begin, int64_t end, int64_t channels, const T *features,
                                    const T *own, const T *harmonics, const T *weights,
                                    const T *grad_out, T *grad_features, T *grad_own,
                                    T *grad_weights, Workspace<T> &work) {
  const int64_t in_size = paths.num_inputs * channels;
  const int64_t out_size = paths.num_outputs * channels;
  const int64_t last = edges.first_edge[end];
  T *__restrict__ product = work.product.data();
  int64_t i = begin;
  for (int64_t start = edges.first_edge[begin]; start < last; start += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - start));
    couple(paths, harmonics + start * paths.num_harmonics, lanes, work);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t e = start + lane;
      while (e >= edges.first_edge[i + 1])
        ++i;
      const int64_t w_start = e * paths.num_paths * channels;
      const T *__restrict__ coupling = work.coupling.data() + lane;
      const T *__restrict__ g = grad_out + i * out_size;
      const T *__restrict__ h =
          joined(features + edges.sender[e] * in_size, own, i, in_size, work.row.data());
      const T *__restrict__ w = weights + w_start;
      T *const grad_sender = grad_features + edges.sender[e] * in_size;
      T *__restrict__ gh = own ? work.gradient.data() : grad_sender;
      if (own)
        std::fill(gh, gh + in_size, T(0));
      T *__restrict__ gw = grad_weights + w_start;
      std::fill(gw, gw + paths.num_paths * channels, T(0));
      for (int32_t t = 0; t < paths.num_entries;) {
        const int32_t p = paths.path[t], a = paths.input[t];
#pragma omp simd
        for (int64_t u = 0; u < channels; ++u)
          product[u] = T(0);
        for (; t < paths.num_entries && paths.path[t] == p && paths.input[t] == a; ++t) {
          const T factor = coupling[t * kLanes];
          const T *__restrict__ row = g + paths.output[t] * channels;
#pragma omp simd
          for (int64_t u = 0; u < channels; ++u)
            product[u] += factor * row[u];
        }
#pragma omp simd
        for (int64_t u = 0; u < channels; ++u) {
          gw[p * channels + u] += h[a * channels + u] * product[u];
          gh[a * channels + u] += w[p * channels + u] * product[u];
        }
      }
      if (own) {
        T *const grad_receiver = grad_own + i * in_size;
        for (int64_t k = 0; k < in_size; ++k) {
          grad_sender[k] += gh[k];
          grad_receiver[k] += gh[k];
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
                                    int64_t begin, int64_t end, const T *features, const T *own,   \
                                    const T *harmonics, const T *weights, T *out,                  \
                                    Workspace<T> &work){TRAJCAST_BY_CHANNELS(                      \
      forward_range<T>, features, own, harmonics, weights, out,                                    \
      work)} TRAJCAST_CLONES void backward_part(const trajcast_paths &paths,                       \
                                                const trajcast_edges &edges, int64_t begin,        \
                                                int64_t end, const T *features, const T *own,      \
                                                const T *harmonics, const T *weights,              \
                                                const T *grad_out, T *grad_features, T *grad_own,  \
                                                T *grad_weights, Workspace<T> &work) {             \
    TRAJCAST_BY_CHANNELS(backward_range<T>, features, own, harmonics, weights, grad_out,           \
                         grad_features, grad_own, grad_weights, work)                              \
  }

TRAJCAST_DEFINE_RANGES(float)
TRAJCAST_DEFINE_RANGES(double)

// Receivers are dealt out in equal, contiguous parts, so that the order of every sum, and with it
// the last digit of the result, depends on the number of threads alone.
int64_t part_begin(int64_t count, int part, int parts) { return count * part / parts; }

template <typename T>
void convolution(const trajcast_paths &paths, const trajcast_edges &edges, const T *features,
                 const T *own, const T *harmonics, const T *weights, T *out, int threads) {
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    Workspace<T> work(paths, edges.channels);
    forward_part(paths, edges, part_begin(edges.num_receivers, part, threads),
                 part_begin(edges.num_receivers, part + 1, threads), features, own, harmonics,
                 weights, out, work);
  }
}

template <typename T>
int convolution_backward(const trajcast_paths &paths, const trajcast_edges &edges,
                         const T *features, const T *own, const T *harmonics, const T *weights,
                         const T *grad_out, T *grad_features, T *grad_own, T *grad_weights,
                         int threads) {
  // Two receivers can have one sender, so each thread sums into features of its own.
  const int64_t size = edges.num_senders * paths.num_inputs * edges.channels;
  std::vector<T> partial;
  try {
    partial.assign(size * (threads - 1), T(0));
  } catch (const std::bad_alloc &) {
    return 1;
  }
  std::fill(grad_features, grad_features + size, T(0));
  if (own)
    std::fill(grad_own, grad_own + edges.num_receivers * paths.num_inputs * edges.channels, T(0));
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    Workspace<T> work(paths, edges.channels);
    T *sum = part == 0 ? grad_features : partial.data() + size * (part - 1);
    backward_part(paths, edges, part_begin(edges.num_receivers, part, threads),
                  part_begin(edges.num_receivers, part + 1, threads), features, own, harmonics,
                  weights, grad_out, sum, grad_own, grad_weights, work);
  }
  for (int part = 1; part < threads; ++part) {
    const T *other = partial.data() + size * (part - 1);
    for (int64_t k = 0; k < size; ++k)
      grad_features[k] += other[k];
  }
  return 0;
}

} // namespace

void trajcast_convolution_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                              const float *features, const float *own, const float *harmonics,
                              const float *weights, float *out, int threads) {
  convolution(*paths, *edges, features, own, harmonics, weights, out, threads);
}

void trajcast_convolution_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                              const double *features, const double *own, const double *harmonics,
                              const double *weights, double *out, int threads) {
  convolution(*paths, *edges, features, own, harmonics, weights, out, threads);
}

int trajcast_convolution_backward_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const float *features, const float *own,
                                      const float *harmonics, const float *weights,
                                      const float *grad_out, float *grad_features, float *grad_own,
                                      float *grad_weights, int threads) {
  return convolution_backward(*paths, *edges, features, own, harmonics, weights, grad_out,
                              grad_features, grad_own, grad_weights, threads);
}

int trajcast_convolution_backward_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const double *features, const double *own,
                                      const double *harmonics, const double *weights,
                                      const double *grad_out, double *grad_features,
                                      double *grad_own, double *grad_weights, int threads) {
  return convolution_backward(*paths, *edges, features, own, harmonics, weights, grad_out,
                              grad_features, grad_own, grad_weights, threads);
}
