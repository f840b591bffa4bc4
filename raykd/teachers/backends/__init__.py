"""Backends: the class that serves each kind of teacher."""
