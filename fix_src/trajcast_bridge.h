/* SPDX-License-Identifier: GPL-2.0-or-later

   The whole interface between C++ and Python: of the fix to the network, and of pair_style
   python/ase to an ASE calculator.

   The C++ side calls the functions of trajcast_functions and trajcast_calculator_functions; their
   bodies are Python (lammps_trajcast/runtime/bridge.py and calculator_bridge.py).
   Every pointer belongs to the caller and has to stay valid only during the call, those of a
   trajcast_frame until conserve() has finished. All arrays are
   dense and row-major. Positions and displacements are in Angstrom, masses in g/mol, times in fs;
   velocities are in the units of the LAMMPS run, see trajcast_config.units.

   cffi reads the lines between the two markers as they stand: keep them free of the preprocessor.
 */

#ifndef TRAJCAST_BRIDGE_H
#define TRAJCAST_BRIDGE_H

#include <stdint.h>

/* cffi: begin */

/* What a call returns. */
enum trajcast_status {
  TRAJCAST_OK = 0,
  TRAJCAST_FAILED = 1, /* the message says what is wrong and what to do about it */
  TRAJCAST_ABORT = 2   /* failed on this rank, while the others wait for it: end the whole job */
};

/* Where a call writes its error message. */
typedef struct {
  char *text;       /* buffer of `capacity` bytes; always ends with a zero byte after a failure */
  int64_t capacity; /* bytes available, the final zero included */
} trajcast_message;

/* What the input script asked for. */
typedef struct {
  const char *model_path;      /* path of the model file */
  const char *const *elements; /* (num_types,) chemical symbol of LAMMPS atom type k + 1 */
  int64_t num_types;           /* number of LAMMPS atom types */
  const char *units;           /* "real" (velocities in Angstrom/fs) or "metal" (Angstrom/ps) */
  const char *device;          /* "auto", "cpu" or "cuda" */
  const char *precision;       /* "model", "single", "double" or "tf32": of the network */
  const char *kernels;         /* "fused", "direct" or "plain": code that evaluates the network */
  int64_t num_threads;         /* CPU threads for the network, at least 1 */
  int64_t num_ranks;           /* MPI ranks of the run; the rest is not read if there is one */
  int64_t node_rank;           /* number of this rank among those on the same machine, from 0 */
  int64_t node_ranks;          /* ranks on the same machine */
  int64_t communicator;        /* MPI communicator of the run as a Fortran handle (MPI_Comm_c2f) */
  int64_t mpi_function;        /* address of PMPI_Comm_rank in the MPI library of the run */
  const char *mpi_library;     /* what that library says of itself (MPI_Get_library_version) */
} trajcast_config;

/* What the model file says. Filled by open(). */
typedef struct {
  double timestep;      /* time that one prediction advances, fs */
  double cutoff;        /* neighbors closer than this are seen, Angstrom */
  int32_t has_energy;   /* 1 if energies() is possible, else 0 */
  double energy_cutoff; /* that of energies(), Angstrom, shorter or longer than the one above; 0 */
  int32_t conserves_angular_momentum; /* 1 for models of isolated molecules, else 0 */
  int32_t takes_angular_momentum;     /* 1 if it is zero after each step, whatever it was, else 0 */
  int32_t shares_device;              /* 1 if other ranks run on the same GPU, else 0 */
  int32_t finds_edges;  /* 1 if the network runs on a device and finds edges there: predict() wants
                           trajcast_frame.node_positions in place of them, and candidates() and
                           limit() are to be called; else 0 */
  char fingerprint[65]; /* SHA-256 of weights and description, hexadecimal, ends with a zero byte */
  int32_t has_limits; /* 1 if the file says how far the training data went, else 0: then the arrays
                         of limits below are left alone */
  double max_temperature; /* kinetic temperature of a frame of that data, K */

  /* Of each LAMMPS type's element; the caller allocates the arrays. Limits are those of the
     training data, infinite (distances: zero) where it had no such atoms. */
  double *masses;                /* (num_types,) g/mol */
  double *max_displacements;     /* (num_types,) in one time step, Angstrom */
  double *max_speeds;            /* (num_types,) in the units of the run */
  double *min_distances;         /* (num_types, num_types) Angstrom */
  double *max_nearest_distances; /* (num_types,) to the nearest neighbor, Angstrom */
} trajcast_model_info;

/* The atoms of other ranks that own atoms may see before the neighbor list is built anew, each
   once, sorted by rank, then index. */
typedef struct {
  int64_t num_candidates;
  const int32_t *ranks;   /* (num_candidates,) MPI rank that owns the atom */
  const int64_t *indices; /* (num_candidates,) the atom's place in the order of that rank */
} trajcast_halo;

/* Which edges there may be before the neighbor list is built anew, for a model that finds them
   itself. Nodes are the own atoms, then the atoms of trajcast_halo. */
typedef struct {
  int64_t num_atoms;    /* own atoms */
  int64_t num_remote;   /* num_candidates of trajcast_halo */
  const int64_t *first; /* (num_atoms + 1,) candidates of own atom i are first[i] ... first[i + 1]
                           - 1 */
  const int32_t *pairs; /* (first[num_atoms], 2) of each: the neighbor, a node, and its shift */
  int64_t num_shifts;
  const int32_t *shifts; /* (num_shifts, 3) how many lattice vectors a, b and c */
} trajcast_neighbors;

/* How far predictions may go, for a model that finds edges itself. Infinity, for distances zero,
   means no limit; all in the units of the run. */
typedef struct {
  const double *displacements;     /* (num_types,) in a time step */
  const double *speeds;            /* (num_types,) */
  const double *distances;         /* (num_types, num_types) */
  const double *nearest_distances; /* (num_types,) to the nearest neighbor */
} trajcast_limits;

/* One state of the system, and the neighbor list that goes with it.

   Nodes are the atoms of this rank, in its local order, followed by the remote nodes: those atoms
   of other ranks that an edge refers to, once each, in the order of trajcast_halo. Every pair of
   an own atom and an atom or periodic image closer than the cutoff is one edge. */
typedef struct {
  int64_t num_atoms;        /* own atoms */
  int64_t num_remote;       /* remote nodes; num_nodes = num_atoms + num_remote */
  const int64_t *remote;    /* (num_remote,) their places in trajcast_halo, ascending */
  const int32_t *types;     /* (num_nodes,) LAMMPS atom types, 1 ... num_types */
  const double *positions;  /* (num_atoms, 3) unwrapped by the image flags, Angstrom */
  const double *velocities; /* (num_nodes, 3) in the units of the run */
  const double *masses;     /* (num_atoms,) g/mol */

  int64_t num_edges;
  const int64_t *first_edge;  /* (num_atoms + 1,) edges of own atom i, which sees the neighbors,
                                 are first_edge[i] ... first_edge[i + 1] - 1 */
  const int64_t *senders;     /* (num_edges,) the neighbor, a node */
  const double *edge_vectors; /* (num_edges, 3) from receiver to the sender's image, Angstrom */

  int64_t num_interior; /* num_interior + num_boundary = num_atoms if there are remote nodes, else
                           both lists may be empty */
  const int64_t *interior; /* (num_interior,) own atoms without an edge to a remote node */
  int64_t num_boundary;
  const int64_t *boundary; /* (num_boundary,) own atoms with one */

  int64_t num_systems; /* of which each keeps its momentum; 1: all atoms are one */
  const int64_t
      *systems; /* (num_atoms,) system of each own atom, from 0; NULL if num_systems is 1 */

  int32_t remote_rows; /* 1: the prediction is wanted for remote nodes, too, from the ranks that own
                          them; all ranks have to agree */

  /* For a model that finds edges itself. Remote nodes are then all atoms of trajcast_halo, and
     there are no edges, nor interior and boundary. For other models node_positions is NULL. */
  const double *node_positions; /* (num_nodes, 3) wrapped, Angstrom */
  double cell[6];               /* xx, yy, zz, yz, xz, xy: a = (xx, 0, 0), b = (xy, yy, 0), c = (xz,
                                   yz, zz), Angstrom */
  const char *moved; /* (num_nodes,) 1 where the prediction will be applied to the atom, else 0;
                        NULL: everywhere */
  int32_t judge;     /* 1: compare the prediction with the limits of limit() */
} trajcast_frame;

enum { TRAJCAST_ROW = 6, TRAJCAST_MAX_SUMS = 16, TRAJCAST_CHECKS = 7 };

/* What predict() fills on each rank. */
typedef struct {
  double *rows; /* (num_atoms, 6), or (num_nodes, 6) if remote_rows is 1; the caller allocates it:
                   x(t + timestep) - x(t), Angstrom, and v(t + timestep), in the units of the run */

  /* What conserve() needs to know of all ranks: this rank's part of it, num_sums values. */
  double *sums; /* (num_systems, TRAJCAST_MAX_SUMS); the caller allocates it */
  int64_t num_sums;

  double network_seconds;  /* wall time of the network */
  double exchange_seconds; /* wall time of sending and receiving, and of waiting for it */
  int64_t bytes_received;  /* from other ranks */
  int64_t rows_sent;       /* atoms whose features went to another rank, in each exchange */

  /* Of a model that finds edges itself, in place of rows: rows() fetches them, and conserve() fills
     those of own atoms. */
  int64_t num_edges;
  int64_t num_broken;             /* own atoms whose prediction is not a number */
  double checks[TRAJCAST_CHECKS]; /* of this rank's moved atoms: atoms and pairs beyond a limit,
                                     atoms, mass, momentum (3), sum of m v^2 as predicted */
} trajcast_prediction;

/* What energies() fills, in the units of the run. The caller allocates the arrays. */
typedef struct {
  double *energies; /* (num_atoms,) of own atoms */
  double *virials;  /* (num_atoms, 6) xx, yy, zz, xy, xz, yz: their parts of minus the derivative of
                       the energy to the strain; or NULL: not wanted */
} trajcast_potential;

/* The calls. Each returns a trajcast_status, and writes a message if it fails. */
typedef struct {
  /* Load a model. On success `*handle` identifies it in the calls below and `info` is filled. */
  int (*open)(const trajcast_config *config, int64_t *handle, trajcast_model_info *info,
              trajcast_message *message);

  /* Agree with the other ranks on whose features go where. To be called by all of several ranks
     after each change of the order of atoms, before predict(). */
  int (*plan)(int64_t handle, const trajcast_halo *halo, trajcast_message *message);

  /* Take the candidates of a neighbor list, after plan() and before predict(), on this rank. */
  int (*candidates)(int64_t handle, const trajcast_neighbors *neighbors, trajcast_message *message);

  /* Take the limits that a run compares predictions with. */
  int (*limit)(int64_t handle, const trajcast_limits *limits, trajcast_message *message);

  /* Predict the state one time step of the model later, momentum not conserved. All ranks have to
     call it; a rank without atoms does, too. After TRAJCAST_FAILED this rank has taken part in all
     exchanges: the others do not know of it, and need not be told before their next one. */
  int (*predict)(int64_t handle, const trajcast_frame *frame, trajcast_prediction *prediction,
                 trajcast_message *message);

  /* Fill the rows of the last prediction of a model that finds edges itself, momentum not
     conserved. */
  int (*rows)(int64_t handle, trajcast_prediction *prediction, trajcast_message *message);

  /* Take rows that the caller has made of several predictions for one from this frame, of which
     edges, types and remote nodes are not read, and leave in `prediction->sums` what conserve()
     begins with. */
  int (*adopt)(int64_t handle, const trajcast_frame *frame, trajcast_prediction *prediction,
               trajcast_message *message);

  /* Restore the total momentum, and the angular momentum where the model asks for it, in the rows
     of own atoms of the last prediction, or of what was adopted since. It takes one or more rounds:
     the caller adds up the num_sums values of `prediction->sums` over all ranks, then calls this
     function, which leaves the sums of the next round there; until num_sums is zero. */
  int (*conserve)(int64_t handle, trajcast_prediction *prediction, trajcast_message *message);

  /* The potential energy of own atoms. Of the frame it needs nothing but types and edges, all that
     are closer than energy_cutoff. Other ranks need not call it. */
  int (*energies)(int64_t handle, const trajcast_frame *frame, trajcast_potential *potential,
                  trajcast_message *message);

  /* Forget a model. A handle that is not known is ignored. */
  int (*close)(int64_t handle, trajcast_message *message);
} trajcast_functions;

/* ---- pair_style python/ase. Energies are in eV, forces in eV/Angstrom. ---- */

/* Which calculator. */
typedef struct {
  const char *callable;      /* MODULE:CALLABLE or FILE.py:CALLABLE */
  int64_t num_options;       /* keyword arguments of the callable */
  const char *const *keys;   /* (num_options,) */
  const char *const *values; /* (num_options,) as they stand in the input script */
  int64_t num_directories;
  const char *const *directories; /* (num_directories,) absolute paths; looked into before Python's
                                     own, the first one first */
  int64_t num_ranks;              /* MPI ranks of the run, of which only this one calls */
} trajcast_calculator_config;

/* The system, in the order of atom IDs. */
typedef struct {
  int64_t num_atoms;
  const int64_t *ids;      /* (num_atoms,) ascending */
  const int32_t *numbers;  /* (num_atoms,) atomic numbers */
  const double *positions; /* (num_atoms, 3) from the origin of the box, Angstrom */
  double cell[9];          /* (3, 3) rows are the edges of the box, Angstrom */
  int32_t periodic[3];     /* 1 along an edge that is periodic, else 0 */
} trajcast_atoms;

/* What calculate() shall find, and what it has found. The caller allocates the arrays. */
typedef struct {
  int32_t wants_virial; /* 1: fill virial, with NaN if the calculator has none; 2: that would be
                           an error */
  int32_t wants_atom_virials; /* 1: fill atom_virials */
  double energy;
  double *forces;        /* (num_atoms, 3) */
  double *atom_energies; /* (num_atoms,), or NULL: not wanted */
  double virial[6];      /* xx, yy, zz, xy, xz, yz, eV: minus the derivative to the strain */
  double *atom_virials;  /* (num_atoms, 6) in the same order; they add up to virial */
  int64_t evaluations;   /* of the calculator since it was made */
} trajcast_calculation;

/* The calls. Each returns TRAJCAST_OK, or TRAJCAST_FAILED and writes a message. */
typedef struct {
  /* Make a calculator. On success `*handle` identifies it in the calls below. */
  int (*calculator_open)(const trajcast_calculator_config *config, int64_t *handle,
                         trajcast_message *message);

  /* The atomic numbers (count,) of chemical symbols (count,); 0 for "NULL". */
  int (*atomic_numbers)(int64_t count, const char *const *symbols, int32_t *numbers,
                        trajcast_message *message);

  /* Energy, forces and what else is wanted. */
  int (*calculate)(int64_t handle, const trajcast_atoms *atoms, trajcast_calculation *calculation,
                   trajcast_message *message);

  /* Forget a calculator. A handle that is not known is ignored. */
  int (*calculator_close)(int64_t handle, trajcast_message *message);
} trajcast_calculator_functions;

/* cffi: end */

#endif
