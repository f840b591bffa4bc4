"""Match what teachers answer with the student: vocabularies, and states of encoders."""
