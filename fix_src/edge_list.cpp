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

void EdgeList::clear(int num_own, int num_remote_candidates) {
  candidates.clear();
  shifts.clear();
  first.reserve(num_own + 1);
  first.assign(1, 0);
  number.resize(num_remote_candidates);
}

void EdgeList::begin_receiver() { first.push_back(first.back()); }

void EdgeList::add_candidate(int sender, const std::array<int, 3> &shift) {
  // A search is enough: there are 27 different shifts in a large box, and few more in a small one.
  const auto known = std::find(shifts.begin(), shifts.end(), shift);
  const int index = static_cast<int>(known - shifts.begin());
  if (known == shifts.end())
    shifts.push_back(shift);
  candidates.push_back({sender, index});
  first.back()++;
}

trajcast_neighbors EdgeList::all_candidates() const {
  return {static_cast<std::int64_t>(first.size()) - 1,
          static_cast<std::int64_t>(number.size()),
          first.data(),
          reinterpret_cast<const std::int32_t *>(candidates.data()),
          static_cast<std::int64_t>(shifts.size()),
          reinterpret_cast<const std::int32_t *>(shifts.data())};
}

void EdgeList::update(const double *positions, const Cell &cell, double cutoff) {
  std::vector<std::array<double, 3>> images;
  images.reserve(shifts.size());
  for (const auto &shift : shifts)
    images.push_back(cell.vector(shift));

  // Room for all candidates, kept from step to step.
  const std::size_t num_own = first.size() - 1;
  first_edge.resize(num_own + 1);
  senders.resize(candidates.size());
  vectors.resize(3 * candidates.size());

  const double cutoff_squared = cutoff * cutoff;
  num_edges = 0;
  for (std::size_t i = 0; i < num_own; i++) {
    first_edge[i] = num_edges;
    const double *at = positions + 3 * i;
    for (std::int64_t c = first[i]; c < first[i + 1]; c++) {
      const double *from = positions + 3 * static_cast<std::size_t>(candidates[c].sender);
      const auto &image = images[candidates[c].shift];
      const double x = from[0] + image[0] - at[0];
      const double y = from[1] + image[1] - at[1];
      const double z = from[2] + image[2] - at[2];
      // Each candidate is written, and overwritten by the next if it is too far: a branch that
      // goes either way at random would take longer.
      senders[num_edges] = candidates[c].sender;
      vectors[3 * num_edges] = x;
      vectors[3 * num_edges + 1] = y;
      vectors[3 * num_edges + 2] = z;
      // A distance that is not a number keeps its edge, so that the prediction shows the fault.
      num_edges += !(x * x + y * y + z * z >= cutoff_squared);
    }
  }
  first_edge.back() = num_edges;
  number_remote();
}

// Only atoms that some edge refers to become nodes: the candidates reach further by the skin.
void EdgeList::number_remote() {
  const std::int64_t num_own = static_cast<std::int64_t>(first.size()) - 1;
  remote.clear();
  interior.clear();
  boundary.clear();
  if (number.empty())
    return;

  std::fill(number.begin(), number.end(), -1);
  for (std::int64_t e = 0; e < num_edges; e++)
    if (senders[e] >= num_own)
      number[senders[e] - num_own] = 0;
  for (std::size_t r = 0; r < number.size(); r++)
    if (number[r] == 0) {
      number[r] = num_own + static_cast<std::int64_t>(remote.size());
      remote.push_back(static_cast<std::int64_t>(r));
    }

  for (std::int64_t i = 0; i < num_own; i++) {
    bool sees_remote = false;
    for (std::int64_t e = first_edge[i]; e < first_edge[i + 1]; e++)
      if (senders[e] >= num_own) {
        senders[e] = number[senders[e] - num_own];
        sees_remote = true;
      }
    (sees_remote ? boundary : interior).push_back(i);
  }
}

} // namespace trajcast
