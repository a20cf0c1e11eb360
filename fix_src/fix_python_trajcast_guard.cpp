// SPDX-License-Identifier: GPL-2.0-or-later

// The guards of the fix: what it does about predictions that are not to be trusted.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "modify.h"
#include "timer.h"
#include "update.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

using namespace LAMMPS_NS;
using trajcast::NUM_QUANTITIES;
using trajcast::Quantity;
using trajcast::QUANTITY_NAMES;

namespace {
constexpr double INFINITE = std::numeric_limits<double>::infinity();

// What "nearest" was called in releases before 0.2.
const char *const OLD_NEAREST = "isolation";

int find_quantity(const std::string &word) {
  const std::string name = word == OLD_NEAREST ? "nearest" : word;
  int quantity = 0;
  while (quantity < NUM_QUANTITIES && name != QUANTITY_NAMES[quantity])
    quantity++;
  return quantity;
}
} // namespace

/* ----------------------------------------------------------------------
   guard RESPONSE, or guard fallback N PAIR; returns the place of the next keyword
------------------------------------------------------------------------- */

int FixPythonTrajcast::parse_guard(int narg, char **arg, int iarg) {
  const std::string value = arg[iarg];
  if (value == "stop")
    response = Response::STOP;
  else if (value == "error")
    response = Response::ERROR;
  else if (value == "warn")
    response = Response::WARN;
  else if (value == "off")
    response = Response::OFF;
  else if (value == "fallback" || value == "rescue") {
    if (value == "rescue" && comm->me == 0)
      error->warning(FLERR,
                     "Fix {} python/trajcast: 'guard rescue' is deprecated: write 'guard fallback'",
                     id);
    const std::string count = iarg + 1 < narg ? arg[iarg + 1] : "";
    const int steps = utils::is_integer(count) && count.size() < 6 ? std::atoi(count.c_str()) : 0;
    if (steps < 1 || iarg + 2 >= narg)
      fail(
          "'guard fallback' needs a number of steps and a potential: write 'guard fallback N PAIR' "
          "with N at least 1 and a sub-style of pair_style hybrid/overlay");
    response = Response::FALLBACK;
    fallback.reset(new trajcast::Fallback(lmp, steps, arg[iarg + 2], groupbit));
    return iarg + 3;
  } else
    fail(fmt::format("unknown guard '{}': write 'guard stop', 'guard error', 'guard warn', 'guard "
                     "fallback N PAIR' or 'guard off'",
                     value));
  fallback.reset();
  return iarg + 1;
}

/* ----------------------------------------------------------------------
   limit QUANTITY VALUE ..., or factor QUANTITY VALUE ...; returns the place of the next keyword
------------------------------------------------------------------------- */

int FixPythonTrajcast::parse_limits(int narg, char **arg, int iarg) {
  const std::string keyword = arg[iarg++];
  const bool multiple = keyword == "factor";
  if (find_quantity(arg[iarg]) == NUM_QUANTITIES)
    fail(fmt::format("'{}' cannot be limited: write '{}' and then 'displacement', 'speed', "
                     "'distance', 'nearest' or 'temperature' with a value after each",
                     arg[iarg], keyword));
  for (; iarg < narg && find_quantity(arg[iarg]) < NUM_QUANTITIES; iarg += 2) {
    const int quantity = find_quantity(arg[iarg]);
    if (strcmp(arg[iarg], OLD_NEAREST) == 0 && comm->me == 0)
      error->warning(FLERR,
                     "Fix {} python/trajcast: '{} isolation' is deprecated: write '{} nearest'", id,
                     keyword, keyword);
    const std::string text = iarg + 1 < narg ? arg[iarg + 1] : "";
    double &chosen = multiple ? limit_settings.factors[quantity] : limit_settings.values[quantity];
    if (!multiple && text == "none") {
      chosen = quantity == trajcast::DISTANCE ? 0.0 : INFINITE;
      continue;
    }
    chosen = utils::is_double(text) ? std::atof(text.c_str()) : -1.0;
    if (!(chosen > 0.0 && chosen < INFINITE))
      fail(fmt::format("'{}' is not a {} for the {}: write '{} {} X' with X greater than zero{}",
                       text, keyword, arg[iarg], keyword, arg[iarg],
                       multiple ? "" : ", or 'none'"));
    factors_given |= multiple;
  }
  return iarg;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::set_limits(const trajcast_model_info &info,
                                   const trajcast::Limits &training) {
  if (!info.has_limits && factors_given)
    fail(fmt::format("'factor' multiplies limits of the training data, but {} holds none: write "
                     "'limit' with values instead, or add the limits of the training data to the "
                     "file with 'lammps-trajcast add-bounds'",
                     model_path));
  if (response == Response::OFF)
    return;
  trajcast::Limits limits = training;
  if (info.has_limits && info.max_temperature > 0.0)
    limits.temperature = info.max_temperature;
  guard.reset(new trajcast::Guard(limit_settings.apply(limits), cutoff));
  if (finds_edges) {
    const trajcast::Limits &run = guard->limits;
    const trajcast_limits arrays = {run.displacements.data(), run.speeds.data(),
                                    run.distances.data(), run.nearest_distances.data()};
    message.text[0] = '\0';
    const bool failed = bridge->limit(model, &arrays, &message) != TRAJCAST_OK;
    fail_if_any(failed, message.text);
  }
  if (!info.has_limits && comm->me == 0)
    utils::logmesg(lmp,
                   "Fix {} python/trajcast: {} holds no limits of its training data, so only the "
                   "keyword 'limit' and what is not a number are checked; add the limits with "
                   "'lammps-trajcast add-bounds'\n",
                   id, model_path);
}

/* ----------------------------------------------------------------------
   a model on a device has found predictions beyond limits: look for the worst of them here, among
   the edges that this rank finds itself
------------------------------------------------------------------------- */

void FixPythonTrajcast::find_worst(double *sums) {
  fetch_rows();
  find_edges(cutoff);
  gather_nodes(false);
  const int nlocal = atom->nlocal;
  if (guard->needs_remote() && comm->nprocs > 1)
    // Remote nodes were all candidates, and are now those with an edge, in the same order.
    for (std::size_t r = 0; r < edges.remote.size(); r++)
      std::copy_n(&rows[TRAJCAST_ROW * (nlocal + edges.remote[r])], TRAJCAST_ROW,
                  &rows[TRAJCAST_ROW * (nlocal + r)]);
  std::fill_n(sums, trajcast::GuardSums::SIZE, 0.0);
  guard->check(frame_of_model(), moved, rows.data(), sums);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::remember_velocities() {
  velocities_before.resize(3 * atom->nlocal);
  for (int i = 0; i < atom->nlocal; i++)
    std::copy_n(atom->v[i], 3, &velocities_before[3 * i]);
}

/* ----------------------------------------------------------------------
   what is wrong with the last prediction, the worst of all ranks; empty if nothing is
------------------------------------------------------------------------- */

std::string FixPythonTrajcast::violation() {
  struct {
    double excess;
    int rank;
  } mine = {0.0, comm->me}, worst;
  std::string text;

  trajcast::Violation heat;
  if (outcome.broken) {
    if (outcome.broken_atom >= 0) {
      mine.excess = INFINITE;
      text = fmt::format("the model's prediction for atom {} at step {} is not a number",
                         atom->tag[outcome.broken_atom], update->ntimestep);
    }
  } else if (guard) {
    heat = guard->temperature(guard_sums.twice_kinetic_per_freedom() * force->mvv2e / force->boltz);
    if (!guard_sums.violated && heat.excess == 0.0)
      return "";
    mine.excess = guard->worst.excess;
    if (mine.excess > 0.0)
      text = describe(guard->worst);
  } else
    return "";

  MPI_Allreduce(&mine, &worst, 1, MPI_DOUBLE_INT, MPI_MAXLOC, world);
  return heat.excess > worst.excess ? describe(heat) : from_rank(worst.rank, text);
}

/* ---------------------------------------------------------------------- */

std::string FixPythonTrajcast::describe(const trajcast::Violation &violation) const {
  const auto tag = [this](int64_t node) {
    const int64_t remote = node - atom->nlocal;
    return atom->tag[remote < 0 ? node : atom->nlocal + candidate_ghost[edges.remote[remote]]];
  };
  const bool metal = std::string(update->unit_style) == "metal";
  const bool before = violation.when == trajcast::BEFORE;
  const bigint step = update->ntimestep;
  switch (violation.quantity) {
  case trajcast::DISPLACEMENT:
    return fmt::format("atom {} would move by {:.4g} Angstrom in step {}, the limit is {:.4g}",
                       tag(violation.node), violation.value, step, violation.limit);
  case trajcast::SPEED:
    return fmt::format("atom {} {} the speed {:.4g} Angstrom/{} at step {}, the limit is {:.4g}",
                       tag(violation.node), before ? "has" : "would have", violation.value,
                       metal ? "ps" : "fs", before ? step - 1 : step, violation.limit);
  case trajcast::DISTANCE: {
    // Ranks see a pair from either side.
    const tagint one = tag(violation.node), other = tag(violation.other);
    return fmt::format("atoms {} and {} {} {:.4g} Angstrom apart at step {}, the limit is {:.4g}",
                       std::min(one, other), std::max(one, other), before ? "are" : "would be",
                       violation.value, before ? step - 1 : step, violation.limit);
  }
  case trajcast::NEAREST:
    return fmt::format("atom {} {} at least {:.4g} Angstrom from all others at step {}, the limit "
                       "is {:.4g}",
                       tag(violation.node), before ? "is" : "would be", violation.value,
                       before ? step - 1 : step, violation.limit);
  default:
    return fmt::format("the temperature would be {:.4g} K at step {}, the limit is {:.4g}",
                       violation.value, step, violation.limit);
  }
}

/* ----------------------------------------------------------------------
   instead of applying a prediction
------------------------------------------------------------------------- */

void FixPythonTrajcast::respond(const std::string &violation) {
  num_violations++;
  if (response == Response::STOP)
    stop_run(violation);
  else if (response == Response::FALLBACK) {
    warn_now_and_then(fmt::format("{}: replaced by {} steps of velocity Verlet with {}", violation,
                                  fallback->steps(), fallback->name()));
    num_fallbacks++;
    const std::string problem = fallback->advance();
    if (!problem.empty())
      fail(problem);
  } else if (outcome.broken)
    fail(fmt::format("{}: check the state before it for atoms that nearly touch and for velocities "
                     "beyond those that the model was trained with",
                     violation));
  else if (response == Response::ERROR)
    fail(fmt::format("{}: start from a state like those that the model was trained with, or write "
                     "'guard stop', 'guard fallback N PAIR', 'guard warn' or another 'limit'",
                     violation));
  else {
    warn_now_and_then(violation + ": applied all the same, as 'guard warn' asks");
    move_atoms();
  }
}

/* ----------------------------------------------------------------------
   LAMMPS completes this step, in which the atoms of the group stay where they are, and then stops
   as it does at a time limit; post_run() returns to the state before the step
------------------------------------------------------------------------- */

void FixPythonTrajcast::stop_run(const std::string &violation) {
  const char *remedy = outcome.broken
                           ? "check that state for atoms that nearly touch and for velocities "
                             "beyond those that the model was trained with"
                           : "start from a state like those that the model was trained with, or "
                             "write 'guard fallback N PAIR', 'guard warn' or another 'limit'";
  if (comm->me == 0)
    error->warning(FLERR, "Fix {} python/trajcast: {}: the run stops with the state of step {}; {}",
                   id, violation, update->ntimestep - 1, remedy);
  snapshot.take(velocities_before);
  timer->force_timeout();
}

/* ----------------------------------------------------------------------
   nobody else may move atoms: the forces that they would do it with are overwritten
------------------------------------------------------------------------- */

void FixPythonTrajcast::find_fallback() {
  if (!fallback)
    return;
  for (const auto &other : modify->get_fix_list())
    if (other != this && other->time_integrate)
      fail(fmt::format(
          "'guard fallback' cannot be combined with fix {} (style {}), which moves other "
          "atoms: write 'unfix {}', or 'guard stop'",
          other->id, other->style, other->id));
  const std::string problem = fallback->find(reach());
  if (!problem.empty())
    fail(problem);
}

/* ----------------------------------------------------------------------
   the first time, the tenth, the hundredth, ...
------------------------------------------------------------------------- */

void FixPythonTrajcast::warn_now_and_then(const std::string &violation) {
  bigint power = 1;
  while (10 * power <= num_violations)
    power *= 10;
  if (comm->me == 0 && num_violations == power)
    error->warning(FLERR, "Fix {} python/trajcast: {} ({} such prediction{} so far)", id, violation,
                   num_violations, num_violations == 1 ? "" : "s");
}
