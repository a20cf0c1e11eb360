// SPDX-License-Identifier: GPL-2.0-or-later

// The graph that this rank sees: its atoms, their neighbors, and the atoms of other ranks among
// these, whose owners and states it learns from ghost atoms.

#include "fix_python_trajcast.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

using namespace LAMMPS_NS;

namespace {
double distance_squared(const double *a, const double *b) {
  const double x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
  return x * x + y * y + z * z;
}
} // namespace

/* ----------------------------------------------------------------------
   the state as it is now, with the edges that are shorter than `within`
------------------------------------------------------------------------- */

void FixPythonTrajcast::gather_frame(double within) {
  if (comm->nprocs > 1)
    share_states();
  const double start = MPI_Wtime();
  gather_positions();
  find_edges(within);
  gather_nodes(false);
  graph_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   the state as it is now, as predictions want it: a model that finds edges itself gets none
------------------------------------------------------------------------- */

void FixPythonTrajcast::gather_step() {
  if (!finds_edges) {
    gather_frame(cutoff);
    return;
  }
  if (comm->nprocs > 1)
    share_states();
  const double start = MPI_Wtime();
  gather_positions();
  // Only where molecules keep their momenta: whether two of them meet.
  if (num_systems > 1)
    find_edges(cutoff);
  gather_nodes(true);
  graph_seconds += MPI_Wtime() - start;
}

/* ---------------------------------------------------------------------- */

// Of own atoms and candidates.
void FixPythonTrajcast::gather_positions() {
  const int nlocal = atom->nlocal;
  const int ncandidates = static_cast<int>(candidate_ghost.size());
  node_positions.resize(3 * (nlocal + ncandidates));
  for (int i = 0; i < nlocal; i++)
    std::copy_n(atom->x[i], 3, &node_positions[3 * i]);
  for (int r = 0; r < ncandidates; r++)
    std::copy_n(&forwarded[STATE * (nlocal + candidate_ghost[r])], 3,
                &node_positions[3 * (nlocal + r)]);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::find_edges(double within) {
  edges.update(node_positions.data(), cell(), within);
}

/* ----------------------------------------------------------------------
   what is known of own atoms and of remote nodes, which are all candidates or those with an edge
------------------------------------------------------------------------- */

void FixPythonTrajcast::gather_nodes(bool all_candidates) {
  const int nlocal = atom->nlocal;
  const auto nremote = all_candidates ? candidate_ghost.size() : edges.remote.size();
  const int nnodes = nlocal + static_cast<int>(nremote);
  types.resize(nnodes);
  moved.resize(nnodes);
  velocities.resize(3 * nnodes);
  masses.resize(nlocal);
  unwrapped.resize(3 * nlocal);
  for (int i = 0; i < nlocal; i++) {
    types[i] = atom->type[i];
    moved[i] = is_moved(i);
    masses[i] = mass_of(i);
    domain->unmap(atom->x[i], atom->image[i], &unwrapped[3 * i]);
    std::copy_n(atom->v[i], 3, &velocities[3 * i]);
  }
  for (int n = nlocal; n < nnodes; n++) {
    const int r = n - nlocal;
    const int j = nlocal + candidate_ghost[all_candidates ? r : edges.remote[r]];
    types[n] = atom->type[j];
    moved[n] = is_moved(j);
    std::copy_n(&forwarded[STATE * j + 3], 3, &velocities[3 * n]);
  }
  if (num_systems > 1 || only_molecule >= 0)
    find_systems();
}

/* ----------------------------------------------------------------------
   molecules of which each keeps its momentum must not act on each other
------------------------------------------------------------------------- */

void FixPythonTrajcast::find_systems() {
  const int nlocal = atom->nlocal;
  const tagint *molecule = atom->molecule;
  systems.resize(nlocal);
  meeting.clear();
  for (int i = 0; i < nlocal; i++) {
    systems[i] = num_systems > 1 ? static_cast<int64_t>(molecule[i]) - 1 : 0;
    const bool is_new = num_systems > 1 ? systems[i] < 0 || systems[i] >= num_systems
                                        : molecule[i] != only_molecule;
    if (is_new) {
      meeting = fmt::format("atom {} has the molecule ID {}, which was not there when the run "
                            "began, and the model keeps the momenta of each molecule: begin "
                            "another run after the change",
                            atom->tag[i], molecule[i]);
      systems[i] = 0;
    }
    if (num_systems == 1)
      continue;
    for (int64_t k = edges.first_edge[i]; k < edges.first_edge[i + 1]; k++) {
      const int64_t sender = edges.senders[k];
      const tagint other = sender < nlocal
                               ? molecule[sender]
                               : owner_molecule[candidate_ghost[edges.remote[sender - nlocal]]];
      if (other != molecule[i] && meeting.empty())
        meeting = fmt::format("the model is of isolated molecules, and molecules {} and {} are "
                              "closer than its cutoff, {} Angstrom: keep them apart, or write 'set "
                              "group all mol 1' if they are one molecule",
                              std::min(molecule[i], other), std::max(molecule[i], other), cutoff);
    }
  }
}

/* ---------------------------------------------------------------------- */

trajcast_frame FixPythonTrajcast::frame_of_model() const {
  trajcast_frame frame = {};
  frame.num_atoms = atom->nlocal;
  frame.num_remote = static_cast<int64_t>(edges.remote.size());
  frame.remote = edges.remote.data();
  frame.types = types.data();
  frame.positions = unwrapped.data();
  frame.velocities = velocities.data();
  frame.masses = masses.data();
  frame.num_edges = edges.size();
  frame.first_edge = edges.first_edge.data();
  frame.senders = edges.senders.data();
  frame.edge_vectors = edges.vectors.data();
  frame.num_interior = static_cast<int64_t>(edges.interior.size());
  frame.interior = edges.interior.data();
  frame.num_boundary = static_cast<int64_t>(edges.boundary.size());
  frame.boundary = edges.boundary.data();
  frame.num_systems = num_systems;
  frame.systems = num_systems > 1 ? systems.data() : nullptr;
  return frame;
}

/* ---------------------------------------------------------------------- */

trajcast_frame FixPythonTrajcast::frame_of_step(bool judge) const {
  trajcast_frame frame = frame_of_model();
  if (!finds_edges)
    return frame;
  frame.num_remote = static_cast<int64_t>(candidate_ghost.size());
  frame.remote = frame.interior = frame.boundary = nullptr;
  frame.num_edges = frame.num_interior = frame.num_boundary = 0;
  frame.first_edge = frame.senders = nullptr;
  frame.edge_vectors = nullptr;
  frame.node_positions = node_positions.data();
  const trajcast::Cell box = cell();
  const double lengths[6] = {box.xx, box.yy, box.zz, box.yz, box.xz, box.xy};
  std::copy_n(lengths, 6, frame.cell);
  const bool all = std::find(moved.begin(), moved.end(), 0) == moved.end();
  frame.moved = all ? nullptr : moved.data();
  frame.judge = judge;
  return frame;
}

/* ----------------------------------------------------------------------
   position and velocity of each ghost atom's owner, as they are now. LAMMPS has sent positions when
   the last step moved the atoms, but a fix may have changed them, or the box, since.
------------------------------------------------------------------------- */

void FixPythonTrajcast::share_states() {
  forwarded.resize(STATE * (atom->nlocal + atom->nghost));
  for (int i = 0; i < atom->nlocal; i++) {
    std::copy_n(atom->x[i], 3, &forwarded[STATE * i]);
    std::copy_n(atom->v[i], 3, &forwarded[STATE * i + 3]);
  }
  forward(STATE);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::forward(int width) {
  const double start = MPI_Wtime();
  forwarded_width = width;
  comm->forward_comm(this, width);
  forward_seconds += MPI_Wtime() - start;
}

/* ---------------------------------------------------------------------- */

int FixPythonTrajcast::pack_forward_comm(int n, int *sent, double *buffer, int /*pbc_flag*/,
                                         int * /*pbc*/) {
  double *end = buffer;
  for (int k = 0; k < n; k++)
    end = std::copy_n(&forwarded[forwarded_width * sent[k]], forwarded_width, end);
  return static_cast<int>(end - buffer);
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::unpack_forward_comm(int n, int first, double *buffer) {
  std::copy_n(buffer, forwarded_width * n, &forwarded[forwarded_width * first]);
}

/* ----------------------------------------------------------------------
   atoms were sorted anew: find out which atom, and which lattice shift, each neighbor is
------------------------------------------------------------------------- */

void FixPythonTrajcast::post_neighbor() {
  list_is_current = true;
  neighbors_are_hidden = hides_neighbors();
  const double start = MPI_Wtime() - forward_seconds;
  find_owners();
  list_remote_atoms();

  const int nlocal = atom->nlocal;
  if (reversible) {
    // LAMMPS holds them, too, but KOKKOS elsewhere.
    built_at.resize(3 * nlocal);
    for (int i = 0; i < nlocal; i++)
      std::copy_n(atom->x[i], 3, &built_at[3 * i]);
  }
  edges.clear(nlocal, static_cast<int>(candidate_ghost.size()));
  for (int i = 0; i < nlocal; i++) {
    edges.begin_receiver();
    for (int k = 0; k < list->numneigh[i]; k++) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      if (!may_become_edge(i, j))
        continue;
      const int ghost = j - nlocal;
      if (ghost < 0)
        edges.add_candidate(j, {0, 0, 0});
      else if (ghost_candidate[ghost] < 0)
        edges.add_candidate(owner_index[ghost], ghost_shift[ghost]);
      else
        edges.add_candidate(nlocal + ghost_candidate[ghost], ghost_shift[ghost]);
    }
  }
  if (finds_edges)
    hand_over_candidates();
  graph_seconds += MPI_Wtime() - forward_seconds - start;
}

/* ---------------------------------------------------------------------- */

void FixPythonTrajcast::hand_over_candidates() {
  const trajcast_neighbors all = edges.all_candidates();
  message.text[0] = '\0';
  const bool failed = bridge->candidates(model, &all, &message) != TRAJCAST_OK;
  fail_if_any(failed, message.text);
}

/* ----------------------------------------------------------------------
   a ghost atom is the image of an atom that its owner knows by another index
------------------------------------------------------------------------- */

void FixPythonTrajcast::find_owners() {
  const int nlocal = atom->nlocal;
  const int nghost = atom->nghost;
  forwarded.resize(OWNER * (nlocal + nghost));
  for (int i = 0; i < nlocal; i++) {
    forwarded[OWNER * i] = comm->me;
    forwarded[OWNER * i + 1] = i;
    forwarded[OWNER * i + 2] = num_systems > 1 ? static_cast<double>(atom->molecule[i]) : 0.0;
  }
  forward(OWNER);
  owner_rank.resize(nghost);
  owner_index.resize(nghost);
  owner_molecule.resize(nghost);
  for (int g = 0; g < nghost; g++) {
    owner_rank[g] = static_cast<int>(forwarded[OWNER * (nlocal + g)]);
    owner_index[g] = static_cast<int>(forwarded[OWNER * (nlocal + g) + 1]);
    owner_molecule[g] = static_cast<tagint>(forwarded[OWNER * (nlocal + g) + 2]);
  }

  share_states();
  const trajcast::Cell box = cell();
  ghost_shift.resize(nghost);
  for (int g = 0; g < nghost; g++) {
    const double *image = atom->x[nlocal + g];
    const double *owner = &forwarded[STATE * (nlocal + g)];
    const double lattice[3] = {image[0] - owner[0], image[1] - owner[1], image[2] - owner[2]};
    ghost_shift[g] = box.nearest(lattice);
  }
}

/* ----------------------------------------------------------------------
   number the distinct atoms of other ranks that the neighbor list refers to, and tell their owners
------------------------------------------------------------------------- */

void FixPythonTrajcast::list_remote_atoms() {
  ghost_candidate.assign(atom->nghost, -1);
  candidate_ranks.clear();
  candidate_indices.clear();
  candidate_ghost.clear();
  if (comm->nprocs == 1)
    return;

  const int nlocal = atom->nlocal;
  std::vector<int> seen; // ghosts of other ranks, each once
  for (int i = 0; i < nlocal; i++)
    for (int k = 0; k < list->numneigh[i]; k++) {
      const int j = list->firstneigh[i][k] & NEIGHMASK;
      const int ghost = j - nlocal;
      if (ghost < 0 || owner_rank[ghost] == comm->me || ghost_candidate[ghost] == 0 ||
          !may_become_edge(i, j))
        continue;
      ghost_candidate[ghost] = 0;
      seen.push_back(ghost);
    }
  std::sort(seen.begin(), seen.end(), [this](int a, int b) {
    return std::make_pair(owner_rank[a], owner_index[a]) <
           std::make_pair(owner_rank[b], owner_index[b]);
  });

  for (const int ghost : seen) {
    const bool known = !candidate_ghost.empty() && candidate_ranks.back() == owner_rank[ghost] &&
                       candidate_indices.back() == owner_index[ghost];
    if (!known) {
      candidate_ranks.push_back(owner_rank[ghost]);
      candidate_indices.push_back(owner_index[ghost]);
      candidate_ghost.push_back(ghost);
    }
    ghost_candidate[ghost] = static_cast<int>(candidate_ghost.size()) - 1;
  }

  state_bytes = 0;
  for (const int rank : owner_rank)
    if (rank != comm->me)
      state_bytes += STATE * sizeof(double);

  const trajcast_halo halo = {static_cast<int64_t>(candidate_ranks.size()), candidate_ranks.data(),
                              candidate_indices.data()};
  const double start = MPI_Wtime();
  if (bridge->plan(model, &halo, &message) != TRAJCAST_OK)
    abort_all(message.text);
  forward_seconds += MPI_Wtime() - start;
}

/* ----------------------------------------------------------------------
   LAMMPS's list reaches as far as the longest cutoff of the pair style, which may be that of a
   reference potential; pairs that cannot come within the model's before the next rebuild are left
   out of the candidates once, and not looked at in each step
------------------------------------------------------------------------- */

bool FixPythonTrajcast::may_become_edge(int i, int j) const {
  const double limit = reach() + neighbor->skin;
  return neighbor_list_may_be_late() || !(distance_squared(atom->x[i], atom->x[j]) > limit * limit);
}
