"""Tests that stay valid while everybody is looking: the pure mathematics, without clocks, traffic or storage."""
