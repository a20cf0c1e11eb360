// SPDX-License-Identifier: GPL-2.0-or-later

#include "snapshot.h"

#include "edge_list.h"

#include "atom.h"
#include "domain.h"

#include <algorithm>
#include <array>
#include <cstring>

using namespace LAMMPS_NS;

namespace trajcast {

namespace {
std::array<int, 3> periods(imageint image) {
  return {static_cast<int>(image & IMGMASK) - IMGMAX,
          static_cast<int>(image >> IMGBITS & IMGMASK) - IMGMAX,
          static_cast<int>(image >> IMG2BITS) - IMGMAX};
}
} // namespace

void Snapshot::take(const std::vector<double> &velocities) {
  is_taken = true;
  box = present_box();
  atoms.resize(atom->nmax);
  for (int i = 0; i < atom->nlocal; i++) {
    std::copy_n(atom->x[i], 3, atoms[i].position);
    std::copy_n(&velocities[3 * i], 3, atoms[i].velocity);
    atoms[i].image = atom->image[i];
  }
}

void Snapshot::restore() {
  restore_box();
  const double *h = domain->h; // xx, yy, zz, yz, xz, xy
  const Cell cell = {h[0], h[1], h[2], h[3], h[4], h[5]};
  for (int i = 0; i < atom->nlocal; i++) {
    std::copy_n(atoms[i].position, 3, atom->x[i]);
    std::copy_n(atoms[i].velocity, 3, atom->v[i]);
    // A rebuild of the neighbor list may have wrapped the atom, and its ghosts with it.
    if (atoms[i].image != atom->image[i]) {
      const auto before = periods(atoms[i].image), now = periods(atom->image[i]);
      const auto shift = cell.vector({before[0] - now[0], before[1] - now[1], before[2] - now[2]});
      for (int k = 0; k < 3; k++)
        atom->x[i][k] += shift[k];
    }
  }
  is_taken = false;
  atoms.clear();
  atoms.shrink_to_fit();
}

void Snapshot::grow(int num_atoms) {
  if (is_taken)
    atoms.resize(num_atoms);
}

void Snapshot::copy(int from, int to) {
  if (is_taken)
    atoms[to] = atoms[from];
}

int Snapshot::pack(int i, double *buffer) const {
  if (!is_taken)
    return 0;
  std::memcpy(buffer, &atoms[i], sizeof(AtomState));
  return MAX_EXCHANGE;
}

int Snapshot::unpack(int i, const double *buffer) {
  if (!is_taken)
    return 0;
  std::memcpy(&atoms[i], buffer, sizeof(AtomState));
  return MAX_EXCHANGE;
}

Snapshot::Box Snapshot::present_box() const {
  Box present = {};
  std::copy_n(domain->boxlo, 3, present.low);
  std::copy_n(domain->boxhi, 3, present.high);
  present.xy = domain->xy;
  present.xz = domain->xz;
  present.yz = domain->yz;
  return present;
}

void Snapshot::restore_box() {
  const Box present = present_box();
  if (std::memcmp(&present, &box, sizeof(Box)) == 0)
    return;
  std::copy_n(box.low, 3, domain->boxlo);
  std::copy_n(box.high, 3, domain->boxhi);
  domain->xy = box.xy;
  domain->xz = box.xz;
  domain->yz = box.yz;
  domain->set_global_box();
  domain->set_local_box();
}

} // namespace trajcast
