"""The language-model side: models, sites, capture, corpora, contexts, activation shards."""
