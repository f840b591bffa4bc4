"""Any runs side by side: train runs, the best trial of sweeps, arms of comparisons."""
