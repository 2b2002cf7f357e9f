"""Rollouts that a trainer already wrote: read, matched to the problems, and stored as if sampled."""
