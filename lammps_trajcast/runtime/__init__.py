"""What runs inside LAMMPS: the bridge to the fix, the predictor and the exchange of features."""
