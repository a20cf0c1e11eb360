/* SPDX-License-Identifier: GPL-2.0-or-later

   The whole interface between the C++ of the fix and the Python that knows the network.

   The C++ side calls the functions of trajcast_functions; their bodies are Python
   (lammps_trajcast/runtime/bridge.py).
   Every pointer belongs to the caller and has to stay valid only during the call. All arrays are
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
  TRAJCAST_FAILED = 1 /* the message says what is wrong and what to do about it */
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
  const char *precision;       /* "model", "single" or "double": arithmetic of the network */
  const char *kernels;         /* "fused" or "plain": code that evaluates the network on a CPU */
  int64_t num_threads;         /* CPU threads for the network, at least 1 */
  int64_t communicator;        /* MPI communicator of the run as a Fortran handle (MPI_Comm_c2f) */
} trajcast_config;

/* What the model file says. Filled by open(). */
typedef struct {
  double timestep;                    /* time that one prediction advances, fs */
  double cutoff;                      /* neighbours closer than this are seen, Angstrom */
  int32_t conserves_angular_momentum; /* 1 for models of isolated molecules, else 0 */
  double
      *masses; /* (num_types,) mass of each LAMMPS type's element, g/mol; the caller allocates it */
} trajcast_model_info;

/* One state of the system, and the neighbour list that goes with it.

   Nodes are the atoms of this rank, in its local order. Every pair of atoms or periodic images
   closer than the cutoff is one edge; edges are sorted by receiver. */
typedef struct {
  int64_t num_atoms;
  const int32_t *types;     /* (num_atoms,) LAMMPS atom types, 1 ... num_types */
  const double *positions;  /* (num_atoms, 3) unwrapped by the image flags, Angstrom */
  const double *velocities; /* (num_atoms, 3) in the units of the run */
  const double *masses;     /* (num_atoms,) g/mol */

  int64_t num_edges;
  const int64_t *receivers;   /* (num_edges,) the atom that sees the neighbour */
  const int64_t *senders;     /* (num_edges,) the neighbour */
  const double *edge_vectors; /* (num_edges, 3) from receiver to the sender's image, Angstrom */

  int32_t conserve; /* 1: restore the total momentum (and angular momentum where the model asks for
                       it) */
} trajcast_frame;

/* What comes back for each atom of a frame. The caller allocates both arrays. */
typedef struct {
  double *displacements; /* (num_atoms, 3) x(t + timestep) - x(t), Angstrom */
  double *velocities;    /* (num_atoms, 3) v(t + timestep), in the units of the run */
} trajcast_prediction;

/* The calls. Each returns a trajcast_status, and writes a message if it fails. */
typedef struct {
  /* Load a model. On success `*handle` identifies it in the calls below and `info` is filled. */
  int (*open)(const trajcast_config *config, int64_t *handle, trajcast_model_info *info,
              trajcast_message *message);

  /* Predict the state one time step of the model later. */
  int (*step)(int64_t handle, const trajcast_frame *frame, trajcast_prediction *prediction,
              trajcast_message *message);

  /* Forget a model. A handle that is not known is ignored. */
  int (*close)(int64_t handle, trajcast_message *message);
} trajcast_functions;

/* cffi: end */

#endif
