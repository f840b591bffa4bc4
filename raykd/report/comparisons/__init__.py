"""Reports of comparisons: arms x seeds, paired differences with intervals."""
