"""`lammps-trajcast validate`: a model beside the reference it was learned from, both in LAMMPS."""
