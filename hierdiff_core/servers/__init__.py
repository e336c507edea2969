"""Several ComfyUI servers draw the shards of one set: ``hierdiff shard``. Standard library alone."""
