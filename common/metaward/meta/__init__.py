"""Learners: one algorithm per file, all behind the same two methods."""
