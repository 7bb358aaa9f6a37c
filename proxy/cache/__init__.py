"""Answers that are given again: what makes two requests the same, and where answers wait."""
