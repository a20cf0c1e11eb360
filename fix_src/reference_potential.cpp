// SPDX-License-Identifier: GPL-2.0-or-later

#include "reference_potential.h"

#include "force.h"
#include "pair.h"
#include "utils.h"

#include <cstdlib>

using namespace LAMMPS_NS;

namespace trajcast {

ReferencePotential::ReferencePotential(LAMMPS *lammps, const std::string &name)
    : Pointers(lammps), full_name(name), style(name) {
  const std::size_t colon = name.rfind(':');
  if (colon == std::string::npos)
    return;
  const std::string digits = name.substr(colon + 1);
  if (!utils::is_integer(digits) || digits.size() > 4)
    return; // no sub-style has such a name
  number = std::atoi(digits.c_str());
  style = name.substr(0, colon);
}

/* ---------------------------------------------------------------------- */

std::string ReferencePotential::find(double cutoff) {
  sub_style = nullptr;
  const std::string pair_style = force->pair_style ? force->pair_style : "none";
  const std::string remedy =
      fmt::format("write 'pair_style hybrid/overlay zero {} full {} ...', 'pair_coeff * * zero' "
                  "and 'pair_coeff * * {} ...'",
                  cutoff, style, style);
  // Accelerated sub-styles add up their threads' forces when the last of them is computed, which
  // may be one that is switched off.
  if (utils::strmatch(pair_style, "^hybrid/overlay/"))
    return fmt::format("the potential {} cannot be part of an accelerated pair style, {}: write "
                       "'suffix off' before pair_style and 'suffix on' after pair_coeff",
                       full_name, pair_style);
  if (pair_style != "hybrid/overlay")
    return fmt::format("the potential {} after 'energy' or 'guard fallback' has to be a sub-style "
                       "of pair_style hybrid/overlay, but the pair style is {}: {}",
                       full_name, pair_style, remedy);

  const int there = count();
  if (there == 0)
    return fmt::format("pair_style hybrid/overlay has no sub-style {}: {}", style, remedy);
  if (number == 0 && there > 1)
    return fmt::format("pair_style hybrid/overlay has {} sub-styles {}: write '{}:1' for the first",
                       there, style, style);
  if (number > there || (number < 1 && full_name != style))
    return fmt::format("pair_style hybrid/overlay has no sub-style {}: write a number from 1 to "
                       "{} after '{}:'",
                       full_name, there, style);
  sub_style = force->pair_match(style, 1, number);
  switch_to(true);
  return "";
}

/* ---------------------------------------------------------------------- */

// Sub-styles of this name. LAMMPS gives the only one whatever number it is asked for.
int ReferencePotential::count() const {
  if (force->pair_match(style, 1, 0))
    return 1;
  int found = 0;
  while (force->pair_match(style, 1, found + 1))
    found++;
  return found;
}

/* ---------------------------------------------------------------------- */

void ReferencePotential::switch_to(bool on) { sub_style->compute_flag = on ? 1 : 0; }

} // namespace trajcast
