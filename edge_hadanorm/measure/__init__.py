"""What is measured and shown of a model: quality, sizes, dry run, inspection, report."""
