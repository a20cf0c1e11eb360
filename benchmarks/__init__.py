"""What the speed of lammps-trajcast is measured with: `python -m benchmarks --help`.

`rows.py` holds the targets and how each is measured, `report.py` turns the numbers into a table,
plots and the tables of docs/benchmarks.md. Nothing here is installed.
"""
