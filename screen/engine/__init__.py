"""The screen: prepared, computed shard by shard, its noise measured. How a run lies on disk is in `runs`."""
