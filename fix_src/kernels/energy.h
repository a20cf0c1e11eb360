/* The potential energy of a model: a linear atomic cluster expansion with terms of two and three
   bodies (Drautz, Phys. Rev. B 99, 014104 (2019)), in double precision.

   Of an edge of length r = s * cutoff, pointing along the unit vector u:

     T_n(x) (1 - s^2)^3                   n = 0, 1, ...; Chebyshev polynomials of
     x = 2 (1 - s) / (1 + skew s) - 1     which resolves short distances better than long ones.

   The energy of an atom of species a is

     constants[a] + sum over edges and n of pairs[a][b][n] T_n(x) (1 - s^2)^3
                  + sum over l, k, k' of products[a][l][k][k'] A_lk . A_lk'

   where b is the species of the sender, k counts (b, radial function), and the components of A_lk
   are the sums, over the edges from atoms of species b, of radial functions times the monomials of
   degree l in u, weighted such that two edges contribute (u . u')^l. An edge sees nothing but its
   atom, so neither energies nor their derivatives need anything of another rank.

   This header is C99 and is also read by cffi: keep it free of preprocessor directives below the
   marker line. All arrays are owned by the caller and row-major. */

#ifndef LAMMPS_TRAJCAST_ENERGY_H
#define LAMMPS_TRAJCAST_ENERGY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- cffi reads from here -- */

typedef struct {
  int32_t num_species; /* S */
  int32_t num_pair;    /* P functions of the terms of two bodies, at least 2 */
  int32_t num_radial;  /* R radial functions of those of three, at least 1, at most P */
  int32_t max_order;   /* L, at most 6 */
  double cutoff;       /* Angstrom */
  double skew;
  const double *constants; /* (S,) */
  const double *pairs;     /* (S, S, P): species of the receiver, of the sender */
  const double *radial;    /* (R, R): radial function k is the sum over n of radial[n][k] T_n */
  const double *products;  /* (S, L + 1, S * R, S * R), symmetric in the last two */
} trajcast_energy_model;

/* Energies of atoms and what follows from their derivatives. Returns 0, or 1 if there is no memory.
   num_atoms:  N atoms, which receive.
   species:    of them and of all senders.
   first_edge: (N + 1,) edges of atom i are first_edge[i] ... first_edge[i + 1] - 1.
   senders:    (E,) index into species.
   vectors:    (E, 3) Angstrom, from receiver to sender; those that are longer than the cutoff count
               as if they were not there.
   energies:   (N,).
   virials:    (N, 6), or NULL: of each atom, xx, yy, zz, xy, xz, yz of minus the sum over its edges
               of vector times derivative by it.
   gradients:  (E, 3), or NULL: derivatives of the receiver's energy by the vectors. */
int trajcast_energy(const trajcast_energy_model *model, int64_t num_atoms, const int64_t *species,
                    const int64_t *first_edge, const int64_t *senders, const double *vectors,
                    double *energies, double *virials, double *gradients, int threads);

/* -- to here -- */

#ifdef __cplusplus
}
#endif

#endif
