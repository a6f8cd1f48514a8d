"""The language-model side: site names, model loading, capture, activation shards."""
