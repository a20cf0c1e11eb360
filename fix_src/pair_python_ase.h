/* -*- c++ -*- SPDX-License-Identifier: GPL-2.0-or-later */

#ifndef LMP_PAIR_PYTHON_ASE_H
#define LMP_PAIR_PYTHON_ASE_H

#include "pair.h"

#include "python_host.h"

#include <cstdint>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// Energy, forces and virial of an ASE calculator. Rank 0 holds the calculator and gets all atoms;
// the other ranks sleep until it has finished.
class PairPythonASE : public Pair {
public:
  PairPythonASE(class LAMMPS *);
  ~PairPythonASE() override;

  // In the order in which LAMMPS calls them: before a run, ...
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;

  // ... and in every step of it.
  void compute(int, int) override;

  double memory_usage() override;

private:
  // An atom as it goes to rank 0.
  struct Row {
    int64_t id;
    int64_t type;
    double position[3]; // from the origin of the box
  };

  void check_system();
  void check_calculator();
  void check_exclusions();
  std::vector<std::string> script_directories() const;
  void open_calculator();
  void close_calculator();
  void allocate();

  void gather();
  bool takes_part(int atom) const;
  bool calculate();
  bool virial_is_needed() const;
  bool missing_virial_was_used() const;
  void scatter();

  bool failed_on_rank_0(bool failed);
  void share_failure(bool failed);
  [[noreturn]] void fail(const std::string &);

  // What the input script says.
  std::vector<std::string> words;    // MODULE:CALLABLE key value ...
  std::vector<std::string> elements; // of atom types 1, 2, ...; "NULL" for those of other styles
  std::vector<int32_t> numbers;      // atomic numbers of atom types 1, 2, ...; 0 for "NULL"

  double energy_in_units = 1.0; // one eV in the units of the run
  int left_out = 0;             // groups whose atoms 'neigh_modify exclude' takes out of the system

  const trajcast_calculator_functions *bridge = nullptr; // on rank 0
  int64_t calculator = 0;                                // on rank 0; 0: none
  std::vector<char> message_text;
  trajcast_message message;

  std::vector<Row> mine;       // own atoms that take part
  std::vector<int> local;      // their places among the atoms of this rank
  int width = 3;               // of the rows of results
  std::vector<double> results; // (own atoms that take part, width): force, energy, virial

  bigint missing_virial = -1; // on rank 0: the last step, if the calculator had no stress in it

  // On rank 0: of all atoms.
  std::vector<int> counts, firsts; // of each rank's atoms
  std::vector<Row> rows;           // by rank
  std::vector<int> order;          // of rows by ID
  std::vector<int64_t> ids;        // what follows is in the order of IDs
  std::vector<int32_t> species;
  std::vector<double> positions, forces, energies, virials;
  std::vector<double> all_results; // by rank
};

} // namespace LAMMPS_NS

#endif
