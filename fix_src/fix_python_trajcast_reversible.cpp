// SPDX-License-Identifier: GPL-2.0-or-later

// Reversible steps: without the part of the network's error that reversing all velocities does not
// change, which heats some motions and cools others.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>

using namespace LAMMPS_NS;

/* ----------------------------------------------------------------------
   With F the network's step and R the reversal of velocities, z1 = F(z), back = R F(R z1) and
   z2 = F(back): were the step reversible, back would be z, and z2 would be z1. The difference is
the defect of a round trip, carried forward, and half of it is the error to take away: (3 z1 - z2)
/ 2. Each prediction keeps the momentum, and so does this sum of them. The angular momentum of the
sum is off by the product of two defects, and is restored.

   On entry, rows hold the prediction from the state of the atoms, that is z1.
------------------------------------------------------------------------- */

void FixPythonTrajcast::move_reversibly() {
  conserve_momentum();
  const int nlocal = atom->nlocal;
  first_rows.assign(rows.begin(), rows.begin() + TRAJCAST_ROW * nlocal);
  const double network_seconds = last.network_seconds, exchange_seconds = last.exchange_seconds;

  // x and v of each own atom, for the case that there is no way back.
  std::vector<double> start(TRAJCAST_ROW * nlocal);
  for (int i = 0; i < nlocal; i++) {
    std::copy_n(atom->x[i], 3, &start[TRAJCAST_ROW * i]);
    std::copy_n(atom->v[i], 3, &start[TRAJCAST_ROW * i + 3]);
  }

  bool corrected = reaches_within_skin();
  if (corrected) {
    move_atoms();
    reverse_velocities();
    corrected = predict_again();
    if (corrected) {
      move_atoms();
      reverse_velocities();
      set_defect(start);
      corrected = predict_again();
    }
    last.network_seconds += network_seconds;
    last.exchange_seconds += exchange_seconds;
  }

  // Into rows: what the corrected step adds to positions, and its velocities.
  double **x = atom->x;
  double **v = atom->v;
  rows.resize(first_rows.size());
  for (int i = 0; i < nlocal; i++) {
    const double *from = &start[TRAJCAST_ROW * i];
    const double *one = &first_rows[TRAJCAST_ROW * i];
    double *two = &rows[TRAJCAST_ROW * i];
    for (int k = 0; k < 3; k++) {
      const double missed = one[k] - (x[i][k] - from[k] + two[k]); // z1 - z2
      two[k] = one[k] + (corrected ? 0.5 * missed : 0.0);
      two[3 + k] = one[3 + k] + (corrected ? 0.5 * (one[3 + k] - two[3 + k]) : 0.0);
      x[i][k] = from[k];
      v[i][k] = from[3 + k];
    }
  }
  if (corrected && keeps_rotation)
    restore_momentum();
  move_atoms();
  if (!corrected)
    warn_of_plain_step();
  rebuild_before_it_is_late();
}

/* ---------------------------------------------------------------------- */

// The velocities of all atoms: those of others are zero, or not of a state in which they move.
void FixPythonTrajcast::reverse_velocities() {
  for (int i = 0; i < atom->nlocal; i++)
    for (int k = 0; k < 3; k++)
      atom->v[i][k] = -atom->v[i][k];
}

/* ----------------------------------------------------------------------
   a prediction from where atoms are now, momentum conserved; false if it is of no use
------------------------------------------------------------------------- */

bool FixPythonTrajcast::predict_again() {
  gather_step();
  const double reduction = reduction_seconds;
  predict(false);
  reduction_seconds += reduction;
  conserve_momentum();
  return !outcome.broken;
}

/* ----------------------------------------------------------------------
   of rows, as if they were one prediction from where atoms are now
------------------------------------------------------------------------- */

void FixPythonTrajcast::restore_momentum() {
  for (int i = 0; i < atom->nlocal; i++) {
    domain->unmap(atom->x[i], atom->image[i], &unwrapped[3 * i]);
    std::copy_n(atom->v[i], 3, &velocities[3 * i]);
  }
  const trajcast_frame frame = frame_of_step(false);
  last.rows = rows.data();
  if (bridge->adopt(model, &frame, &last, &message) != TRAJCAST_OK)
    abort_all(message.text);
  sum_over_ranks(last.sums, static_cast<int>(last.num_sums));
}

/* ----------------------------------------------------------------------
   whether the neighbor list holds the neighbors that atoms will have after the predicted step
------------------------------------------------------------------------- */

bool FixPythonTrajcast::reaches_within_skin() {
  double most[2] = {0.0, 0.0}; // squares of a displacement, and of that since the list was built
  for (int i = 0; i < atom->nlocal; i++) {
    if (!is_moved(i))
      continue;
    const double *d = &first_rows[TRAJCAST_ROW * i];
    double whole = 0.0, alone = 0.0;
    for (int k = 0; k < 3; k++) {
      const double way = atom->x[i][k] + d[k] - built_at[3 * i + k];
      whole += way * way;
      alone += d[k] * d[k];
    }
    most[0] = std::max(most[0], alone);
    most[1] = std::max(most[1], whole);
  }
  double all[2];
  MPI_Allreduce(most, all, 2, MPI_DOUBLE, MPI_MAX, world);
  longest_step = std::sqrt(all[0]);
  return 4.0 * all[1] <= neighbor->skin * neighbor->skin;
}

/* ----------------------------------------------------------------------
   how far the round trip misses the state that it started from: an estimate of the network's error
------------------------------------------------------------------------- */

void FixPythonTrajcast::set_defect(const std::vector<double> &start) {
  double sums[2] = {0.0, 0.0}; // of m v^2 for the difference of velocities, and for velocities
  for (int i = 0; i < atom->nlocal; i++) {
    if (!is_moved(i))
      continue;
    for (int k = 0; k < 3; k++) {
      const double before = start[TRAJCAST_ROW * i + 3 + k], difference = atom->v[i][k] - before;
      sums[0] += mass_of(i) * difference * difference;
      sums[1] += mass_of(i) * before * before;
    }
  }
  sum_over_ranks(sums, 2);
  defect = sums[1] > 0.0 ? std::sqrt(sums[0] / sums[1]) : 0.0;
}

/* ----------------------------------------------------------------------
   the next step will look at neighbors of where it leads to: half of the skin has to hold what
atoms have moved since the list was built, and one step more
------------------------------------------------------------------------- */

void FixPythonTrajcast::rebuild_before_it_is_late() {
  constexpr double MARGIN = 1.5; // of the longest displacement in this step, for that in the next
  double most = 0.0;
  for (int i = 0; i < atom->nlocal; i++) {
    double way = 0.0;
    for (int k = 0; k < 3; k++) {
      const double component = atom->x[i][k] - built_at[3 * i + k];
      way += component * component;
    }
    most = std::max(most, way);
  }
  double all;
  MPI_Allreduce(&most, &all, 1, MPI_DOUBLE, MPI_MAX, world);
  const bool late = std::sqrt(all) + MARGIN * longest_step > 0.5 * neighbor->skin;
  if (late || domain->box_change)
    next_reneighbor = update->ntimestep;
}

/* ----------------------------------------------------------------------
   the first time, the tenth, the hundredth, ...
------------------------------------------------------------------------- */

void FixPythonTrajcast::warn_of_plain_step() {
  num_plain_steps++;
  bigint power = 1;
  while (10 * power <= num_plain_steps)
    power *= 10;
  if (comm->me != 0 || num_plain_steps != power)
    return;
  const std::string times =
      fmt::format("{} such step{} so far", num_plain_steps, num_plain_steps == 1 ? "" : "s");
  if (outcome.broken)
    error->warning(FLERR,
                   "Fix {} python/trajcast: step {} is not a reversible one, because one of its "
                   "three predictions is not a number ({}): check the state for atoms that nearly "
                   "touch, or write 'reversible no'",
                   id, update->ntimestep, times);
  else
    error->warning(FLERR,
                   "Fix {} python/trajcast: step {} is not a reversible one, because atoms move by "
                   "up to {:.3g} Angstrom in a step, too far for a skin of {:.3g} ({}): write "
                   "'neighbor {:.2g} bin'",
                   id, update->ntimestep, longest_step, neighbor->skin, times,
                   std::max(2.0 * neighbor->skin, 5.0 * longest_step));
}
