"""What tests share: random tensors, tiny members of every family, tiny pipelines, mutations."""
