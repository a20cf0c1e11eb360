/* -*- c++ -*- SPDX-License-Identifier: GPL-2.0-or-later */

#ifndef LMP_FIX_PYTHON_TRAJCAST_H
#define LMP_FIX_PYTHON_TRAJCAST_H

#include "fix.h"

#include "constant_energy.h"
#include "edge_list.h"
#include "fallback.h"
#include "guard.h"
#include "python_host.h"
#include "reference_potential.h"
#include "snapshot.h"
#include "threads.h"

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// Time integration by a TrajCast network: it predicts x(t + dt) and v(t + dt) from x(t) and v(t),
// and no force of a pair style takes part. Forces that fixes defined later add act on v as an
// impulse.
class FixPythonTrajcast : public Fix {
public:
  FixPythonTrajcast(class LAMMPS *, int, char **);
  ~FixPythonTrajcast() override;

  // In the order in which LAMMPS calls them: before a run, ...
  int setmask() override;
  void init() override;
  void init_list(int, class NeighList *) override;
  void setup_post_neighbor() override;
  void setup_pre_force(int) override;
  void setup_pre_reverse(int, int) override;
  void setup(int) override;

  // ... and in every step of it.
  void initial_integrate(int) override;
  void post_neighbor() override;
  void pre_force(int) override;
  void pre_reverse(int, int) override;
  void post_force(int) override;
  void final_integrate() override;
  void post_run() override;

  void reset_dt() override;
  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;

  void write_restart(FILE *) override;
  void restart(char *) override;
  void grow_arrays(int) override;
  void copy_arrays(int, int, int) override;
  int pack_exchange(int, double *) override;
  int unpack_exchange(int, double *) override;

  double compute_scalar() override;
  double compute_vector(int) override;
  double memory_usage() override;

private:
  // fix_python_trajcast.cpp: the hooks, in the order of a step
  void add_impulse();
  void predict(bool judge);
  void check_prediction(const trajcast_frame &, bool judge, double *sums);
  void take_checks(bool judge, double *sums);
  void fetch_rows();
  int64_t first_broken_atom() const;
  void sum_over_ranks(double *values, int count);
  void conserve_momentum();
  void move_atoms();
  bool is_moved(int atom) const;
  double mass_of(int atom) const;
  trajcast::Cell cell() const;

  // fix_python_trajcast_settings.cpp: what the input script and the model say
  void parse(int, char **);
  void open_model();
  void tell_threads(const trajcast::NodeLayout &place);
  void check_agreement(const trajcast_model_info &);

  // fix_python_trajcast_checks.cpp: what the fix asks of an input script
  void prepare_run();
  void check_start();
  bool has_unfit_atoms() const;
  void explain_unfit_atoms();
  void check_accelerators();
  void check_timestep();
  bool has_wrong_mass(int atom) const;
  void check_masses();
  void count_molecules();
  void find_references();
  void check_neighbor_cutoff();
  void check_exclusions();
  void check_special_bonds();
  bool leaves_out_bonded_atoms() const;
  bool hides_neighbors() const;
  void check_order_of_integrators();
  void list_exclusive_fixes();
  void check_groups();
  static bool is_thermostat(const Fix *);
  static std::string conserve_problem(const Fix *);
  void check_nothing_changes_energy();
  void check_nobody_needs_energy();
  void check_no_streaming();
  void check_reversible();
  void warn_about_neighbor_settings();
  bool neighbor_list_may_be_late() const;
  void warn_about_forces();
  void warn_about_frozen_atoms();
  void warn_about_temperatures();
  bool shares_atoms(const Fix *) const;
  bool shares_atoms_anywhere(const Fix *) const;

  // fix_python_trajcast_graph.cpp: atoms and neighbors, those of other ranks included
  static constexpr int OWNER = 3; // width of what ghost atoms get: owner's rank, index, molecule
  static constexpr int STATE = 6; // position and velocity
  void find_owners();
  void list_remote_atoms();
  bool may_become_edge(int i, int j) const;
  void gather_frame(double within);
  void gather_step();
  void gather_positions();
  void find_edges(double within);
  void gather_nodes(bool all_candidates);
  void find_systems();
  trajcast_frame frame_of_model() const;
  trajcast_frame frame_of_step(bool judge) const;
  void hand_over_candidates();
  void share_states();
  void forward(int width);

  // fix_python_trajcast_energy.cpp: energies on demand
  bool others_evaluate() const;
  void switch_potentials(bool on);
  bool evaluates_energy() const;
  double reach() const;
  void check_energy();
  void check_pair_energy();
  bool energy_is_the_models() const;
  void evaluate_energy(bool with_virials);
  double own_energy();
  double extra_energy();

  // fix_python_trajcast_reversible.cpp
  void move_reversibly();
  void reverse_velocities();
  bool predict_again();
  void restore_momentum();
  bool reaches_within_skin();
  void set_defect(const std::vector<double> &start);
  void rebuild_before_it_is_late();
  void warn_of_plain_step();

  // fix_python_trajcast_guard.cpp: predictions that are not to be trusted
  int parse_guard(int, char **, int);
  int parse_limits(int, char **, int);
  void set_limits(const trajcast_model_info &, const trajcast::Limits &);
  void find_worst(double *sums);
  void remember_velocities();
  std::string violation();
  std::string describe(const trajcast::Violation &) const;
  void respond(const std::string &violation);
  void stop_run(const std::string &violation);
  void find_fallback();
  void warn_now_and_then(const std::string &violation);

  // fix_python_trajcast_errors.cpp
  std::string from_rank(int, const std::string &);
  [[noreturn]] void fail(const std::string &);
  [[noreturn]] void abort_all(const std::string &);
  void fail_if_any(bool, const std::string &);

  // What the input script says.
  std::string model_path;
  std::vector<std::string> elements; // of atom types 1, 2, ...
  std::string device = "auto";
  std::string precision = "model";
  std::string kernels = "fused";
  int threads = 0;        // 0: decide in open_model()
  bool any_model = false; // whether to continue the restart file of another model
  enum class Response { STOP, ERROR, WARN, FALLBACK, OFF } response = Response::STOP;
  trajcast::LimitSettings limit_settings;
  bool factors_given = false;

  std::vector<trajcast::ReferencePotential> references;
  bool conserve_energy = false;
  bool reversible = false;

  // What the model says.
  double model_timestep; // fs
  double cutoff;
  std::vector<double> model_masses; // of atom types 1, 2, ...
  std::string fingerprint;
  bool finds_edges = false; // itself, on its device

  const trajcast_functions *bridge = nullptr;
  int64_t model = 0;
  std::vector<char> message_text;
  trajcast_message message;

  std::unique_ptr<trajcast::ConstantEnergy> constant_energy; // of 'conserve yes'

  // The potential energy of the model, see trajcast_potential.
  bool has_energy = false;
  // Of which each keeps its momenta; molecules of a model of isolated ones, by their IDs, some of
  // which may have no atom.
  int64_t num_systems = 1;
  bigint num_molecules = 1;
  tagint only_molecule = -1;    // the ID of all atoms; -1: there are others, or none
  std::vector<int64_t> systems; // see trajcast_frame
  std::string meeting; // two that are within the cutoff of each other, as an error; or empty
  bool stops_rotation = false; // the model leaves no angular momentum
  bool keeps_rotation = false; // the model conserves the angular momentum
  double energy_cutoff = 0.0;
  double energy_of_atoms = 0.0; // of all ranks
  bool energy_is_known = false; // for the positions as they are
  bool rerun_has_list = false;  // this rerun has asked for a neighbor list
  std::vector<double> atom_energies, atom_virials;
  bool others_use_forces = false;   // another fix integrates some atoms
  bigint reference_evaluations = 0; // since the fix was defined

  // Whether the pair style is next evaluated for the forces of the step, and not for somebody who
  // wants to know the energy.
  bool forces_are_due = false;

  // Fixes that must not share atoms with this one, and their groups.
  struct Exclusive {
    const Fix *fix;
    std::string problem; // the error if they do
  };
  std::vector<Exclusive> exclusive_fixes;
  int exclusive_bits = 0;
  int watched_bits = 0;              // groups without atoms that the neighbor list leaves out
  bool neighbors_are_hidden = false; // on this rank, since the neighbor list was built

  double impulse_per_force; // half a time step, in units that make velocity of force over mass
  class NeighList *list = nullptr;
  bool moves_atoms = false;     // whether this is a run, which a rerun is not
  bool list_is_current = false; // no command has called init() since the neighbor list was built
  trajcast::EdgeList edges;

  // What ghost atoms get from their owners: one row for each local and ghost atom.
  std::vector<double> forwarded;
  int forwarded_width = 0;

  // Of ghost atoms, since the last neighbor list: owner, and lattice shift from there.
  std::vector<int> owner_rank, owner_index;
  std::vector<tagint> owner_molecule;
  std::vector<std::array<int, 3>> ghost_shift;
  std::vector<int> ghost_candidate; // place in the arrays below; -1: an own atom, or not seen

  // See trajcast_halo.
  std::vector<int32_t> candidate_ranks;
  std::vector<int64_t> candidate_indices;
  std::vector<int> candidate_ghost; // one of the ghost atoms that it has here, from 0

  // Arrays for the bridge, see trajcast_frame and trajcast_prediction.
  std::vector<int32_t> types;
  std::vector<double> node_positions; // (own atoms and candidates, 3) wrapped
  std::vector<double> unwrapped, velocities, masses;
  std::vector<double> rows, momenta; // see trajcast_prediction
  std::vector<double> all_sums;      // of a step, which the ranks add up

  // Of the last step, on this rank: see compute_vector().
  int64_t num_edges = 0, num_remote = 0;
  double graph_seconds = 0.0;
  double forward_seconds = 0.0;   // rows to ghost atoms, and the plan of the exchange
  int64_t state_bytes = 0;        // states of other ranks' atoms that come in each step
  double reduction_seconds = 0.0; // sums over all ranks
  trajcast_prediction last = {};

  // Of the last prediction, over all ranks.
  struct Outcome {
    bool unfit = false;       // there are atoms that must not be advanced, see has_unfit_atoms()
    bool moves_all = true;    // the fix moves all atoms
    bool broken = false;      // the prediction for some atom is not a number
    int64_t broken_atom = -1; // the first of this rank; -1: none
  } outcome;

  // Of reversible steps.
  std::vector<double> built_at; // x of each own atom when the neighbor list was built
  std::vector<double>
      first_rows;             // the first of the three predictions of a step, momentum conserved
  double longest_step = 0.0;  // the longest displacement in it, of all ranks
  double defect = 0.0;        // see set_defect()
  bigint num_plain_steps = 0; // that could not be made reversible, in all runs

  std::unique_ptr<trajcast::Guard> guard; // none: predictions are not compared with limits
  trajcast::GuardSums guard_sums;         // of the last prediction, over all ranks
  std::vector<char> moved;                // (nodes,) whether this fix moves the atom
  std::unique_ptr<trajcast::Fallback> fallback;
  bigint num_fallbacks = 0;  // steps that the small ones have taken over, in all runs
  bigint num_violations = 0; // predictions that a guard found wrong, in all runs

  // For a run that stops: velocities before this step, and the state before it.
  std::vector<double> velocities_before;
  trajcast::Snapshot snapshot;
};

} // namespace LAMMPS_NS

#endif
