/* The TrajCast network for prediction, a layer at a time, in single or double precision.

   Atoms are worked on in blocks that stay in the processor's cache: the messages of a block are
   summed, contracted, conditioned on the velocity, updated and gated before the next block begins,
   so nothing of size atoms x paths, let alone edges x paths, is ever stored. The weights of the
   messages are functions of the distance alone, and those of the velocity product functions of
   species and speed: both come from tables of Hermite polynomials.

   Features of an atom: (channel_blocks, rows, 16), where a row is one m of one irrep, and channels
   are dealt out in blocks of 16, the last filled up with zeros.

   This header is C99 and is also read by cffi: keep it free of preprocessor directives below the
   marker line. All arrays are owned by the caller and row-major unless said otherwise. */

#ifndef LAMMPS_TRAJCAST_NETWORK_H
#define LAMMPS_TRAJCAST_NETWORK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- cffi reads from here -- */

/* One path of a depthwise tensor product: orders l_in x l_edge -> l_out. */
typedef struct {
  int32_t l_in, l_edge, l_out;
  int32_t input; /* first row of its irrep in the features */
  int32_t group; /* the irrep of its result, see trajcast_group */
  int32_t path;  /* its place among the paths of that irrep */
} trajcast_product;

/* All paths that lead to one irrep, and the linear map that follows. */
typedef struct {
  int32_t l;         /* order of the irrep */
  int32_t num_paths; /* K = num_paths * channels inputs of the map, path by path */
  int32_t columns;   /* outputs of the map, in units of the number of channels */
  int32_t output;    /* first row of its irrep in the map's result; its `columns` follow */
} trajcast_group;

/* Functions of x, one for each path and channel, interpolated between equidistant nodes by the
   Hermite polynomials of degree 2 * order - 1. Below the first node and beyond the last they keep
   the value that they have there. */
typedef struct {
  int32_t num_sets;  /* 1, or the number of species */
  int32_t num_nodes; /* at least 2 */
  int32_t order;     /* 2 or 3: value and so many less one derivatives are given */
  double first, spacing;
  const double *values; /* (num_sets, num_nodes, functions, order, channels); the k-th derivative
                           multiplied by spacing^k */
} trajcast_table;

/* A depthwise tensor product followed by a linear map. */
typedef struct {
  int32_t num_products, num_groups;
  const trajcast_product *products; /* (num_products,) in the order of the table's functions */
  const trajcast_group *groups;     /* (num_groups,) */
  const double *weights;            /* the maps, one after the other: (K, columns * channels) */
  trajcast_table table;
} trajcast_product_layer;

/* What becomes of an irrep of the update. */
typedef struct {
  int32_t l;          /* order */
  int32_t output;     /* its first row in the new features */
  int32_t update;     /* its first row in the update */
  int32_t gate;       /* row of the update that gates it, or -1: an activation function instead */
  int32_t residual;   /* its first row in the old features, or -1 */
  int32_t activation; /* of it or of its gate: 0 silu, 1 tanh, 2 relu, 3 sigmoid */
  double scale;       /* factor after that activation function */
  const double *residual_weights; /* (num_species, channels, channels); may be null */
} trajcast_gated;

/* One interaction layer. */
typedef struct {
  int32_t rows_in, rows_contracted, rows_update, rows_out;
  trajcast_product_layer message;  /* of neighbors' features; the map is the contraction */
  trajcast_product_layer velocity; /* of contracted features; the map is the update */
  int32_t num_gated;
  const trajcast_gated *gated; /* (num_gated,) */
  const double *own; /* (rows_in, channels): messages are made of the sender's features plus this
                        times the receiver's; null: of the sender's alone */
} trajcast_layer;

/* First features and read-out. */
typedef struct {
  int32_t lmax; /* at most 3 */
  int32_t channels;
  int32_t num_species;
  trajcast_table scalars;      /* (num_species, num_nodes, 1, order, channels): of the speed */
  double speed_limit;          /* > 0: tables of the speed s, these and the layers', are of
                                  s / (1 + (s / speed_limit)^8)^(1/8) instead */
  const double *speed_factors; /* (num_species,) of the speed, before it is limited or looked up;
                                  null: none */
  double velocity_scale;    /* > 0: the harmonics of a velocity are solid ones of the velocity over
                            this; 0: spherical ones of its direction */
  const double *directions; /* (lmax, channels): first features of orders 1, 2, ... are this times
                               the harmonics of the velocity */
  int32_t vectors;          /* first row of the irrep 1o in the last features */
  const double *read_out;   /* (channels, 2) */
} trajcast_ends;

/* A compiled network. Its precision is fixed; any number of threads may use one together. */
typedef struct trajcast_network trajcast_network;

/* Return a network that keeps nothing of what is passed; null: there is no memory for it.
   is_double: precision. instructions: the processor's to use, 0 the best there are,
   1 any processor's, 2 AVX2 at most. */
trajcast_network *trajcast_network_create(const trajcast_ends *ends, const trajcast_layer *layers,
                                          int32_t num_layers, int32_t is_double,
                                          int32_t instructions);
void trajcast_network_free(trajcast_network *network);

/* Values of an atom's features before layer k = 0 ... num_layers (that many: the last ones). */
int64_t trajcast_network_width(const trajcast_network *network, int32_t layer);
/* Rows of the array of edge data: values of an edge. */
int64_t trajcast_network_edge_rows(const trajcast_network *network);
/* Which instructions it uses: "avx512", "avx2" or "portable". */
const char *trajcast_network_instructions(const trajcast_network *network);
/* Bytes of its tables and weights. */
int64_t trajcast_network_bytes(const trajcast_network *network);

/* In what follows arrays of void hold float or double, the network's precision. Functions that
   return int return 0, or 1 if there is no memory for a thread's workspace. */

/* Edge data (edge_rows, stride) from edge vectors (num_edges, 3) in Angstrom, which are always
   double. stride: at least num_edges + 15. */
void trajcast_network_edges(const trajcast_network *network, int64_t num_edges,
                            const double *vectors, int64_t stride, void *edges, int threads);

/* features (num_nodes, width(0)) from species (num_nodes,) and velocities (num_nodes, 3). */
void trajcast_network_embed(const trajcast_network *network, int64_t num_nodes,
                            const int64_t *species, const void *velocities, void *features,
                            int threads);

/* Features after a layer, for some atoms. */
typedef struct {
  int64_t num_receivers;     /* how many atoms to work on */
  const int64_t *receivers;  /* (num_receivers,) which; null: 0 ... num_receivers - 1 */
  const int64_t *first_edge; /* (atoms + 1,) edges of atom i are first_edge[i] ... [i + 1] - 1 */
  const int64_t *senders;    /* (num_edges,) */
  const int64_t *species;    /* (atoms,) */
  const void *velocities;    /* (atoms, 3) */
  const void *edges;         /* (edge_rows, stride), see trajcast_network_edges */
  int64_t stride;
  const void *features; /* (nodes, width(layer)) */
  void *out;            /* (nodes, width(layer + 1)): rows of the receivers are written */
} trajcast_step;
int trajcast_network_layer(const trajcast_network *network, int32_t layer,
                           const trajcast_step *step, int threads);

/* targets (num_atoms, 6) from features (num_atoms, width(num_layers)). */
void trajcast_network_read_out(const trajcast_network *network, int64_t num_atoms,
                               const void *features, void *targets, int threads);

/* -- to here -- */

#ifdef __cplusplus
}
#endif

#endif
