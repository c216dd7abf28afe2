"""Luigi tasks that build stores: options, content keys, stages and summaries."""
