"""Programs for those who work on raykd: what is made once and shipped, and how a machine is prepared."""
