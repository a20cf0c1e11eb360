#%Module1.0
# An environment module; root is the virtual environment in which lammps-trajcast is installed.
set root /opt/lammps-trajcast

module-whatis "LAMMPS with fix python/trajcast: molecular dynamics without forces"
conflict lammps
prepend-path PATH $root/bin
setenv LAMMPS_POTENTIALS [glob $root/lib/python3*/site-packages/lammps/share/lammps/potentials]
