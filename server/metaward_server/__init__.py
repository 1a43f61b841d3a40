"""What the coordinator runs: strategy, admission, outer optimisers, checkpoints, the ServerApp."""
