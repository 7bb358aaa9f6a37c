"""Pure decision maths: arithmetic in, probabilities out. No IO, no clock, no log."""
