"""Choose among the rows of a run what is learnt from and what is left out, and add changed copies."""
