"""All that touches ComfyUI's internals. Nodes are schema and execute, and call this."""
