// SPDX-License-Identifier: GPL-2.0-or-later

#include "edge_list.h"

#include <algorithm>
#include <cmath>

namespace trajcast {

std::array<double, 3> Cell::vector(const std::array<int, 3> &n) const {
  return {n[0] * xx + n[1] * xy + n[2] * xz, n[1] * yy + n[2] * yz, n[2] * zz};
}

std::array<int, 3> Cell::nearest(const double r[3]) const {
  const double n2 = std::round(r[2] / zz);
  const double n1 = std::round((r[1] - n2 * yz) / yy);
  const double n0 = std::round((r[0] - n1 * xy - n2 * xz) / xx);
  return {static_cast<int>(n0), static_cast<int>(n1), static_cast<int>(n2)};
}

void EdgeList::clear(int num_atoms) {
  candidates.clear();
  shifts.clear();
  first.clear();
  first.reserve(num_atoms + 1);
}

void EdgeList::begin_receiver() { first.push_back(candidates.size()); }

void EdgeList::add_candidate(int sender, const std::array<int, 3> &shift) {
  // A search is enough: there are 27 different shifts in a large box, and few more in a small one.
  const auto known = std::find(shifts.begin(), shifts.end(), shift);
  const int index = static_cast<int>(known - shifts.begin());
  if (known == shifts.end())
    shifts.push_back(shift);
  candidates.push_back({sender, index});
}

void EdgeList::update(const double *positions, const Cell &cell, double cutoff) {
  std::vector<std::array<double, 3>> images;
  images.reserve(shifts.size());
  for (const auto &shift : shifts)
    images.push_back(cell.vector(shift));

  receivers.resize(candidates.size());
  senders.resize(candidates.size());
  vectors.resize(3 * candidates.size());

  const double cutoff_squared = cutoff * cutoff;
  std::size_t edge = 0;
  for (std::size_t i = 0; i < first.size(); i++) {
    const double *at = positions + 3 * i;
    const std::size_t end = i + 1 < first.size() ? first[i + 1] : candidates.size();
    for (std::size_t c = first[i]; c < end; c++) {
      const double *from = positions + 3 * static_cast<std::size_t>(candidates[c].sender);
      const auto &image = images[candidates[c].shift];
      const double x = from[0] + image[0] - at[0];
      const double y = from[1] + image[1] - at[1];
      const double z = from[2] + image[2] - at[2];
      if (x * x + y * y + z * z >= cutoff_squared)
        continue;
      receivers[edge] = static_cast<std::int64_t>(i);
      senders[edge] = candidates[c].sender;
      vectors[3 * edge] = x;
      vectors[3 * edge + 1] = y;
      vectors[3 * edge + 2] = z;
      edge++;
    }
  }

  receivers.resize(edge);
  senders.resize(edge);
  vectors.resize(3 * edge);
}

} // namespace trajcast
