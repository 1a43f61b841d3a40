"""Many hospitals in one place: synthetic cohorts, importers, grids, baselines, `simulate`."""
