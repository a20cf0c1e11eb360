// SPDX-License-Identifier: GPL-2.0-or-later

#include "guard.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace trajcast {

namespace {
constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr int ROW = TRAJCAST_ROW; // of a prediction: displacement and velocity

// Places in the array of GuardSums.
enum Sum { VIOLATIONS, ATOMS, MASS, MOMENTUM, KINETIC = MOMENTUM + 3, NUM_SUMS };
static_assert(int(NUM_SUMS) == GuardSums::SIZE, "sums for the guards");

double square(const double *vector) {
  return vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
}
} // namespace

const char *const QUANTITY_NAMES[NUM_QUANTITIES] = {"displacement", "speed", "distance", "nearest",
                                                    "temperature"};

Limits::Limits(int num_types)
    : num_types(num_types), displacements(num_types, INFINITE), speeds(num_types, INFINITE),
      distances(num_types * num_types, 0.0), nearest_distances(num_types, INFINITE),
      temperature(INFINITE) {}

Limits LimitSettings::apply(Limits limits) const {
  const auto set = [this](double &limit, Quantity quantity) {
    limit = values[quantity] < 0.0 ? limit * factors[quantity] : values[quantity];
  };
  for (double &limit : limits.displacements)
    set(limit, DISPLACEMENT);
  for (double &limit : limits.speeds)
    set(limit, SPEED);
  for (double &limit : limits.distances)
    set(limit, DISTANCE);
  for (double &limit : limits.nearest_distances)
    set(limit, NEAREST);
  set(limits.temperature, TEMPERATURE);
  return limits;
}

GuardSums::GuardSums(const double *sums)
    : violated(sums[VIOLATIONS] > 0.0), num_atoms(sums[ATOMS]), mass(sums[MASS]),
      momentum2(square(sums + MOMENTUM)), twice_kinetic(sums[KINETIC]) {}

double GuardSums::twice_kinetic_per_freedom() const {
  if (num_atoms < 2.0)
    return 0.0;
  return (twice_kinetic - momentum2 / mass) / (3.0 * num_atoms - 3.0);
}

void Guard::check(const trajcast_frame &frame, const std::vector<char> &moved,
                  const double *predictions, double *sums) {
  worst = {};
  check_atoms(frame, moved, predictions, sums);
  if (limits_distances())
    check_distances(frame, moved, predictions, sums);
  if (limits_nearest_distances())
    check_nearest_distances(frame, moved, predictions, sums);
}

Violation Guard::temperature(double kelvin) const {
  if (!(kelvin > limits.temperature))
    return {};
  return {kelvin / limits.temperature, TEMPERATURE, AFTER, -1, -1, kelvin, limits.temperature};
}

bool Guard::limits_distances() const {
  return std::any_of(limits.distances.begin(), limits.distances.end(),
                     [](double distance) { return distance > 0.0; });
}

bool Guard::limits_nearest_distances() const {
  return std::any_of(limits.nearest_distances.begin(), limits.nearest_distances.end(),
                     [this](double nearest) { return nearest < cutoff; });
}

void Guard::check_atoms(const trajcast_frame &frame, const std::vector<char> &moved,
                        const double *predictions, double *sums) {
  for (std::int64_t i = 0; i < frame.num_atoms; i++) {
    if (!moved[i])
      continue;
    const double *displacement = predictions + ROW * i;
    const double *velocity = displacement + 3;
    const double mass = frame.masses[i];
    sums[ATOMS] += 1.0;
    sums[MASS] += mass;
    for (int k = 0; k < 3; k++)
      sums[MOMENTUM + k] += mass * velocity[k];
    sums[KINETIC] += mass * square(velocity);

    // A value that is not a number passes these comparisons: the fix has looked for it before.
    const double most = limits.displacements[frame.types[i] - 1];
    if (square(displacement) > most * most)
      note({0.0, DISPLACEMENT, AFTER, i, -1, std::sqrt(square(displacement)), most}, sums);
    const double fastest = limits.speeds[frame.types[i] - 1];
    const double *before = frame.velocities + 3 * i;
    if (square(before) > fastest * fastest)
      note({0.0, SPEED, BEFORE, i, -1, std::sqrt(square(before)), fastest}, sums);
    if (square(velocity) > fastest * fastest)
      note({0.0, SPEED, AFTER, i, -1, std::sqrt(square(velocity)), fastest}, sums);
  }
}

/* ----------------------------------------------------------------------
   of atoms that see each other now; those beyond the cutoff are too far away to get that close
------------------------------------------------------------------------- */

void Guard::check_distances(const trajcast_frame &frame, const std::vector<char> &moved,
                            const double *predictions, double *sums) {
  // Two atoms cannot come closer than by their own ways, and the other's is at most the longest.
  double most_squared = 0.0;
  const std::int64_t num_nodes = frame.num_atoms + frame.num_remote;
  for (std::int64_t n = 0; n < num_nodes; n++)
    if (moved[n])
      most_squared = std::max(most_squared, square(predictions + ROW * n));
  const double most = std::sqrt(most_squared);

  for (std::int64_t i = 0; i < frame.num_atoms; i++) {
    const double *row = limits.distances.data() + limits.num_types * (frame.types[i] - 1);
    const double own = moved[i] ? std::sqrt(square(predictions + ROW * i)) : 0.0;
    const double reach = *std::max_element(row, row + limits.num_types) + own + most;
    const double reach_squared = reach * reach;
    for (std::int64_t e = frame.first_edge[i]; e < frame.first_edge[i + 1]; e++) {
      const double *edge = frame.edge_vectors + 3 * e;
      if (square(edge) >= reach_squared)
        continue;
      const std::int64_t j = frame.senders[e];
      // Own atoms see each other the other way round too, and their own images stay where they are.
      if (j <= i)
        continue;
      if (!moved[i] && !moved[j])
        continue;
      const double limit = row[frame.types[j] - 1];
      double after[3];
      for (int k = 0; k < 3; k++)
        after[k] = edge[k] + (moved[j] ? predictions[ROW * j + k] : 0.0) -
                   (moved[i] ? predictions[ROW * i + k] : 0.0);
      if (square(edge) < limit * limit)
        note({0.0, DISTANCE, BEFORE, i, j, std::sqrt(square(edge)), limit}, sums);
      if (square(after) < limit * limit)
        note({0.0, DISTANCE, AFTER, i, j, std::sqrt(square(after)), limit}, sums);
    }
  }
}

/* ----------------------------------------------------------------------
   of atoms that lose their neighbors, as one that leaves its molecule does; nobody sees beyond the
   cutoff, so that a limit beyond it cannot be checked
------------------------------------------------------------------------- */

void Guard::check_nearest_distances(const trajcast_frame &frame, const std::vector<char> &moved,
                                    const double *predictions, double *sums) {
  for (std::int64_t i = 0; i < frame.num_atoms; i++) {
    const double limit = limits.nearest_distances[frame.types[i] - 1];
    if (!moved[i] || limit >= cutoff)
      continue;
    double before = cutoff * cutoff, after = cutoff * cutoff;
    for (std::int64_t e = frame.first_edge[i]; e < frame.first_edge[i + 1]; e++) {
      const double *edge = frame.edge_vectors + 3 * e;
      const std::int64_t j = frame.senders[e];
      double moves_to[3];
      for (int k = 0; k < 3; k++)
        moves_to[k] =
            edge[k] + (moved[j] ? predictions[ROW * j + k] : 0.0) - predictions[ROW * i + k];
      before = std::min(before, square(edge));
      after = std::min(after, square(moves_to));
      if (std::max(before, after) <= limit * limit)
        break; // one that is near enough is all that an atom needs
    }
    if (before > limit * limit)
      note({0.0, NEAREST, BEFORE, i, -1, std::sqrt(before), limit}, sums);
    if (after > limit * limit)
      note({0.0, NEAREST, AFTER, i, -1, std::sqrt(after), limit}, sums);
  }
}

// Count a violation, and keep it if it is the worst.
void Guard::note(Violation found, double *sums) {
  sums[VIOLATIONS] += 1.0;
  const bool must_be_more = found.quantity == DISTANCE;
  found.excess = must_be_more ? found.limit / found.value : found.value / found.limit;
  if (found.excess > worst.excess)
    worst = found;
}

} // namespace trajcast
