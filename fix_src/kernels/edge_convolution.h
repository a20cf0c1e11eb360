/* The edge convolution: the sum over an atom's neighbors of the depthwise tensor product of the
   neighbor's features with the spherical harmonics of the edge, without ever storing anything of
   size edges x paths x components.

     out[i, c, u] = sum over edges e = (i <- j), terms t with output row c:
                    value_t * Y[e, b_t] * weight[e, p_t, u] * features[j, a_t, u]

   With features of the receivers' own, own[i, a_t, u] is added to features[j, a_t, u].

   A "term" is one non-zero Clebsch-Gordan coefficient of one path. Terms come grouped into
   "entries" (p, a, c): the sum over b of value * Y[b] is formed once an edge and entry. Entries
   are sorted by (p, a), so that weight[p] * features[a] is formed once for all c.

   This header is C99 and is also read by cffi: keep it free of preprocessor directives below the
   marker line. All arrays are owned by the caller and row-major. */

#ifndef LAMMPS_TRAJCAST_EDGE_CONVOLUTION_H
#define LAMMPS_TRAJCAST_EDGE_CONVOLUTION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- cffi reads from here -- */

/* The paths of a depthwise tensor product, as a sparse table. */
typedef struct {
  int32_t num_paths;       /* number of weights an edge and channel */
  int32_t num_harmonics;   /* (lmax + 1)^2, columns of Y */
  int32_t num_inputs;      /* rows (components) of the features of one atom */
  int32_t num_outputs;     /* rows of the result of one atom */
  int32_t num_entries;     /* number of (path, input row, output row) triples */
  const int32_t *path;     /* (num_entries,) p, ascending */
  const int32_t *input;    /* (num_entries,) a, ascending within a path */
  const int32_t *output;   /* (num_entries,) c */
  const int32_t *first;    /* (num_entries + 1,) first term of each entry */
  const int32_t *harmonic; /* (first[num_entries],) b of each term */
  const double *value;     /* (first[num_entries],) normalized Clebsch-Gordan coefficient */
  /* The same, path by path. */
  const int32_t *order;     /* (num_paths, 3) of features, harmonics and result */
  const int32_t *first_row; /* (num_paths, 3) of features and of the result; and from one component
                               of the result to the next */
  const double *factor;     /* (num_paths,) of Clebsch-Gordan coefficients as e3nn's wigner_3j */
} trajcast_paths;

/* One graph: edges sorted by receiver. */
typedef struct {
  int64_t num_receivers; /* atoms that receive messages */
  int64_t num_senders;   /* rows of the features; receivers first */
  int64_t num_edges;
  int64_t channels;          /* number of channels, U */
  const int64_t *first_edge; /* (num_receivers + 1,) */
  const int64_t *sender;     /* (num_edges,) */
  /* Where weights are a table: those of an edge lie between the rows node and node + 1. */
  int64_t num_nodes;
  const int64_t *node;    /* (num_edges,), or null: weights of the edges themselves */
  const double *fraction; /* (num_edges,) of the way to the upper row; 0 to 1 */
  int32_t instructions;   /* 0: the best of the processor, 1: portable, 2: AVX2 at most */
} trajcast_edges;

/* out (num_receivers, num_outputs, U) from features (num_senders, num_inputs, U),
   own (num_receivers, num_inputs, U) or null,
   harmonics (num_edges, num_harmonics), weights (num_edges or num_nodes, num_paths, U).
   threads: number of OpenMP threads. Returns 0, or 1 if there is no memory. */
int trajcast_convolution_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                             const float *features, const float *own, const float *harmonics,
                             const float *weights, float *out, int threads);
int trajcast_convolution_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                             const double *features, const double *own, const double *harmonics,
                             const double *weights, double *out, int threads);

/* Gradients to features, own (if there is one) and weights, all overwritten, from grad_out
   (num_receivers, num_outputs, U). Returns 0, or 1 if there is no memory. */
int trajcast_convolution_backward_f32(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const float *features, const float *own,
                                      const float *harmonics, const float *weights,
                                      const float *grad_out, float *grad_features, float *grad_own,
                                      float *grad_weights, int threads);
int trajcast_convolution_backward_f64(const trajcast_paths *paths, const trajcast_edges *edges,
                                      const double *features, const double *own,
                                      const double *harmonics, const double *weights,
                                      const double *grad_out, double *grad_features,
                                      double *grad_own, double *grad_weights, int threads);

/* -- to here -- */

#ifdef __cplusplus
}
#endif

#endif
