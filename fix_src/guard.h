// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_GUARD_H
#define TRAJCAST_GUARD_H

#include "trajcast_bridge.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace trajcast {

// How far predictions may go, for atom types 0, 1, ... Infinity (distances: zero) means no limit.
struct Limits {
  explicit Limits(int num_types);

  int num_types;
  std::vector<double> displacements;     // (num_types,) in a time step, Angstrom
  std::vector<double> speeds;            // (num_types,) in the units of the run
  std::vector<double> distances;         // (num_types, num_types) Angstrom, symmetric
  std::vector<double> nearest_distances; // (num_types,) distance to the nearest neighbor, Angstrom
  double temperature;                    // K
};

// What is limited, in the order of the words that name them in an input script.
enum Quantity { DISPLACEMENT, SPEED, DISTANCE, NEAREST, TEMPERATURE, NUM_QUANTITIES };
extern const char *const QUANTITY_NAMES[NUM_QUANTITIES];

// The limits of a run: multiples of those of the training data, unless the input script says
// otherwise.
struct LimitSettings {
  double factors[NUM_QUANTITIES] = {2.0, 2.0, 0.8, 1.5, 2.0};
  double values[NUM_QUANTITIES] = {-1.0, -1.0, -1.0, -1.0, -1.0}; // negative: not given

  Limits apply(Limits training) const;
};

enum Time { BEFORE, AFTER };

// A prediction that goes beyond a limit, or starts there.
struct Violation {
  double excess = 0.0; // how many times the limit; zero: there is none
  Quantity quantity = DISPLACEMENT;
  Time when = AFTER; // the step
  std::int64_t node = -1;
  std::int64_t other = -1; // the second node of a distance
  double value = 0.0;
  double limit = 0.0;
};

// Sums over all atoms that a prediction moves, of which each rank knows its part.
struct GuardSums {
  static constexpr int SIZE = 7; // of the array that Guard::check() fills, to be added up

  GuardSums() = default;
  explicit GuardSums(const double *sums);

  bool violated = false;      // whether an atom of any rank, or a pair of atoms, is beyond a limit
  double num_atoms = 0.0;     // moved atoms
  double mass = 0.0;          // g/mol
  double momentum2 = 0.0;     // square of the total momentum, of g/mol and units of the run
  double twice_kinetic = 0.0; // sum of m v^2

  // Twice the kinetic energy about the center of mass, for each degree of freedom.
  double twice_kinetic_per_freedom() const;
};

// Compares the prediction for a rank's own atoms with the limits.
class Guard {
public:
  // cutoff: of the edges, Angstrom
  Guard(Limits limits, double cutoff) : limits(std::move(limits)), cutoff(cutoff) {}

  // Judge a prediction before momentum is conserved, and keep the worst violation.
  // moved: (num_nodes,) whether the prediction will be applied to an atom
  // predictions: (num_nodes, TRAJCAST_ROW), those of remote nodes only if needs_remote()
  // sums: (GuardSums::SIZE,) zeros, to be filled
  void check(const trajcast_frame &frame, const std::vector<char> &moved, const double *predictions,
             double *sums);

  // The violation of the limit of the temperature, if it is one.
  Violation temperature(double kelvin) const;

  // Whether check() looks at where neighbors are, for which it needs the predictions of remote
  // nodes.
  bool needs_remote() const { return limits_distances() || limits_nearest_distances(); }

  const Limits limits;
  Violation worst; // on this rank, in the last check(); but for temperature

private:
  const double cutoff;
  void check_atoms(const trajcast_frame &, const std::vector<char> &moved,
                   const double *predictions, double *sums);
  bool limits_distances() const;
  bool limits_nearest_distances() const;
  void check_distances(const trajcast_frame &, const std::vector<char> &moved,
                       const double *predictions, double *sums);
  void check_nearest_distances(const trajcast_frame &, const std::vector<char> &moved,
                               const double *predictions, double *sums);
  void note(Violation, double *sums);
};

} // namespace trajcast

#endif
