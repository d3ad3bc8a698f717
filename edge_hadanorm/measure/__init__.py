"""Measuring and showing a model: quality, sizes, dry run, inspection, report."""
