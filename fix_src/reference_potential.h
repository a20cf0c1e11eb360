// SPDX-License-Identifier: GPL-2.0-or-later

#ifndef TRAJCAST_REFERENCE_POTENTIAL_H
#define TRAJCAST_REFERENCE_POTENTIAL_H

#include "pointers.h"

#include <string>

namespace LAMMPS_NS {
class Pair;
}

namespace trajcast {

// An ordinary potential beside the network: a sub-style of pair_style hybrid/overlay, which
// LAMMPS evaluates in every step unless it is switched off.
class ReferencePotential : protected LAMMPS_NS::Pointers {
public:
  // name: of the sub-style, followed by ':' and a number from 1 if there are several of that name,
  // counted as in pair_coeff.
  ReferencePotential(LAMMPS_NS::LAMMPS *lammps, const std::string &name);

  // Look for the sub-style in the pair style that is defined now; to be called before each run.
  // cutoff: of the model, for the remedy. Returns what is wrong, on all ranks; else nothing.
  std::string find(double cutoff);

  // Whether pair_style hybrid/overlay evaluates it the next time. Needs find().
  void switch_to(bool on);

  const std::string &name() const { return full_name; }
  LAMMPS_NS::Pair *pair() const { return sub_style; } // what find() found

private:
  int count() const;

  std::string full_name; // as it is given
  std::string style;     // without its number
  int number = 0;        // 0: there has to be only one
  LAMMPS_NS::Pair *sub_style = nullptr;
};

} // namespace trajcast

#endif
